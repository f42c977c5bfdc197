"""One self-contained HTML page: where memory was, who held it, and why it stayed.

FILES are snapshots in the order of time, the JSON of `dmi replay --json`, or recordings, which are
replayed; or --pid names a running process. The page has time lines, the waterfall by reason, who
holds what, a map of the heap's pages, the doctor's words and the rows of `!heap -s`. It needs no
network. Needs the extra 'report'.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmi._files import check_target
from dmi.cli._bar import Bar

if TYPE_CHECKING:
    import argparse

NAME = "report"
HELP = "write an HTML page about snapshots, a replay, a recording, or a process"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add this command's arguments."""
    parser.add_argument("files", nargs="*", metavar="FILE", help="what to report on")
    parser.add_argument("--pid", type=int, metavar="N", help="a running process")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the page to write")
    parser.add_argument(
        "--decommit",
        metavar="POLICIES",
        default="never,eager,lazy,threshold",
        help="policies to replay recordings under (default: %(default)s)",
    )
    parser.add_argument("--title", help="of the page")


def run(args: argparse.Namespace) -> int:
    """Make the page."""
    from dmi.report import report

    if not args.files and args.pid is None:
        raise ValueError("name a FILE, or a process with --pid N")
    check_target(args.output)
    bar = Bar()
    try:
        made = report(
            args.files, pid=args.pid, decommit=args.decommit, title=args.title, progress=bar
        )
    finally:
        bar.close()
    made.save(args.output)
    print(f"{args.output}: {len(made.html.encode()) / (1 << 20):.2f} MiB")
    return 0
