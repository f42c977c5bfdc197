"""Which block sizes grew between two snapshots: `!heap -stat` of both, subtracted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._heap import number

if TYPE_CHECKING:
    from ._heap import HeapSource

__all__ = ["grown", "grown_text"]

_MOST = 20


def grown(before: HeapSource, after: HeapSource, handle: str = "0") -> list[dict[str, Any]]:
    """For each heap of either moment the sizes whose busy blocks changed, the largest gain first.

    ``handle`` names one heap as the debugger would; 0 is all of them. ValueError for a heap that
    neither has. A heap that one of the snapshots does not list did not exist then.
    """
    wanted = number(handle)
    heaps = {heap.handle: heap.name for source in (before, after) for heap in source.heaps}
    if wanted and wanted not in heaps:
        raise ValueError(f"neither snapshot has a heap {wanted:x}")
    found = []
    for each in heaps if not wanted else [wanted]:
        first, last = _counts(before, each), _counts(after, each)
        rows = [
            {
                "size": size,
                "before": first.get(size, 0),
                "after": last.get(size, 0),
                "gained": (last.get(size, 0) - first.get(size, 0)) * size,
            }
            for size in first.keys() | last.keys()
            if first.get(size, 0) != last.get(size, 0)
        ]
        rows.sort(key=lambda row: (-row["gained"], row["size"]))
        gained = sum(row["gained"] for row in rows)
        threads = _threads(before, after, each)
        found.append(
            {"handle": each, "name": heaps[each], "gained": gained, "sizes": rows,
             "threads": threads}
        )  # fmt: skip
    return sorted(found, key=lambda heap: -heap["gained"])


def _threads(before: HeapSource, after: HeapSource, handle: int) -> list[dict[str, Any]] | None:
    """What each thread keeps in flight, the largest gain first; None where that is not known."""
    both = []
    for source in (before, after):
        heap = next((heap for heap in source.heaps if heap.handle == handle), None)
        counts = {} if heap is None else getattr(heap, "threads", None)
        if counts is None:
            return None
        both.append(counts)
    first, last = both
    rows = [
        {"thread": name, "before": first.get(name, 0), "after": last.get(name, 0),
         "gained": last.get(name, 0) - first.get(name, 0)}
        for name in first.keys() | last.keys()
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (-row["gained"], row["thread"]))


def _counts(source: HeapSource, handle: int) -> dict[int, int]:
    return {
        row.size: row.count
        for heap in source.heaps
        if heap.handle == handle
        for row in heap.histogram
    }


def grown_text(found: list[dict[str, Any]]) -> str:
    """The same as a table; numbers are hexadecimal, as in the debugger, but for the KB gained."""
    lines = []
    for heap in found:
        name = f" ({heap['name']})" if heap["name"] else ""
        lines.append(f" heap @ {heap['handle']:08x}{name}: {heap['gained'] // 1024:+,} KB busy")
        lines.append("    size     #before  #after -   gained KB")
        lines += [
            f"    {row['size']:<8x} {row['before']:<8x} {row['after']:<6x} - {kib:+,}"
            for row, kib in ((row, row["gained"] // 1024) for row in heap["sizes"][:_MOST])
        ]
        if len(heap["sizes"]) > _MOST:
            lines.append(f"    and {len(heap['sizes']) - _MOST} more sizes that changed")
        lines += [
            f"    in flight of thread {row['thread']!r}: {row['gained'] // 1024:+,} KB"
            for row in (heap["threads"] or [])[:_MOST]
            if row["gained"] > 0
        ]
    return "\n".join(lines) + "\n"
