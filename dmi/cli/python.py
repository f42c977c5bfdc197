"""Python's own objects on dmi, in every program of a virtual environment.

enable writes a start-up file into this environment, disable takes it away, status (the default)
shows how things stand. The system's own Python is never touched. DMI_PYTHON=0 in a program's
environment leaves that run as it would be without, and so does a PYTHONMALLOC that names an
allocator (malloc, pymalloc, mimalloc), unless DMI_PYTHON=1 asks for dmi all the same; beneath the
debug hooks of PYTHONMALLOC=debug dmi is at work. For one program: `python -m dmi.python SCRIPT`, or
dmi.python.install() in it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

NAME = "python"
HELP = "let this environment's programs start with their objects on dmi"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "action", nargs="?", default="status", choices=("enable", "disable", "status")
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Do it and say how things stand."""
    from dmi.python import startup

    does = {"enable": startup.enable, "disable": startup.disable, "status": startup.status}
    found = does[args.action]()
    if args.json:
        values = {
            "environment": str(found.environment),
            "file": str(found.file),
            "enabled": found.enabled,
            "asked_for": found.asked_for,
        }
        print(json.dumps(values, indent=2))
    else:
        print(found)
