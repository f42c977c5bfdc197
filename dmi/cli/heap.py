"""`!heap` on a snapshot, on any process, or on a core file, with the debugger's options.

FILE is what dmi.snapshot().save(FILE) wrote, where -flt, -x and -h need one with blocks=True; or a
core file. A process (--pid N) runs on while it is read. Heaps of other allocators stand beside
dmi's with their kind; what is not known is "-". Numbers are hexadecimal, as in the debugger, and
decimal behind 0n: -flt s 0n4096 is -flt s 1000.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from dmi import windbg
from dmi.cli._fold import say
from dmi.cli._numbers import whole_pid
from dmi.cli._source import add_live

if TYPE_CHECKING:
    import argparse

    from dmi import Snapshot
    from dmi.process import Process

NAME = "heap"
HELP = "show the heaps, blocks and sizes of a snapshot, a process or a core file, as !heap does"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.usage = (
        "dmi heap FILE LATER -stat [HANDLE] [--json]\n"
        "       dmi heap (FILE | --pid N) [-s | -v | -h [HANDLE] | -stat [HANDLE] | "
        "-flt s SIZE | -flt r LOW HIGH | -x ADDRESS] [--swap-in] [--stop] "
        "[--json]\n       dmi heap --columns [--json]"
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="the snapshot or core file")
    parser.add_argument(
        "later", nargs="?", metavar="LATER", help="a later snapshot: which sizes grew"
    )
    parser.add_argument("--pid", type=whole_pid, metavar="N", help="the process")
    add_live(parser)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("-s", action="store_true", help="a row for each heap (default)")
    which.add_argument("-v", action="store_true", help="the rows, then each heap's figures")
    which.add_argument(
        "-h", nargs="?", const="0", metavar="HANDLE", help="segments and blocks of all heaps or one"
    )
    which.add_argument("-stat", nargs="?", const="0", metavar="HANDLE", help="busy blocks by size")
    which.add_argument(
        "-flt", nargs="+", metavar="WORD", help="s SIZE, r LOW HIGH: blocks of these sizes"
    )
    which.add_argument("-x", metavar="ADDRESS", help="the block that holds the address")
    which.add_argument(
        "--columns", action="store_true", help="explain each column with its formula"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")


_FLT_WORDS = {"s": 2, "r": 3}


def take_file(args: argparse.Namespace) -> None:
    """FILE may also stand last, where -h, -stat and -flt took it for a word of their own."""
    if args.file is not None:
        return
    for name in ("h", "stat"):
        if getattr(args, name) not in (None, "0"):
            args.file = getattr(args, name)
            setattr(args, name, "0")
            return
    if args.flt and len(args.flt) > _FLT_WORDS.get(args.flt[0], len(args.flt)):
        *args.flt, args.file = args.flt


def command(args: argparse.Namespace) -> list[str]:
    """The option of !heap with its numbers."""
    if args.v:
        return ["-v"]
    for name in ("h", "stat", "x"):
        if (value := getattr(args, name)) is not None:
            return [f"-{name}", value]
    if args.flt is not None:
        return ["-flt", *args.flt]
    return ["-s"]


def run(args: argparse.Namespace) -> None:
    """Answer."""
    if args.columns:
        print(json.dumps(windbg.COLUMNS, indent=2) if args.json else windbg.columns(), end="")
        return
    if args.pid is None:
        take_file(args)
    elif args.file is not None:
        raise ValueError("either a FILE or --pid N, not both")
    if args.pid is None and args.file is None:
        raise ValueError(
            "which heaps? Name the FILE that dmi.snapshot().save(FILE) wrote, or a core file, "
            "or a process with --pid N"
        )
    from dmi import Snapshot  # loads what reads /proc, which --columns can do without
    from dmi import process as processes

    if args.pid is not None or processes.is_source(args.file) or args.stop or args.swap_in:
        with processes.open_source(
            args.file, args.pid, swap_in=args.swap_in, stop=args.stop
        ) as process:
            show(process, args)
        return

    snapshot = Snapshot.load(args.file)
    if args.later is not None:
        if args.stat is None:
            raise ValueError("two snapshots are compared by -stat: dmi heap FILE LATER -stat")
        show_grown(snapshot, Snapshot.load(args.later), args)
        return
    if args.json:
        print(json.dumps(windbg.heap_data(snapshot, command(args)), indent=2))
    else:
        say(windbg.heap(snapshot, command(args)), end="")


def show_grown(before: Snapshot, after: Snapshot, args: argparse.Namespace) -> None:
    """Which sizes grew; and which threads' blocks in flight and which lines, where both moments
    know them."""
    found = windbg.grown(before, after, args.stat)
    lines = None
    if before.profile is not None and after.profile is not None:
        from dmi.profile import blame

        lines = blame((before, after), "line", "grew", across=True)
    if args.json:
        whole = {"heaps": found, "lines": None if lines is None else lines.as_dict()}
        print(json.dumps(whole, indent=2))
        return
    print(windbg.grown_text(found), end="")
    if lines is not None:
        print(f"\n{lines}")


def show(process: Process, args: argparse.Namespace) -> None:
    """Answer for a process or a core file, blocks line by line: there may be many."""
    from dmi.process import text

    if args.json:
        print(json.dumps(text.heap_data(process, command(args)), indent=2))
        return
    lines = text.heap(process, command(args))
    if command(args)[0] in ("-s", "-v"):
        say("\n".join(lines))
        return
    for line in lines:
        print(line)
