"""The numbers of a heap.

The counters are those of the table in dmi/stats.h, in its order and under its names;
tools/generate.py writes them down here. Units: bytes, but for the plain counts (busy_blocks,
segments, list_length, uncommitted_ranges, virtual_blocks, lock_contention and the *_calls),
lfh_active (0 or 1) and flags.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dmi import _inspect
from dmi._tables import html_table
from dmi.errors import HeapError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["DetailedStats", "HeapStats", "TrimReport"]

DERIVED = (
    "retained",
    "free",
    "external_fragmentation",
    "virtual_address_fragmentation",
    "mean_free_block",
    "committed_per_page_bound",
)
"""Properties that as_dict() adds to the counters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeapStats:
    """The state of a heap at one moment, and what it did since it was made.

    The waterfall closes to the byte, which check() asserts:

        reserved  = uncommitted + committed
        committed = busy + free_lfh + free_list + free_pages + offered + overhead

    reclaimable, pinned, page_bound, resident, reasons and ages need stats(detail=True), else None.

    ages tells for how long the reclaimable bytes have been known to be free, and sums to
    reclaimable. They are lower bounds: a page is as old as the first look (a pass of the policy, or
    a stats(detail=True)) of those in a row that found it free; pages in no block, also as old as
    the last free beside them. "unseen" is what no look has found free before.
    """

    # The counters, in the order of dmi/stats.h: written by tools/generate.py.
    reserved: int
    uncommitted: int
    committed: int
    busy: int
    free_lfh: int
    free_list: int
    free_pages: int
    offered: int
    overhead: int
    metadata_committed: int
    busy_blocks: int
    segments: int
    segment_reserved: int
    segment_committed: int
    segment_virtual: int
    list_length: int
    uncommitted_ranges: int
    virtual_blocks: int
    virtual_committed: int
    lock_contention: int
    lfh_active: int
    flags: int
    commit_calls: int
    commit_bytes: int
    decommit_calls: int
    decommit_bytes: int
    recommit_calls: int
    recommit_bytes: int
    recommit_churn_bytes: int
    offer_calls: int
    offer_bytes: int
    unoffer_bytes: int
    refused_calls: int
    decommit_refused_bytes: int
    reclaimable: int | None
    pinned: int | None
    page_bound: int | None
    resident: int | None
    reasons: Mapping[str, int] | None = None
    ages: Mapping[str, int] | None = None

    # ---- derived -----------------------------------------------------------------------------

    @property
    def retained(self) -> int:
        """Bytes: committed less busy."""
        return self.committed - self.busy

    @property
    def free(self) -> int:
        """Bytes of the Free column: free_lfh + free_list + free_pages + offered."""
        return self.free_lfh + self.free_list + self.free_pages + self.offered

    @property
    def external_fragmentation(self) -> int | None:
        """Percent: floor(100 * Free / Commit); None when nothing is committed in segments."""
        commit = self.segment_committed
        return 100 * self.free // commit if commit else None

    @property
    def virtual_address_fragmentation(self) -> int | None:
        """Percent: floor(100 * (Virt - Commit) / Virt), at least 0; None when Virt is 0."""
        virtual = self.segment_virtual
        return 100 * max(0, virtual - self.segment_committed) // virtual if virtual else None

    @property
    def mean_free_block(self) -> int | None:
        """Bytes of a free block on average, rounded down; None when there is none."""
        return self.free // self.list_length if self.list_length else None

    @property
    def committed_per_page_bound(self) -> float | None:
        """committed / page_bound; None without detail or when nothing is busy."""
        return self.committed / self.page_bound if self.page_bound else None

    @property
    def detail(self) -> bool:
        """True when these are the numbers of stats(detail=True)."""
        return self.reasons is not None

    def check(self) -> None:
        """Raise HeapError, with the numbers, unless the waterfall closes to the byte."""
        parts = self.free_lfh + self.free_list + self.free_pages
        sums = [
            ("reserved", self.reserved, self.uncommitted + self.committed),
            (
                "committed",
                self.committed,
                self.busy + parts + self.offered + self.overhead,
            ),
        ]
        if self.reclaimable is not None and self.pinned is not None:
            sums.append(
                ("free_lfh + free_list + free_pages", parts, self.reclaimable + self.pinned)
            )
        if self.reasons is not None:
            sums.append(("retained", self.retained, sum(self.reasons.values())))
        if self.ages is not None and self.reclaimable is not None:
            sums.append(("reclaimable", self.reclaimable, sum(self.ages.values())))
        for name, stated, summed in sums:
            if stated != summed:
                raise HeapError(
                    f"the waterfall does not close: {name} is {stated}, its parts sum to "
                    f"{summed}: {self.as_dict()}",
                    fault="corrupt",
                )

    def __reduce__(self) -> tuple[Any, ...]:
        # The read-only views of reasons and ages can be neither pickled nor copied.
        return (HeapStats.from_dict, (self.as_dict(),))

    def _repr_html_(self) -> str:
        rows = [
            (name, getattr(self, name), *DOCUMENTATION.get(name, ("", "")))
            for name in (*NAMES, *DERIVED)
        ]
        made = html_table("Heap", ("", "value", "unit", "meaning"), rows)
        if self.reasons is not None:
            kept = sorted(self.reasons.items(), key=lambda row: -row[1])
            made += html_table(
                "Why bytes are retained",
                ("reason", "bytes", "meaning"),
                [(name, size, REASON_TEXTS[name]) for name, size in kept if size],
            )
        return made

    # ---- in and out --------------------------------------------------------------------------

    @classmethod
    def from_native(cls, values: Sequence[int], *, detail: bool) -> HeapStats:
        """From the library's counters, which are followed by its reasons and its ages."""
        counters: dict[str, Any] = dict(zip(NAMES, values, strict=False))
        if not detail:
            counters.update(dict.fromkeys(DETAIL))
            return cls(**counters)
        rest = values[len(NAMES) :]
        reasons = dict(zip(REASONS, rest[: len(REASONS)], strict=True))
        ages = dict(zip(AGES, rest[len(REASONS) :], strict=True))
        return DetailedStats(
            **counters, reasons=MappingProxyType(reasons), ages=MappingProxyType(ages)
        )

    def as_dict(self) -> dict[str, Any]:
        """Counters, derived figures, reasons and ages by name, ready for JSON."""
        values: dict[str, Any] = {name: getattr(self, name) for name in NAMES}
        values.update({name: getattr(self, name) for name in DERIVED})
        values["reasons"] = None if self.reasons is None else dict(self.reasons)
        values["ages"] = None if self.ages is None else dict(self.ages)
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> HeapStats:
        """The inverse of as_dict(). Unknown keys are ignored, missing counters a ValueError.

        A counter that the writer did not know yet stands as 0.
        """
        core = ("reserved", "uncommitted", "committed", "busy")
        missing = [name for name in core if not isinstance(values.get(name), int)]
        if missing:
            raise ValueError(f"not the numbers of a heap: no {', '.join(missing)}")
        known: dict[str, Any] = {
            name: values.get(name, None if name in DETAIL else 0) for name in NAMES
        }
        for name, value in known.items():
            if not (_is_count(value) or (value is None and name in DETAIL)):
                raise ValueError(f"{name} must be an int of 64 bits, not {value!r:.40}")
        tables: dict[str, Any] = {}
        for table in ("reasons", "ages"):
            rows = values.get(table)
            if rows is not None:
                rows = dict(rows)
                for name, value in rows.items():
                    if not (isinstance(name, str) and _is_count(value)):
                        raise ValueError(f"{table} holds bytes, not {name!r:.40}: {value!r:.40}")
                rows = MappingProxyType(rows)
            tables[table] = rows
        whole = all(known[name] is not None for name in DETAIL) and all(tables.values())
        return (DetailedStats if whole else cls)(**known, **tables)

    def to_json(self, *, indent: int | None = None) -> str:
        """as_dict() as JSON text."""
        return json.dumps(self.as_dict(), indent=indent)

    @classmethod
    def from_json(cls, text: str | bytes) -> HeapStats:
        """Read what to_json() wrote. ValueError for anything else."""
        values = json.loads(text)
        if not isinstance(values, dict):
            raise ValueError("not the numbers of a heap: no JSON object")
        return cls.from_dict(values)

    @staticmethod
    def describe(name: str) -> tuple[str, str]:
        """(unit, meaning) of a counter, a reason or an age. KeyError for any other name."""
        return DOCUMENTATION[name]


