"""The snapshot of a process that is looked at from outside, or of a core file."""

from __future__ import annotations

import mmap
import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from dmi._layers import physical_memory
from dmi._moment import cgroup, memory_by_usage, scope
from dmi._snapshot import Snapshot, committed_sizes

from ._huge import huge_ranges
from ._jvm import survived
from ._python import PymallocHeap
from ._types import types_of

if TYPE_CHECKING:
    from . import Process
    from ._heaps import ForeignHeap, ForeignStats

__all__ = ["snapshot_of"]

_MOST_SIZES: Final = 20_000
_MOST_TYPES: Final = 200


def snapshot_of(source: Process, *, label: str = "") -> Snapshot:
    """The heaps of another process or of a core file, of every kind that is known, and its address
    space. What cannot be read is None. Raises what ``dmi.open_process`` raises."""
    summary = source.address_summary()
    outside = [_foreign(each, source) for each in source.heaps()]
    source.resume()
    tables = [(table.start, table.start + table.size) for table in source.tables()]
    memory, commit = memory_by_usage(summary.regions, source.pid if source.live else None, tables)
    physical: dict[str, int] = {}
    if source.live:
        with suppress(OSError):
            physical = physical_memory(source.pid)
    process: dict[str, int | None] = {
        **committed_sizes(summary),
        "resident": physical.get("Rss"),
        "swapped": physical.get("Swap"),
        "lazily_freed": physical.get("LazyFree"),
        "huge": physical.get("AnonHugePages"),
        "metadata": None,
    }
    return Snapshot(
        label, time.time() if source.live else 0.0, source.pid, mmap.PAGESIZE, (), tuple(outside),
        summary.as_dict(), process, source.program, memory, commit,
        scope(source.pid) if source.live else None, cgroup(source.pid) if source.live else None,
    )  # fmt: skip


def _foreign(each: ForeignHeap, source: Process) -> dict[str, Any]:
    """A heap that was looked at from outside. Blocks mapped on their own count with it."""
    stats = each.stats()
    mapped = stats.mapped or 0

    def whole(size: int | None) -> int | None:
        return None if size is None else size + mapped

    jvm = survived(source.pid) if source.live and "JVM" in stats.kind.split(" or ") else None
    alone = Counter(size for _, size in getattr(each, "mapped", ()))
    return {
        "name": f"{stats.kind} {each.name}".strip(),
        "kind": stats.kind,
        "handle": each.handle,
        "busy": whole(stats.busy),
        "committed": whole(stats.committed),
        "free": stats.free,
        "list_length": stats.free_blocks,
        "mapped": stats.mapped,
        "resident": whole(stats.resident),
        "memory": (stats.details or {}).get("memory"),
        "trim": stats.trim,
        "trim_top": (stats.details or {}).get("trim_top"),
        "pinned": stats.pinned,
        "free_on_huge_pages": _free_on_huge_pages(each, stats, source),
        "histogram": _counts(each),
        "mapped_histogram": sorted([size, count] for size, count in alone.items()),
        "types": _types(each, source),
        "survived": None if jvm is None else jvm.bytes,
        "collections": None if jvm is None else jvm.collections,
        "eden": None if jvm is None else jvm.eden,
    }


def _counts(each: ForeignHeap) -> list[list[int]] | None:
    """Busy blocks by size; None where they were not counted, or are of too many sizes."""
    rows = each.histogram()
    if rows is None or len(rows) > _MOST_SIZES:
        return None
    return [[row.size, row.count] for row in rows]


def _types(each: ForeignHeap, source: Process) -> dict[str, list[int]] | None:
    """Blocks and bytes by the type of Python's objects, the largest, from a sample; None of other
    heaps."""
    if not isinstance(each, PymallocHeap):
        return None
    rows = sorted(types_of(each, source.reader).items(), key=lambda row: -row[1][1])
    return {name: list(found) for name, found in rows[:_MOST_TYPES]}


def _free_on_huge_pages(each: ForeignHeap, stats: ForeignStats, source: Process) -> int | None:
    """Free bytes, in whole pages, that lie on huge pages; of pymalloc as the most that it can be.
    None: unknown."""
    details = stats.details or {}
    if not isinstance(each, PymallocHeap):
        return details.get("free_on_huge_pages")
    spans = [(s.address, s.address + s.reserved) for s in each.segments()]
    huge = huge_ranges(source.reader, spans)
    if huge is None:
        return None
    free = (details.get("free_pools") or 0) + (details.get("never_used") or 0)
    return min(free, sum(end - start for start, end in huge))
