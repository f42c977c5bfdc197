"""In which layer of a process memory is held, used, and retained.

Custom libraries (dmi's heaps, Python's own pools), the language runtime (glibc's malloc, each
arena), the heap of the system under it, virtual memory, physical memory: of a process that runs on,
or of a core file. Without --pid and FILE it is this command itself.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dmi.cli._fold import say
from dmi.cli._numbers import whole_pid

if TYPE_CHECKING:
    import argparse

NAME = "layers"
HELP = "show in which layer of a process memory is held"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("file", nargs="?", metavar="FILE", help="a core file")
    parser.add_argument(
        "--pid", type=whole_pid, metavar="N", help="the process (default: this one)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")


def run(args: argparse.Namespace) -> None:
    """Print the layers."""
    from dmi.process import layers, open_core

    if args.file is not None:
        if args.pid is not None:
            raise ValueError("either a FILE or --pid N, not both")
        with open_core(args.file) as process:
            found = process.layers()
    else:
        found = layers(args.pid)
    if args.json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        say(found)
