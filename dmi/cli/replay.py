"""Replay a recording under several decommit policies, and compare them.

For each policy the rows of `!heap -s` before, at and after the peak, then a table of what each
policy kept and what it cost, then one sentence. The heaps follow the recording's own clock.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

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


def whole(text: str) -> int:
    """A whole number from 1 to 100,000."""
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= 100_000):
        raise argparse.ArgumentTypeError(f"not a whole number from 1 to 100,000: {text!r}")
    return int(text)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "recording",
        help="the text of `heaptrack -r` or dmi's own format, compressed or not",
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
        default=1,
        help="measure N times and keep the least CPU time (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


class _Bar:
    """A progress bar that appears after a second, if there is a terminal to show it on.

    It draws from the replay's own thread: a second one would disturb what is measured.
    """

    def __init__(self) -> None:
        self.start = time.monotonic()
        self.wanted = sys.stderr.isatty()
        self.bar: Any = None
        self.task: Any = None

    def __call__(self, label: str, done: int, total: int) -> None:
        if not self.wanted or time.monotonic() - self.start < 1:
            return
        if self.bar is None:
            try:
                from rich.console import Console
                from rich.progress import Progress
            except ImportError:
                self.wanted = False
                return
            self.bar = Progress(console=Console(stderr=True), auto_refresh=False, transient=True)
            self.bar.start()
            self.task = self.bar.add_task("", total=total)
        self.bar.update(self.task, description=label, completed=done, total=total, refresh=True)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()


def run(args: argparse.Namespace) -> None:
    """Replay and print."""
    from dmi import experiment  # loads the C declarations, which other commands can do without

    bar = _Bar()
    given = {"decommit": args.decommit, "samples": args.samples}
    try:
        result = experiment.replay(
            args.recording,
            at=args.at,
            repeat=args.repeat,
            progress=bar,
            **{name: value for name, value in given.items() if value is not None},
        )
    finally:
        bar.close()
    if args.json:
        print(result.to_json())
    else:
        print(result, end="")
