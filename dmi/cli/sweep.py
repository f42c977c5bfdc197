"""Replay recordings under many policies, each in a process of its own, and show the trade-off.

A policy is marked when no other one is better in both mean retained commit and CPU time.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from dmi._files import check_target
from dmi.cli._bar import Bar
from dmi.cli._fold import say
from dmi.cli._numbers import whole

if TYPE_CHECKING:
    import argparse

NAME = "sweep"
HELP = "replay recordings under many policies, and show the trade-off"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument(
        "recordings",
        metavar="RECORDING",
        nargs="+",
        help="of `heaptrack -r`, of memray, or in dmi's own format",
    )
    parser.add_argument(
        "--policies",
        help="separated by commas, | between alternatives of a value (default: nine that "
        "cover the kinds)",
    )
    parser.add_argument(
        "--jobs",
        type=whole,
        metavar="N",
        help="cells at a time (default: half of the processors, so that cells do not disturb "
        "each other's CPU time)",
    )
    parser.add_argument(
        "--samples", type=whole, metavar="N", help="samples of each timeline (default: 200)"
    )
    parser.add_argument(
        "--repeat",
        type=whole,
        metavar="N",
        help="measure N times and keep the least CPU time (default: 3)",
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the trade-off (.png, .svg, .pdf)")
    parser.add_argument("--report", metavar="FILE", help="write an HTML page, as dmi report does")
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> None:
    """Sweep and print."""
    from dmi import experiment  # loads the C declarations, which other commands can do without

    if args.plot:
        experiment.check_plot(args.plot)
    if args.report:
        from dmi.report import report_of_sweep

        check_target(args.report)
    bar = Bar()
    given = {"policies": args.policies, "samples": args.samples, "repeat": args.repeat}
    pool = ThreadPoolExecutor(args.jobs) if args.jobs else None
    try:
        result = experiment.sweep(
            args.recordings,
            executor=pool,
            progress=bar,
            **{name: value for name, value in given.items() if value is not None},
        )
    finally:
        bar.close()
        if pool:
            pool.shutdown(cancel_futures=True)
    # The table first: what is measured is not lost for a picture that fails.
    if args.json:
        print(result.to_json(), flush=True)
    else:
        say(result, flush=True)
    if args.plot:
        result.plot(args.plot)
    if args.report:
        report_of_sweep(result).save(args.report)
