"""Figures as a table of a notebook or as a DataFrame."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import pandas

__all__ = ["frame", "html_table", "number"]


def number(value: object) -> str:
    """A figure for people: digits in groups, "-" for what is not known."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.3f}"
    return str(value)


def html_table(title: str, head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table for _repr_html_; every text in it is escaped."""

    def line(tag: str, cells: Sequence[object]) -> str:
        made = []
        for place, cell in enumerate(cells):
            align = "left" if place == 0 else "right"
            made.append(f'<{tag} style="text-align:{align}">{escape(number(cell))}</{tag}>')
        return "<tr>" + "".join(made) + "</tr>"

    body = "".join(line("td", row) for row in rows)
    top = line("th", head) if head else ""
    return f"<table><caption>{escape(title)}</caption>{top}{body}</table>"


def frame(columns: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """A DataFrame of columns, or of rows. ImportError, naming the extra, without pandas."""
    try:
        import pandas
    except ImportError:
        raise ImportError(
            "a DataFrame needs the extra 'frames': pip install 'dmi-heap[frames]'"
        ) from None
    return pandas.DataFrame(columns)
