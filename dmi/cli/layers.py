"""In which layer of a process memory is held, used, and retained.

Custom libraries (dmi's heaps, Python's own pools), the language runtime (glibc's malloc, each
arena), the heap of the system under it, virtual memory, physical memory: of a process that runs on,
or of a core file. Without --pid and FILE it is this command itself.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from dmi.cli._fold import say
from dmi.cli._numbers import whole_pid
from dmi.cli._source import add_live, refuse_live

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
    add_live(parser)
    parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")


def run(args: argparse.Namespace) -> None:
    """Print the layers."""
    from dmi.process import layers, open_source

    if args.file is not None and args.pid is not None:
        raise ValueError("either a FILE or --pid N, not both")
    if args.file is None and args.pid in (None, os.getpid()):
        refuse_live(args)
        found = layers(args.pid)
    else:
        with open_source(args.file, args.pid, swap_in=args.swap_in, stop=args.stop) as process:
            found = process.layers()
    if args.json:
        print(json.dumps(found.as_dict(), indent=2))
    else:
        say(found)
