"""Which code holds the memory: the lines behind what stays, what is busy, what grew.

FILE is a profile, as `dmi run --profile FILE` writes it, or a snapshot that carries one. Of two,
what was gained from the first to the second.

    pinned     free bytes on pages that only these busy blocks keep from going back
    retained   committed and in no busy block, whatever keeps it
    busy       bytes in busy blocks
    allocated  bytes allocated since the sampler began, freed ones too
    grew       what busy gained between two moments

Figures are estimates from pages that were chosen at random; each has its 95 % interval beside it,
and a name is said from 50 samples on, or where it is known as well without. By line a stack counts
for its innermost frame that is the program's own: not the allocator's, the C library's, the
interpreter's, its standard library's or an installed package's, unless there is no other. --by
stack shows them all.
"""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from dmi.cli._numbers import whole
from dmi.profile import FORMATS, MEASURES, blame, write
from dmi.profile._blame import BYS
from dmi.profile._table import TOP, rich_table, text
from dmi.profile._write import render

if TYPE_CHECKING:
    import argparse

    from dmi.profile import Blame
    from dmi.profile._measure import What

NAME = "blame"
HELP = "say which lines hold the memory of a profile"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("file", metavar="FILE", help="the profile, or a snapshot with one")
    parser.add_argument(
        "later", nargs="?", metavar="LATER", help="a later one: what was gained since FILE"
    )
    parser.add_argument("--by", choices=BYS, default="line", help="default: line")
    parser.add_argument("--what", choices=tuple(MEASURES), help="default: pinned; with LATER grew")
    parser.add_argument(
        "--top", type=whole, default=TOP, metavar="N", help=f"rows of the table (default: {TOP})"
    )
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="FUNCTION",
        help="a function that only asks for memory, as xmalloc does: its caller counts",
    )
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        help="; ".join(f"{name}: {words}" for name, words in FORMATS.items()),
    )
    parser.add_argument("--output", metavar="OUT", help="write --format to this file")
    parser.add_argument(
        "--across", action="store_true", help="compare two profiles of different processes"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> None:
    """Print or write."""
    what: What = args.what or ("pinned" if args.later is None else "grew")
    source = args.file if args.later is None else (args.file, args.later)
    options = {"by": args.by, "skip": args.skip, "across": args.across}
    if args.format is not None and args.json and args.format != "json":
        raise ValueError(f"either --json or --format {args.format}")
    if args.output is not None:
        if args.format is None:
            raise ValueError("--output needs --format")
        write(source, args.output, args.format, what, **options)
        return
    if args.format is not None and args.format != "json":
        data = render(source, args.format, what, **options)
        if args.format == "pprof" and sys.stdout.isatty():
            raise ValueError("pprof's format is no text: name a file with --output")
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        return
    found = blame(source, args.by, what, skip=args.skip, across=args.across)
    if args.json or args.format == "json":
        print(json.dumps(found.as_dict(), indent=2))
    else:
        show(found, args.top)


def show(found: Blame, top: int) -> None:
    """The table: drawn for a terminal where rich is there, else as text."""
    if not sys.stdout.isatty():
        print(text(found, top))
        return
    try:
        from rich.console import Console
    except ImportError:
        print(text(found, top))
        return
    console = Console(highlight=False)
    console.print(found.sentence, markup=False)
    console.print(rich_table(found, top))