class DetailedStats(HeapStats):
    """What stats(detail=True) returns: HeapStats of which every figure is known."""

    __slots__ = ()

    if TYPE_CHECKING:
        reclaimable: int
        pinned: int
        page_bound: int
        resident: int
        reasons: Mapping[str, int]
        ages: Mapping[str, int]


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 1 << 64


NAMES = tuple(row[0] for row in _inspect.STATS_TABLE)
DETAIL = tuple(row[0] for row in _inspect.STATS_TABLE if row[2].startswith("detail:"))
"""Counters that only a walk or the system can tell; None without detail."""
REASONS = tuple(row[0] for row in _inspect.REASONS_TABLE)
AGES = tuple(row[0] for row in _inspect.AGES_TABLE)
REASON_TEXTS = {name: text for name, _unit, text in _inspect.REASONS_TABLE}
UNITS = {"B": "bytes", "n": "count", "b": "0 or 1", "x": "flag bits"}
# "pinned", "offered" and "overhead" are counters and reasons; the counter's meaning stands first.
DOCUMENTATION = {
    name: (UNITS[unit], text)
    for name, unit, text in (*_inspect.AGES_TABLE, *_inspect.REASONS_TABLE, *_inspect.STATS_TABLE)
}
_DECLARED = tuple(
    field.name for field in fields(HeapStats) if field.name not in ("reasons", "ages")
)
if _DECLARED != NAMES:  # pragma: no cover - a build that mixes two versions
    raise ImportError(
        "dmi's Python and C parts are of different versions: "
        f"{sorted(set(_DECLARED) ^ set(NAMES))}; install dmi-heap again"
    )


@dataclass(frozen=True, slots=True)
class TrimReport:
    """What a trim gave back.

    decommitted      bytes that left committed
    resident_before  bytes of the heap's ranges in physical memory before, asked from the system
    resident_after   the same after
    calls            system calls made
    """

    decommitted: int
    resident_before: int
    resident_after: int
    calls: int

    @property
    def confirmed(self) -> int:
        """Bytes by which the system says that resident memory fell, at least 0."""
        return max(0, self.resident_before - self.resident_after)

    def as_dict(self) -> dict[str, int]:
        """All figures by name, ready for JSON."""
        return {
            "decommitted": self.decommitted,
            "resident_before": self.resident_before,
            "resident_after": self.resident_after,
            "calls": self.calls,
            "confirmed": self.confirmed,
        }

    def _repr_html_(self) -> str:
        return html_table("Trim", ("", "value"), list(self.as_dict().items()))
