"""python -m dmi.trace is `dmi trace`, under its earlier name."""

from __future__ import annotations

import sys

from dmi.cli import main

if __name__ == "__main__":
    raise SystemExit(main(["trace", *sys.argv[1:]]))
