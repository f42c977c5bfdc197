"""Replay a recording under several decommit policies, and compare them.

With --against it is played on other allocators too, at its own pace.

For each policy the rows of `!heap -s` before, at and after the peak, then a table of what each
policy kept and what it cost, then one sentence. The heaps follow the recording's own clock.
"""

from __future__ import annotations

import argparse
import sys

from dmi.cli._bar import Bar
from dmi.cli._fold import say
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
    parser.add_argument(
        "--against",
        metavar="ALLOCATORS",
        help="play it at its own pace on other allocators too, in processes of their own, and "
        "compare resident memory: glibc, jemalloc, mimalloc, tcmalloc and others, where they are "
        "installed, or paths of libraries, separated by commas",
    )
    parser.add_argument(
        "--plot", metavar="FILE", help="draw committed memory over the recording (.png, .svg, .pdf)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> None:
    """Replay and print."""
    from dmi import experiment  # loads the C declarations, which other commands can do without

    if args.plot:
        experiment.check_plot(args.plot)
    bar = Bar()
    if args.against is not None:
        _compare(args, bar)
        return
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
        say(result, end="")
    if args.plot:
        sys.stdout.flush()
        result.plot(args.plot)


def _compare(args: argparse.Namespace, bar: Bar) -> None:
    from dmi import experiment
    from dmi.policy import expand

    for name in ("at", "samples", "repeat", "plot"):
        if getattr(args, name):
            raise ValueError(f"--{name} does not go with --against")
    names = args.against.split(",")
    for name in names:
        experiment.library_of(name)
    policies = expand(args.decommit if args.decommit is not None else "never,eager,lazy")
    try:
        found = experiment.against(args.recording, names, policies, progress=bar)
    finally:
        bar.close()
    if args.json:
        print(found.to_json())
    else:
        say(found)
