"""A live view of a process: its layers, its heaps, why they retain what they retain, and history.

Of every process heaps are read from outside; nothing is stopped or changed. Counters are read at
each refresh, walks as often as a hundredth of the time allows; their age is shown. Keys: q quits,
the space bar pauses. Inside a program dmi.top.run() shows its own heaps, with keys to trim one, to
change its policy and to save a snapshot. Needs the extra 'top'.
"""

from __future__ import annotations

import argparse

NAME = "top"
HELP = "watch the heaps of a process"


def seconds(text: str) -> float:
    """Seconds from 0.1 to a day."""
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0.1 <= found <= 86_400:
        raise argparse.ArgumentTypeError(f"not seconds from 0.1 to 86400: {text!r}")
    return found


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("--pid", type=int, metavar="N", required=True, help="the process")
    parser.add_argument(
        "--every", type=seconds, default=1.0, metavar="SECONDS", help="refresh (default: 1)"
    )


def run(args: argparse.Namespace) -> int:
    """Show it."""
    from dmi import top

    top.run(args.pid, every=args.every)
    return 0
