"""The address space of a process, as `!address` shows it: by usage, by type, by state.

Without --pid and FILE, which is a core file, it is that of this command itself. Sizes are bytes in
hexadecimal and KB, and bytes in JSON. Who owns a range is told from names and, where the kernel
gives none, from what stands in the memory; reading another process needs the rights of a debugger.

MEM_COMMIT is what the kernel charges. A segment of dmi that gives back by discard stays charged as
a whole; what its heap counts as committed is told by dmi layers and dmi heap.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from dmi._names import escaped
from dmi.address import address_summary
from dmi.cli._fold import say
from dmi.cli._numbers import whole_pid
from dmi.cli._source import add_live, refuse_live
from dmi.windbg import format_address_summary

if TYPE_CHECKING:
    import argparse

    from dmi.address import AddressSummary, Region

NAME = "address"
HELP = "show what the address space of a process is used for"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "--summary",
        "-summary",
        action="store_true",
        help="print the three tables instead of the list of regions",
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="a core file")
    parser.add_argument(
        "--pid", type=whole_pid, metavar="N", help="the process (default: this one)"
    )
    parser.add_argument(
        "--style",
        choices=("old", "new"),
        default="old",
        help="layout of the tables: old (default), or new with region counts and protections",
    )
    add_live(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the summary, or the regions."""
    if args.file is not None and args.pid is not None:
        raise ValueError("either a FILE or --pid N, not both")
    notes: tuple[str, ...] = ()
    if args.file is None and (sys.platform == "win32" or args.pid in (None, os.getpid())):
        refuse_live(args)
        summary = address_summary(args.pid)
    else:
        from dmi.process import open_source

        with open_source(args.file, args.pid, swap_in=args.swap_in, stop=args.stop) as process:
            summary = process.address_summary()
            process.resume()
            notes = process.notes
    notes = (*summary.notes, *notes)
    if args.json:
        values = {**summary.as_dict(), "notes": list(notes)}
        if not args.summary:
            values["regions"] = [_region(region) for region in summary.regions]
        print(json.dumps(values, indent=2))
    elif args.summary:
        say(format_address_summary(summary, args.style), end="")
        for note in notes:
            say(f"\nNote: {escaped(note)}.")
    else:
        say("\n".join([*_list(summary), *(f"({escaped(note)})" for note in notes)]))
    return 0


def _region(region: Region) -> dict[str, Any]:
    return {
        "start": region.start,
        "size": region.size,
        "usage": region.usage,
        "type": region.type,
        "state": region.state,
        "committed": region.committed,
        "protect": region.protect,
        "resident": region.resident,
        "name": region.name,
    }


def _list(summary: AddressSummary) -> list[str]:
    row = "{:>16} {:>16} {:>16}  {:<11} {:<11} {:<22} {}"
    lines = [
        row.format("BaseAddress", "EndAddress", "RegionSize", "Type", "State", "Protect", "Usage")
    ]
    for region in summary.regions:
        name = f" {escaped(region.name)}" if region.name else ""
        lines.append(
            row.format(
                f"{region.start:x}", f"{region.end:x}", f"{region.size:x}", region.type,
                region.state, region.protect, region.usage + name,
            )
        )  # fmt: skip
    return lines
