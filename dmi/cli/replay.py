"""Replay a recording under several decommit policies, and compare them.

For each policy the rows of `!heap -s` before, at and after the peak, then a table of what each
policy kept and what it cost, then one sentence. The heaps follow the recording's own clock.
"""

from __future__ import annotations

import argparse

from dmi.cli._bar import Bar
from dmi.cli._numbers import whole

NAME = "replay"
HELP = "replay a recording under several decommit policies, and compare them"


def moments(text: str) -> list[float]:
    """Seconds, separated by commas."""
    try:
        found = [float(item) for item in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"not seconds separated by commas: {text!r}") from None
    if not all(0 <= moment <= 1e9 for moment in found):
        raise argparse.ArgumentTypeError(f"seconds must be between 0 and 1e9: {text!r}")
    return found


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "recording",
        help="of `heaptrack -r`, of memray, or in dmi's own format",
    )
    parser.add_argument(
        "--decommit",
        metavar="POLICIES",
        help="policies, separated by commas, | between alternatives of a value "
        "(default: never,eager,lazy,threshold)",
    )
    parser.add_argument(
        "--at",
        metavar="SECONDS",
        type=moments,
        default=[],
        help="show the heap at these moments instead of before, at and after the peak",
    )
    parser.add_argument(
        "--samples",
        type=whole,
        metavar="N",
        help="samples of the timeline: N even in time and N even in events (default: 200)",
    )
    parser.add_argument(
        "--repeat",
        type=whole,
        metavar="N",
        help="measure N times and keep the least CPU time (default: 3)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> None:
    """Replay and print."""
    from dmi import experiment  # loads the C declarations, which other commands can do without

    bar = Bar()
    given = {"decommit": args.decommit, "samples": args.samples, "repeat": args.repeat}
    try:
        result = experiment.replay(
            args.recording,
            at=args.at,
            progress=bar,
            **{name: value for name, value in given.items() if value is not None},
        )
    finally:
        bar.close()
    if args.json:
        print(result.to_json())
    else:
        print(result, end="")
