"""In which layer of a process memory is held, used, and retained.

Custom libraries (dmi's heaps, Python's own pools), the language runtime (glibc's malloc), the heap
of the system under it, virtual memory, physical memory. Without --pid it is this command itself;
of another process dmi and malloc tell what they hold, not what they use.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dmi._layers import layers

if TYPE_CHECKING:
    import argparse

NAME = "layers"
HELP = "show in which layer of a process memory is held"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--pid", type=int, metavar="N", help="the process (default: this one)")
    parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")


def run(args: argparse.Namespace) -> None:
    """Print the layers."""
    found = layers(args.pid)
    print(json.dumps(found.as_dict(), indent=2) if args.json else found)
