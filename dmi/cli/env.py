"""Versions, paths and defaults: what a report about dmi should say."""

from __future__ import annotations

import json
import mmap
import platform
import sys
from typing import TYPE_CHECKING

import dmi
from dmi import _core

if TYPE_CHECKING:
    import argparse

NAME = "env"
HELP = "show versions, paths and defaults"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def facts() -> dict[str, str | int]:
    """What the command prints, by name."""
    with dmi.Heap() as heap:
        default = heap.decommit
    return {
        "dmi": dmi.__version__,
        "library": dmi.get_library_path(),
        "library version": _core.version(),
        "include": dmi.get_include(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "page size": mmap.PAGESIZE,
        "decommit": str(default),
        "how": default.how,
    }


def run(args: argparse.Namespace) -> None:
    """Print the facts."""
    found = facts()
    if args.json:
        print(json.dumps(found, indent=2))
        return
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:{width}}  {value}")
