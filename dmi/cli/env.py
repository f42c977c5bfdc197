"""Versions, paths and defaults: what a report about dmi should say."""

from __future__ import annotations

import json
import mmap
import platform
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dmi
from dmi import _inspect

if TYPE_CHECKING:
    import argparse

NAME = "env"
HELP = "show versions, paths and defaults"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--json", action="store_true", help="print JSON")
    which.add_argument(
        "--flags", action="store_true", help="print what a compiler and a linker need"
    )


def facts() -> dict[str, str | int]:
    """What the command prints, by name."""
    with dmi.Heap() as heap:
        default = heap.decommit
    return {
        "dmi": dmi.__version__,
        "library": dmi.get_library_path(),
        "preload": dmi.get_preload_path(),
        "library version": _inspect.version(),
        "include": dmi.get_include(),
        "examples": dmi.get_examples(),
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": platform.platform(),
        "page size": mmap.PAGESIZE,
        "decommit": str(default),
        "how": default.how if default.how != "default" else f"default ({system_how()})",
    }


def system_how() -> str:
    """What how=default means here: a system that does not overcommit wants its charge back."""
    try:
        strict = Path("/proc/sys/vm/overcommit_memory").read_text().strip() == "2"
    except OSError:
        strict = sys.platform == "win32"
    return "decommit" if strict else "discard"


def run(args: argparse.Namespace) -> None:
    """Print the facts."""
    if args.flags:
        folder = dmi.get_library_dirs()[0]
        words = [f"-I{dmi.get_include()}", f"-L{folder}", "-ldmi", f"-Wl,-rpath,{folder}"]
        print(shlex.join(words))
        return
    found = facts()
    if args.json:
        print(json.dumps(found, indent=2))
        return
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:{width}}  {value}")
