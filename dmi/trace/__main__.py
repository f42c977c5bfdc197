"""Convert a recording to dmi's own format: python -m dmi.trace SOURCE DEST."""

from __future__ import annotations

import argparse
import sys

from dmi.errors import TraceError
from dmi.trace import load, save


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit status: 0, or 1 with one line on stderr."""
    parser = argparse.ArgumentParser(
        prog="python -m dmi.trace",
        description="Convert a recording (heaptrack raw, dmi) to dmi's own format.",
    )
    parser.add_argument("source", help="the recording, compressed or not")
    parser.add_argument("dest", help="where to write; a name ending in .zst is compressed")
    parser.add_argument("--level", type=int, default=19, help="zstd level (default: 19)")
    options = parser.parse_args(arguments)
    try:
        trace = load(options.source)
        size = save(trace, options.dest, level=options.level)
    except (TraceError, OSError, ImportError) as error:
        print(f"dmi.trace: {error}", file=sys.stderr)
        return 1
    print(
        f"{options.dest}: {trace.events:,} events ({trace.reallocs:,} reallocs), "
        f"{trace.duration:.1f} s, {size:,} bytes"
    )
    for reason, count in trace.notes.items():
        print(f"skipped: {reason}: {count:,}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
