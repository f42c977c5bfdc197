"""The heaps of this process.

Counters are read at each call. What needs a walk (reasons, page bound, resident) is read again only
when the last walk is so long ago that walks take no more than a share of the time; its age is a
metric of its own.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dmi import heap
from dmi.errors import HeapError
from dmi.metrics._sample import metric
from dmi.metrics._system import rollup, system_metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from dmi.metrics._sample import Metric
    from dmi.stats import HeapStats

__all__ = ["OwnHeaps", "heap_metrics"]

_GAUGES = (
    ("reserved", "By", "address space held"),
    ("committed", "By", "pages that the heap may touch"),
    ("busy", "By", "usable bytes of blocks handed to the caller"),
    ("retained", "By", "committed and not busy"),
    ("offered", "By", "pages that the system may take when it wants to"),
    ("overhead", "By", "tags, tails and gaps on committed pages"),
    ("metadata_committed", "By", "metadata outside the heap's segments"),
    ("busy_blocks", "{block}", "blocks handed to the caller"),
    ("segments", "{segment}", "segments"),
    ("uncommitted_ranges", "{range}", "maximal uncommitted ranges in segments"),
    ("virtual_blocks", "{block}", "busy blocks mapped on their own"),
)
_COUNTERS = (
    ("commit_bytes", "commit", "By", "bytes committed for the first time"),
    ("decommit_bytes", "decommit", "By", "bytes decommitted"),
    ("recommit_bytes", "recommit", "By", "bytes committed again"),
    ("decommit_calls", "decommit_calls", "{call}", "system calls that decommitted"),
    ("recommit_calls", "recommit_calls", "{call}", "times decommitted pages were committed again"),
    ("refused_calls", "refused_calls", "{call}", "decommits that the system refused"),
    ("lock_contention", "lock_contention", "{acquisition}", "contended acquisitions of a lock"),
)
_FREE = ("free_lfh", "free_list", "free_pages")


class OwnHeaps:
    """This process as a source of metrics. Thread-safe.

    share  of wall time that walks may take, 0 for counters only. Heaps of one name are summed.
    """

    def __init__(self, *, share: float = 0.01, clock: Callable[[], float] = time.monotonic) -> None:
        if isinstance(share, bool) or not isinstance(share, (int, float)):
            raise TypeError(f"share must be a number, not {type(share).__name__}")
        if not 0 <= share <= 1:
            raise ValueError(f"share must be from 0 to 1, not {share}")
        self._share = share
        self._clock = clock
        self._lock = threading.Lock()
        self._detail: dict[str, dict[str, Any]] = {}
        self._taken = -1.0
        self._cost = 0.0
        self._rollup: dict[str, int] = {}

    def metrics(self) -> list[Metric]:
        """What can be said now."""
        now: dict[str, list[HeapStats]] = {}
        policies: list[tuple[Mapping[str, str], float]] = []
        for each in heap.heaps():
            with suppress(HeapError):  # destroyed meanwhile
                name = _label(each)
                now.setdefault(name, []).append(each.stats())
                policies.append(({"heap": name, "decommit": str(each.decommit)}, 1.0))
        with self._lock:
            detail, age = self._walked()
        found = heap_metrics({name: _summed(rows) for name, rows in now.items()}, detail)
        found.append(
            metric("dmi.heap.count", "gauge", "{heap}", "heaps of this name",
                   [({"heap": name}, len(rows)) for name, rows in now.items()])
        )  # fmt: skip
        unique = {tuple(sorted(labels.items())): labels for labels, _ in policies}
        found.append(
            metric("dmi.heap.info", "gauge", "1", "the decommit policy of each heap",
                   [(labels, 1.0) for labels in unique.values()])
        )  # fmt: skip
        found.append(
            metric("dmi.heap.detail.age", "gauge", "s", "how old reasons and page bounds are",
                   [({}, age if detail else None)])
        )  # fmt: skip
        found.append(
            metric("dmi.metadata", "gauge", "By", "committed metadata that belongs to no heap",
                   [({}, heap.metadata_committed())])
        )  # fmt: skip
        return [*(each for each in found if each is not None), *system_metrics(None, self._rollup)]

    def _walked(self) -> tuple[dict[str, dict[str, Any]], float]:
        """The last walk's figures and their age; walks again where the budget allows."""
        begin = self._clock()
        due = self._share > 0 and (
            self._taken < 0 or begin - self._taken >= self._cost / self._share
        )
        if due:
            rows: dict[str, list[HeapStats]] = {}
            for each in heap.heaps():
                with suppress(HeapError):
                    rows.setdefault(_label(each), []).append(each.stats(detail=True))
            self._detail = {name: _summed(found) for name, found in rows.items()}
            self._rollup = rollup(None)
            self._taken = self._clock()
            self._cost = self._taken - begin
        return self._detail, max(0.0, self._clock() - self._taken)


def _label(each: heap.Heap) -> str:
    return each.name or ("default" if each.is_default else "unnamed")


def _summed(rows: list[HeapStats]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for stats in rows:
        for name, value in stats.as_dict().items():
            if name in ("reasons", "ages"):
                table = total.setdefault(name, {})
                for reason, size in (value or {}).items():
                    table[reason] = table.get(reason, 0) + size
            elif value is None:
                total.setdefault(name, None)
            else:
                total[name] = (total.get(name) or 0) + value
    return total


def heap_metrics(
    now: Mapping[str, Mapping[str, Any]], detail: Mapping[str, Mapping[str, Any]]
) -> list[Metric | None]:
    """The metrics of heaps by name: counters of ``now``, the rest of ``detail``. Unknown is left
    out."""

    def rows(name: str, values: Mapping[str, Mapping[str, Any]]) -> Any:
        return [({"heap": each}, row.get(name)) for each, row in values.items()]

    found = [
        metric(f"dmi.heap.{name}", "gauge", unit, text, rows(name, now))
        for name, unit, text in _GAUGES
    ]
    found.append(
        metric(
            "dmi.heap.free", "gauge", "By", "free bytes on committed pages, by where they lie",
            [({"heap": each, "place": place.removeprefix("free_")}, row.get(place))
             for each, row in now.items() for place in _FREE],
        )
    )  # fmt: skip
    found += [
        metric(f"dmi.heap.{name}", "counter", unit, text, rows(field, now))
        for field, name, unit, text in _COUNTERS
    ]
    for field, text in (
        ("page_bound", "distinct pages that hold a byte of a busy block"),
        ("pinned", "free bytes on pages that busy blocks keep"),
        ("reclaimable", "free bytes on pages without a byte of a busy block"),
        ("resident", "the heap's bytes in physical memory"),
    ):
        found.append(metric(f"dmi.heap.{field}", "gauge", "By", text, rows(field, detail)))
    found.append(
        metric(
            "dmi.heap.retained_by_reason", "gauge", "By", "retained bytes by why they are retained",
            [({"heap": each, "reason": reason}, size)
             for each, row in detail.items()
             for reason, size in (row.get("reasons") or {}).items()],
        )
    )  # fmt: skip
    return found
