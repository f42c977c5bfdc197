"""Which block sizes grew between two snapshots: `!heap -stat` of both, subtracted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from ._heap import number

if TYPE_CHECKING:
    from ._heap import HeapSource

__all__ = ["grown", "grown_text"]

_MOST = 20


def grown(before: HeapSource, after: HeapSource, handle: str = "0") -> list[dict[str, Any]]:
    """For each heap of either moment the sizes whose busy blocks changed, the largest gain first,
    and of Python's objects the types.

    ``handle`` names one heap as the debugger would; 0 is all of them. ValueError for a heap that
    neither has. A heap that one of the snapshots does not list did not exist then. Where a heap's
    sizes were not counted in both, ``gained`` and ``sizes`` are None; heaps of other allocators
    stand beside dmi's where they were counted.
    """
    wanted = number(handle)
    both = [_heaps(before), _heaps(after)]
    heaps = {each.handle: each.name for heaps in both for each in heaps.values()}
    if wanted and wanted not in heaps:
        raise ValueError(f"neither snapshot has a heap {wanted:x}")
    own = {heap.handle for source in (before, after) for heap in source.heaps}
    found = []
    for each in heaps if not wanted else [wanted]:
        ends = [heaps.get(each) for heaps in both]
        rows = gained = None
        if all(end is None or end.sizes is not None for end in ends):
            first, last = (end.sizes or {} if end is not None else {} for end in ends)
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
        elif each not in own and not wanted:
            continue
        threads = _threads(before, after, each)
        found.append(
            {"handle": each, "name": heaps[each], "gained": gained, "sizes": rows,
             "threads": threads, "types": _types(*ends)}
        )  # fmt: skip
    return sorted(found, key=lambda heap: -(heap["gained"] or 0))


class _Sizes(NamedTuple):
    """One heap at one moment: busy blocks by size, and bytes by type; None where not counted."""

    handle: int
    name: str
    sizes: dict[int, int] | None
    types: dict[str, tuple[int, int]] | None


def _heaps(source: HeapSource) -> dict[int, _Sizes]:
    """The heaps of a snapshot, dmi's and others."""
    found = {
        heap.handle: _Sizes(
            heap.handle,
            heap.name,
            None if heap.histogram is None else {row.size: row.count for row in heap.histogram},
            None,
        )
        for heap in source.heaps
    }
    for entry in getattr(source, "outside", ()):
        handle, rows, types = (entry.get(name) for name in ("handle", "histogram", "types"))
        if not isinstance(handle, int) or handle in found:
            continue
        sizes: dict[int, int] | None = None
        if isinstance(rows, list | tuple) and all(map(_is_pair, rows)):
            sizes = {row[0]: row[1] for row in rows}
            alone = entry.get("mapped_histogram")
            if isinstance(alone, list | tuple) and all(map(_is_pair, alone)):
                for size, count in alone:
                    sizes[size] = sizes.get(size, 0) + count
        if not isinstance(types, dict) or not all(map(_is_pair, types.values())):
            types = None
        named = None if types is None else {str(k): (v[0], v[1]) for k, v in types.items()}
        found[handle] = _Sizes(handle, str(entry.get("name") or ""), sizes, named)
    return found


def _is_pair(value: Any) -> bool:
    return (
        isinstance(value, list | tuple)
        and len(value) == 2
        and all(isinstance(each, int) and not isinstance(each, bool) for each in value)
    )


def _types(first: _Sizes | None, last: _Sizes | None) -> list[dict[str, Any]] | None:
    """What the objects of each type gained, the largest first; None where that is not known."""
    if first is None or last is None or first.types is None or last.types is None:
        return None
    rows = [
        {"type": name, "before": had[0], "after": has[0], "gained": has[1] - had[1]}
        for name in first.types.keys() | last.types.keys()
        for had, has in [(first.types.get(name, (0, 0)), last.types.get(name, (0, 0)))]
        if had != has
    ]
    return sorted(rows, key=lambda row: (-row["gained"], row["type"]))


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


def grown_text(found: list[dict[str, Any]]) -> str:
    """The same as a table; numbers are hexadecimal, as in the debugger, but for the KB gained."""
    lines = []
    for heap in found:
        name = f" ({heap['name']})" if heap["name"] else ""
        if heap["sizes"] is None:
            lines.append(f" heap @ {heap['handle']:08x}{name}: sizes were not counted in both")
            continue
        lines.append(f" heap @ {heap['handle']:08x}{name}: {heap['gained'] // 1024:+,} KB busy")
        lines.append("    size     #before  #after -   gained KB")
        lines += [
            f"    {row['size']:<8x} {row['before']:<8x} {row['after']:<6x} - {kib:+,}"
            for row, kib in ((row, row["gained"] // 1024) for row in heap["sizes"][:_MOST])
        ]
        if len(heap["sizes"]) > _MOST:
            lines.append(f"    and {len(heap['sizes']) - _MOST} more sizes that changed")
        if heap["types"]:
            lines.append("    of Python's objects, from a sample:")
        lines += [
            f"    {row['before']:>10,} -> {row['after']:<10,} {row['gained'] // 1024:+,} KB  "
            f"{row['type']}"
            for row in (heap["types"] or [])[:_MOST]
            if row["gained"] > 0
        ]
        lines += [
            f"    in flight of thread {row['thread']!r}: {row['gained'] // 1024:+,} KB"
            for row in (heap["threads"] or [])[:_MOST]
            if row["gained"] > 0
        ]
    return "\n".join(lines) + "\n"
