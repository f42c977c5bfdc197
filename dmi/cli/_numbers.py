"""Arguments that several commands read the same way."""

from __future__ import annotations

import argparse


def whole(text: str) -> int:
    """A whole number from 1 to 100,000."""
    if not (text.isascii() and text.isdigit() and len(text) <= 6 and 1 <= int(text) <= 100_000):
        raise argparse.ArgumentTypeError(f"not a whole number from 1 to 100,000: {text!r}")
    return int(text)


def whole_pid(text: str) -> int:
    """The number of a process."""
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"not the number of a process: {text!r}")
    return int(text)


def level(text: str) -> int:
    """A level of zstd, 1 to 22."""
    if not (text.isascii() and text.isdigit() and len(text) <= 2 and 1 <= int(text) <= 22):
        raise argparse.ArgumentTypeError(f"not a level of zstd, 1 to 22: {text!r}")
    return int(text)
