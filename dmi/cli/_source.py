"""Options of every command that looks at a process from outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

__all__ = ["add_live", "refuse_live"]


def add_live(parser: argparse.ArgumentParser) -> None:
    """How a process that runs is read."""
    parser.add_argument(
        "--swap-in", action="store_true", help="read also what is in swap, which brings it back"
    )
    parser.add_argument(
        "--stop",
        action="store_true",
        help="stop it while it is read: 50 ms at most for each 128 MiB, 200 ms in all",
    )


def refuse_live(args: argparse.Namespace) -> None:
    """Raise ValueError where one of them was given and no process that runs is named."""
    for word in ("stop", "swap_in"):
        if getattr(args, word):
            raise ValueError(
                f"--{word.replace('_', '-')} is for a process that runs: name one with --pid N"
            )
