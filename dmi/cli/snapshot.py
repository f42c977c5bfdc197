"""Keep a moment of a running process, or of a core file, as a snapshot.

    dmi snapshot --pid 4711 before.json        and again at the peak, and after it
    dmi doctor before.json peak.json after.json
    dmi snapshot CORE -o moment.json           of a core file

Heaps of every kind that is known (dmi's, glibc's arenas, pymalloc's), memory by usage, the address
space, and which run of which process it is. The process goes on meanwhile and needs no preparation.
Its memory may be read by whoever may debug it. `dmi run --snapshot` takes snapshots from within,
with more of dmi's own heaps.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dmi.cli._source import add_live

if TYPE_CHECKING:
    import argparse

NAME = "snapshot"
HELP = "keep a moment of a process for the doctor"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.usage = (
        "dmi snapshot (--pid N | CORE) (-o FILE | --json) [--label TEXT] [--swap-in] [--stop]"
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--pid", type=int, metavar="N", help="a running process")
    source.add_argument("--core", metavar="FILE", help="a core file")
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="a core file; beside --pid or --core where it is written to",
    )
    parser.add_argument("-o", "--output", metavar="FILE", help="where it is written to")
    add_live(parser)
    parser.add_argument("--label", default="", help="a title for the moment")
    parser.add_argument("--json", action="store_true", help="print JSON instead of writing a file")


def run(args: argparse.Namespace) -> int:
    """Take it, and write it."""
    from dmi._files import check_target
    from dmi._names import escaped
    from dmi.process import open_source

    core, output = _places(args)
    if output:
        check_target(output)
    with open_source(core, args.pid, swap_in=args.swap_in, stop=args.stop) as source:
        taken = source.snapshot(args.label)
        notes = source.notes
    if args.json:
        print(json.dumps({**taken.as_dict(), "notes": list(notes)}, indent=2))
        return 0
    taken.save(output)
    held = ", ".join(str(each["name"]) for each in taken.outside) or "no heaps"
    print(f"{output}: {escaped(taken.program)} ({taken.pid}), {escaped(held)}")
    for note in notes:
        print(f"  {escaped(note)}")
    return 0


def _places(args: argparse.Namespace) -> tuple[str | None, str]:
    """The core file, if it is one that is looked at, and where the snapshot is written to."""
    words = [word for word in (args.file,) if word is not None]
    core = args.core
    if core is None and args.pid is None:
        if not words:
            raise ValueError("name a process with --pid N, or a core FILE")
        core = words.pop()
    words += [args.output] if args.output is not None else []
    if len(words) > 1:
        raise ValueError(f"one file to write to, not two: {words[0]} and {words[1]}")
    if bool(words) == args.json:
        raise ValueError("name a file to write to with -o FILE, or --json to print it")
    return core, words[0] if words else ""
