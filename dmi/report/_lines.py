"""The tables of a report that name lines, from the profiles that its moments carry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from dmi._sizes import show_size
from dmi.profile import MEASURES, blame, owners
from dmi.report._content import Table, Text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dmi._snapshot import Snapshot
    from dmi.report._content import Content

__all__ = ["add_lines"]

_SHOWN: Final = 15
_HEAD: Final = ["line", "size", "+/-", "%", "samples"]


def add_lines(made: Content, found: Sequence[Snapshot]) -> None:
    """Which lines pin, hold and gained the memory; and the line of each block that is known."""
    last = found[-1].profile
    if last is None:
        return
    try:
        pinned = blame(last)
        made.findings.append(Text("Which code", pinned.sentence))
        made.tables += [_table(last, "pinned"), _table(last, "busy")]
        first = found[0].profile
        if len(found) > 1 and first is not None:
            made.tables.append(_table((first, last), "grew"))
        named = owners(last)
    except (ImportError, ValueError) as error:
        made.notes.append(f"The lines of the profile: {error}.")
        return
    for each in made.maps:
        each.owners = named


def _table(source: Any, what: Any) -> Table:
    found = blame(source, "line", what, across=True)
    rows: list[list[str | None]] = [
        [row.name, show_size(row.bytes), show_size(row.error),
         None if row.percent is None else f"{row.percent:.1f}", f"{row.samples:,}"]
        for row in found.named[:_SHOWN]
    ]  # fmt: skip
    few = [row for row in found.rows if not row.named]
    if few:
        most = max(row.samples for row in few)
        size = show_size(sum(row.bytes for row in few))
        rows.append([f"{len(few)} without a name: {found.too_few(most)}", size, None, None, None])
    note = f"{MEASURES[what]}; estimated from one page in {found.one_in:,}"
    return Table(f"{what.capitalize()} by line: {show_size(found.bytes)}", note, _HEAD, rows)
