"""Which kind of leak is it? The verdict on moments of a program.

FILES: WinDbg logs (`!heap -s` of NT and segment heaps, `!address -summary`, `!heap` with -stat,
-flt, -l or -h; UMDH comparisons; one log may hold several moments), JSON snapshots, or the JSON of
one `dmi replay`. `-` is standard input. Two files of one moment are written heap.txt+addr.txt where
their names do not say so. A verdict is one of

    first-order leak    busy grew and stayed: the program does not free
    second-order leak   busy came back, commit did not: the heap does not give back
    growth              busy still rises, or only two moments are known
    none                neither
    unknown             nothing was found, and something that was not seen could change that
    one moment          what a single moment shows

with bytes, per cent, causes, what to do and what it would give, up to five findings in order of
size.
Exit status: 0 nothing found, 1 a finding, 2 what was given cannot be used or does not suffice.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmi import _files
from dmi.cli._fold import say
from dmi.cli._source import add_live, refuse_live
from dmi.diagnose import from_files, from_replay
from dmi.diagnose._files import read_text, what_was_read

if TYPE_CHECKING:
    import argparse

    from dmi.diagnose import Verdict

NAME = "doctor"
HELP = "say which kind of leak logs and snapshots show"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="log, snapshot or core file, oldest first; - for stdin",
    )
    parser.add_argument(
        "--pid",
        type=int,
        metavar="N",
        help="a running process, as the last moment; alone there is a report on it",
    )
    parser.add_argument(
        "--every",
        metavar="TIME",
        help="with --pid: take a moment each TIME (30s, 5m) and show the verdict as it forms",
    )
    parser.add_argument(
        "--for",
        dest="duration",
        metavar="TIME",
        help="with --every: for so long; without it until the process ends, or Ctrl-C",
    )
    add_live(parser)
    parser.add_argument(
        "--page-size",
        type=int,
        default=4096,
        metavar="BYTES",
        help="page size of the machine the numbers come from (default: 4096)",
    )
    parser.add_argument(
        "--across",
        action="store_true",
        help="compare moments although they are of different processes or runs",
    )
    parser.add_argument(
        "--what-was-read",
        action="store_true",
        help="list what each file holds, and the lines that could not be read; no verdict",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print the verdict, one for each policy of a replay."""
    if args.what_was_read:
        return _what_was_read(args)
    if not args.files and args.pid is None:
        raise ValueError("name a FILE, or a process with --pid N")
    if args.pid is None:
        refuse_live(args)
    if args.every is not None or args.duration is not None:
        return _watch(args)
    replay = _replay(args.files)
    if replay is None:
        verdict = from_files(
            args.files, page_size=args.page_size, across=args.across, pid=args.pid,
            swap_in=args.swap_in, stop=args.stop,
        )  # fmt: skip
        _show(verdict.as_dict() if args.json else verdict)
        return _status(verdict)
    verdicts = from_replay(replay, page_size=args.page_size)
    if args.json:
        print(json.dumps({policy: v.as_dict() for policy, v in verdicts.items()}, indent=2))
    else:
        say("\n\n".join(f"{policy}\n{verdict}" for policy, verdict in verdicts.items()))
    return max(map(_status, verdicts.values()), default=0)


def _show(found: object) -> None:
    """Text or a verdict for people, all else as JSON."""
    if isinstance(found, dict | list):
        print(json.dumps(found, indent=2))
    else:
        say(found)


def _watch(args: argparse.Namespace) -> int:
    """Moments taken in turn. Where the report is JSON, the lines before it go to stderr."""
    from dmi.diagnose._watch import parse_seconds, watch

    if args.every is None:
        raise ValueError("--for needs --every TIME: how often a moment is taken")
    if args.pid is None or args.files:
        raise ValueError("--every watches one process: name it with --pid N, and no FILE")
    every = parse_seconds(args.every)
    duration = None if args.duration is None else parse_seconds(args.duration)
    if duration is not None and duration < every:
        raise ValueError(f"--for {args.duration} is shorter than --every {args.every}")
    stream = sys.stderr if args.json else sys.stdout

    def say(line: str) -> None:
        print(line, file=stream, flush=True)

    verdict = watch(
        args.pid,
        every,
        duration,
        say=say,
        page_size=args.page_size,
        swap_in=args.swap_in,
        stop=args.stop,
    )
    print(json.dumps(verdict.as_dict(), indent=2) if args.json else f"\n{verdict}")
    return _status(verdict)


def _status(verdict: Verdict) -> int:
    if verdict.kind == "unknown":
        return 2
    return int(verdict.finding)


def _what_was_read(args: argparse.Namespace) -> int:
    names = [
        part
        for name in args.files
        for part in (name.split("+") if not Path(name).exists() else [name])
    ]
    found = [what_was_read(name) for name in names]
    _show(found if args.json else "\n".join(map(read_text, found)))
    return 0 if all(each["moments"] for each in found) else 2


def _replay(files: list[str]) -> dict[str, Any] | None:
    """The JSON of a replay, if that is what the one file holds. A pipe is not looked into: what is
    read from it would be gone."""
    if len(files) != 1 or not Path(files[0]).is_file():
        return None
    with _files.open_regular(files[0]) as file:
        if file.read(1) != b"{":
            return None
    try:
        values = _files.read_json(files[0])
    except ValueError:
        return None
    return values if isinstance(values, dict) and isinstance(values.get("runs"), list) else None
