"""What a recording holds; or convert it to dmi's own format.

SOURCE is a recording of `heaptrack -r`, of memray, or in dmi's own format, compressed or not. With
DEST it is written there; a name that ends in .zst is compressed. Events that could not be paired
are left out and counted.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from dmi.cli._numbers import level

if TYPE_CHECKING:
    import argparse

NAME = "trace"
HELP = "show what a recording holds, or convert it"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("source", metavar="SOURCE", help="the recording")
    parser.add_argument("dest", metavar="DEST", nargs="?", help="where to write it")
    parser.add_argument(
        "--level", type=level, default=19, metavar="N", help="of zstd, 1 to 22 (default: 19)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, sizes in bytes")


def run(args: argparse.Namespace) -> None:
    """Read, write, say what it was."""
    from dmi import _files, trace

    if args.dest is not None:
        _files.check_target(args.dest)
    loaded = trace.load(args.source)
    size = None if args.dest is None else trace.save(loaded, args.dest, level=args.level)
    facts: dict[str, Any] = {
        "recording": loaded.name,
        "events": loaded.events,
        "allocations": loaded.allocations,
        "reallocs": loaded.reallocs,
        "frees": loaded.frees,
        "objects": loaded.objects,
        "threads": loaded.threads,
        "duration": loaded.duration or None,
        "peak_bytes": loaded.peak_bytes,
        "live_bytes": loaded.live_bytes,
        "skipped": loaded.notes,
        "written": None if size is None else {"file": args.dest, "bytes": size},
    }
    print(json.dumps(facts, indent=2) if args.json else "\n".join(_text(facts)))


def _text(facts: dict[str, Any]) -> list[str]:
    lasts = "no clock" if facts["duration"] is None else f"{facts['duration']:.1f} s"
    lines = [
        f"{facts['recording']}: {facts['events']:,} events, {lasts}",
        f"allocations {facts['allocations']:,}, reallocs {facts['reallocs']:,}",
        f"frees {facts['frees']:,}, threads {facts['threads']:,}",
        f"asked for: {facts['peak_bytes']:,} bytes at the peak, {facts['live_bytes']:,} at the end",
    ]
    lines += [f"skipped: {reason}: {count:,}" for reason, count in facts["skipped"].items()]
    if facts["written"]:
        lines.append(f"{facts['written']['file']}: {facts['written']['bytes']:,} bytes written")
    return lines
