"""Blame as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dmi._sizes import show_size
from dmi.profile._measure import ENOUGH

if TYPE_CHECKING:
    from dmi.profile._blame import Blame, Row

__all__ = ["rich_table", "text"]

TOP: Final = 20


def _cells(blame: Blame, top: int | None) -> list[tuple[str, str, str, str, str]]:
    """The rows that have names, then one for all others together."""
    rows = [row for row in blame.rows if row.named]
    shown, few = rows[:top], [row for row in blame.rows if not row.named and row.samples < ENOUGH]
    unsure = [row for row in blame.rows if not row.named and row.samples >= ENOUGH]
    made = [_cell(row) for row in shown]
    for others, name in (
        (rows[len(shown) :], f"({len(rows) - len(shown)} more)"),
        (unsure, f"({len(unsure)} that gained less than their error)"),
        (few, f"({len(few)} without a name: {blame.too_few(_most(few))})"),
    ):
        if not others:
            continue
        size = sum(row.bytes for row in others)
        share = "-" if blame.bytes <= 0 else f"{100 * size / blame.bytes:.1f}"
        count = sum(row.samples for row in others)
        made.append((show_size(size), "", share, f"{count:,}", name))
    return made


def _most(rows: list[Row]) -> int:
    return max((row.samples for row in rows), default=0)


def _cell(row: Row) -> tuple[str, str, str, str, str]:
    share = "-" if row.percent is None else f"{row.percent:.1f}"
    return show_size(row.bytes), show_size(row.error), share, f"{row.samples:,}", row.name


def _title(blame: Blame) -> str:
    rate = "every page" if blame.one_in == 1 else f"one page in {blame.one_in:,}"
    if blame.kept_one_in > blame.one_in:
        rate += f", of which up to one in {blame.kept_one_in // blame.one_in:,} is left"
    words = f"{blame.what} by {blame.by}"
    if blame.moments == 2 and blame.what != "grew":
        words = f"what {blame.what} gained, by {blame.by}"
    return (
        f"{words}: {show_size(blame.bytes)} ± {show_size(blame.error)}, from "
        f"{blame.samples:,} samples ({rate})"
    )


def _notes(blame: Blame) -> list[str]:
    notes = []
    if blame.lost:
        notes.append(
            f"{blame.lost:,} stacks or marks had no room in the profile: what they held is under "
            "(no stack), or missing."
        )
    if blame.cut:
        notes.append(
            f"Of {show_size(blame.cut)} only the caller of malloc is known, often a wrapper of it: "
            "its code has neither tables for exceptions nor frame pointers "
            "(-fasynchronous-unwind-tables)."
        )
    return notes


_HEAD: Final = ("bytes", "±", "%", "samples", "by")


def text(blame: Blame, top: int | None = TOP) -> str:
    """Plain text: the sentence, the table, and what is missing."""
    cells = [(*_HEAD[:4], blame.by), *_cells(blame, top)]
    widths = [max(len(row[n]) for row in cells) for n in range(4)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=False))
        + f"  {row[4]}"
        for row in cells
    ]
    return "\n".join([blame.sentence, "", _title(blame), *lines, *_notes(blame)])


def rich_table(blame: Blame, top: int | None = TOP) -> Any:
    """The same for a terminal. ImportError without rich."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=_title(blame), title_justify="left", caption="\n".join(_notes(blame)))
    for name in _HEAD[:4]:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(blame.by, overflow="fold")
    for row in _cells(blame, top):
        table.add_row(*row[:4], Text(row[4]))
    return table
