"""Which kind of leak is it? The verdict on two or more moments of a program.

FILES, in the order of time: WinDbg logs with `!heap -s` tables and `!address -summary` outputs (one
log may hold several moments), JSON snapshots, or the JSON of one `dmi replay`. A verdict is one of

    first-order leak    busy grew and stayed: the program does not free
    second-order leak   busy came back, commit did not: the heap does not give back
    growth              busy still rises, or only two moments are known
    none                neither

with bytes, per cent, causes, and what to do.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dmi import _files
from dmi.diagnose import from_files, from_replay

if TYPE_CHECKING:
    import argparse

NAME = "doctor"
HELP = "say which kind of leak logs and snapshots show"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="log or snapshot, oldest first")
    parser.add_argument(
        "--page-size",
        type=int,
        default=4096,
        metavar="BYTES",
        help="page size of the machine the numbers come from (default: 4096)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the verdict, one for each policy of a replay."""
    replay = _replay(args.files)
    if replay is None:
        verdict = from_files(args.files, page_size=args.page_size)
        print(json.dumps(verdict.as_dict(), indent=2) if args.json else verdict)
        return 0
    verdicts = from_replay(replay, page_size=args.page_size)
    if args.json:
        print(json.dumps({policy: v.as_dict() for policy, v in verdicts.items()}, indent=2))
    else:
        print("\n\n".join(f"{policy}\n{verdict}" for policy, verdict in verdicts.items()))
    return 0


def _replay(files: list[str]) -> dict[str, Any] | None:
    """The JSON of a replay, if that is what the one file holds."""
    if len(files) != 1:
        return None
    with _files.open_regular(files[0]) as file:
        if file.read(1) != b"{":
            return None
    try:
        values = _files.read_json(files[0])
    except ValueError:
        return None
    return values if isinstance(values, dict) and isinstance(values.get("runs"), list) else None
