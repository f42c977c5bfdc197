"""Keep a moment of a running process, or of a core file, as a snapshot.

    dmi snapshot --pid 4711 before.json        and again at the peak, and after it
    dmi doctor before.json peak.json after.json

Heaps of every kind that is known (dmi's, glibc's arenas, pymalloc's), memory by usage, the address
space, and which run of which process it is. The process goes on meanwhile and needs no preparation.
Its memory may be read by whoever may debug it. `dmi run --snapshot` takes snapshots from within,
with more of dmi's own heaps.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

NAME = "snapshot"
HELP = "keep a moment of a process for the doctor"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--pid", type=int, metavar="N", help="a running process")
    source.add_argument("--core", metavar="FILE", help="a core file")
    parser.add_argument("file", nargs="?", metavar="FILE", help="where it is written to")
    parser.add_argument("--label", default="", help="a title for the moment")
    parser.add_argument("--json", action="store_true", help="print JSON instead of writing a file")


def run(args: argparse.Namespace) -> int:
    """Take it, and write it."""
    from dmi.process import open_source

    if (args.file is None) == (not args.json):
        raise ValueError("name a FILE to write to, or --json to print it")
    with open_source(args.core, args.pid) as source:
        taken = source.snapshot(args.label)
        notes = source.notes
    if args.json:
        print(json.dumps({**taken.as_dict(), "notes": list(notes)}, indent=2))
        return 0
    taken.save(args.file)
    held = ", ".join(str(each["name"]) for each in taken.outside) or "no heaps"
    print(f"{args.file}: {taken.program} ({taken.pid}), {held}")
    for note in notes:
        print(f"  {note}")
    return 0
