"""Every number of a heap with its formula and its value, and why each retained byte is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dmi import _inspect
from dmi._tables import frame, html_table
from dmi.stats import HeapStats

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas

__all__ = ["Explanation", "Figure", "explain"]

FORMULAS = {
    "reserved": "uncommitted + committed",
    "committed": "busy + free_lfh + free_list + free_pages + offered + overhead",
    "retained": "committed - busy",
    "free": "free_lfh + free_list + free_pages + offered",
    "external_fragmentation": "floor(100 * free / segment_committed)",
    "virtual_address_fragmentation": (
        "floor(100 * (segment_virtual - segment_committed) / segment_virtual)"
    ),
    "mean_free_block": "floor(free / list_length)",
    "committed_per_page_bound": "committed / page_bound",
    "reclaimable": "free_lfh + free_list + free_pages - pinned",
}
MEANINGS = {
    "retained": ("bytes", "committed and not in use"),
    "free": ("bytes", "Free column"),
    "external_fragmentation": ("percent", "what part of Commit is free"),
    "virtual_address_fragmentation": ("percent", "what part of Virt is not committed"),
    "mean_free_block": ("bytes", "a free block on average; below a page little can be given back"),
    "committed_per_page_bound": ("ratio", "1 is the least that an allocator can reach"),
}


@dataclass(frozen=True, slots=True)
class Figure:
    """One number: name, value (None when it does not exist), unit, meaning, formula or ""."""

    name: str
    value: int | float | None
    unit: str
    meaning: str
    formula: str


@dataclass(frozen=True, slots=True, repr=False)
class Explanation:
    """Figures in the order of the table, the reasons for every retained byte, ages of free pages.

    The values of reasons sum to retained, those of ages to reclaimable. str() gives a text for
    people, as_dict() one for JSON.
    """

    heap: str
    policy: str
    figures: tuple[Figure, ...]
    reasons: tuple[Figure, ...]
    ages: tuple[Figure, ...]

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def __repr__(self) -> str:
        return f"<dmi.Explanation of {self.heap}: {len(self.figures)} figures>"

    def _lines(self) -> Iterator[str]:
        width = max(len(figure.name) for figure in (*self.figures, *self.reasons))
        yield f"{self.heap}, decommit {self.policy}"
        for figure in self.figures:
            yield f"  {figure.name:{width}} {_show(figure):>20}  {figure.meaning}"
            if figure.formula:
                yield f"  {'':{width}} {'':20}  = {figure.formula}"
        for rows, title in (
            (self.reasons, "why {:,} bytes are retained"),
            (self.ages, "for how long, at least, {:,} reclaimable bytes have been free"),
        ):
            total = sum(int(figure.value or 0) for figure in rows)
            if rows is self.reasons or total:
                yield title.format(total)
            for figure in rows:
                if figure.value:
                    share = 100 * figure.value / total
                    label = f"{figure.name:{width}} {_show(figure):>20}"
                    yield f"  {label}  {share:5.1f} %  {figure.meaning}"

    def as_dict(self) -> dict[str, Any]:
        """The same for JSON."""

        def row(figure: Figure) -> dict[str, Any]:
            return {name: getattr(figure, name) for name in Figure.__slots__}

        return {
            "heap": self.heap,
            "decommit": self.policy,
            "figures": [row(figure) for figure in self.figures],
            "reasons": [row(figure) for figure in self.reasons],
            "ages": [row(figure) for figure in self.ages],
        }

    def frame(self) -> pandas.DataFrame:
        """A row a figure, with the table it is of. ImportError without pandas."""
        kept = self.as_dict()
        return frame([
            {"table": table, **row} for table in ("figures", "reasons", "ages")
            for row in kept[table]
        ])  # fmt: skip

    def _repr_html_(self) -> str:
        made = ""
        for title, figures in (
            (f"{self.heap}, decommit {self.policy}", self.figures),
            ("Why bytes are retained", [each for each in self.reasons if each.value]),
            ("For how long free pages have been free", [each for each in self.ages if each.value]),
        ):
            made += html_table(title, ("", "value", "unit", "meaning", "formula"), [
                (each.name, each.value, each.unit, each.meaning, each.formula) for each in figures
            ])  # fmt: skip
        return made


def _show(figure: Figure) -> str:
    if figure.value is None:
        return "-"
    if figure.unit == "flag bits":
        return f"{figure.value:#x}"
    if isinstance(figure.value, float):
        return f"{figure.value:.3f}"
    return f"{figure.value:,}" + {"bytes": " B", "percent": " %"}.get(figure.unit, "")


def explain(heap: str, policy: str, stats: HeapStats) -> Explanation:
    """Explain the numbers of stats(detail=True)."""
    figures = [
        Figure(name, getattr(stats, name), *HeapStats.describe(name), FORMULAS.get(name, ""))
        for name, _unit, _text in _inspect.STATS_TABLE
    ]
    figures += [
        Figure(name, getattr(stats, name), unit, meaning, FORMULAS[name])
        for name, (unit, meaning) in MEANINGS.items()
    ]
    reasons, ages = (
        tuple(
            Figure(name, (values or {}).get(name, 0), "bytes", text, "") for name, _, text in table
        )
        for values, table in (
            (stats.reasons, _inspect.REASONS_TABLE),
            (stats.ages, _inspect.AGES_TABLE),
        )
    )
    return Explanation(heap, policy, tuple(figures), reasons, ages)
