"""What dmi has mapped for itself, as heaps, and the tables that stand before each segment."""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from dmi.address._outside import layout_roots
from dmi.address._own_tables import FIELD, HEAD, MOST, OwnTable, word

from ._pages import resident
from ._rights import ShapeHeap

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dmi.address import AddressSummary, Region
    from dmi.address._maps import Mapping, Source

    from ._heaps import ForeignHeap


__all__ = ["KIND", "segment_tables", "table_heaps"]

KIND: Final = "dmi tables"
_LEAST: Final = 1 << 20
_PIECE: Final = 1 << 20
_MOST_WRITTEN: Final = 1 << 28
"""Bytes of one table that are looked through."""
_Row = tuple[int, int, int, "int | None"]
"""Start, size, committed, resident."""


def segment_tables(
    source: Source, mappings: Sequence[Mapping], heaps: Iterable[ForeignHeap]
) -> list[OwnTable]:
    """The bitmaps and run descriptors of each segment of dmi's heaps: they stand right before it,
    behind a struct that says where the segment begins."""
    offsets = {at for root in layout_roots(source, mappings) if (at := _base_at(source, root))}
    starts = [mapping.start for mapping in mappings]
    found = []
    for heap in heaps:
        for segment in heap.segments() if heap.kind == "dmi" else ():
            index = bisect_right(starts, segment.address - 1) - 1
            if segment.virtual or index < 0 or mappings[index].end < segment.address:
                continue
            start = mappings[index].start
            if any(word(source, start + at) == segment.address for at in offsets):
                found.append(OwnTable(start, segment.address - start, "bitmaps"))
    return found


def _base_at(source: Source, root: int) -> int | None:
    """Where a segment's struct has the address of the segment, by the table of fields."""
    head = source.read(root, HEAD.size)
    if head is None or len(head) < HEAD.size:
        return None
    _, size, _, _, fields = HEAD.unpack(head)
    if not 0 < fields <= MOST or size < HEAD.size + fields * FIELD:
        return None
    table = source.read(root + size - fields * FIELD, fields * FIELD) or b""
    for name, offset, _ in struct.iter_unpack("<24sII", table[: len(table) // FIELD * FIELD]):
        if name.rstrip(b"\0") == b"segment.base":
            return int(offset)
    return None


def table_heaps(
    memory: Source, tables: Iterable[OwnTable], summary: AddressSummary
) -> list[ShapeHeap]:
    """The tables as heaps, one for each use of which there is enough to be worth a row."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for table in tables:
        spans.setdefault(table.name, []).append((table.start, table.start + table.size))
    rows = {name: _rows(memory, summary, each) for name, each in spans.items()}
    shown = {name: each for name, each in rows.items() if _held(each) >= _LEAST}
    rest = [row for name, each in rows.items() if name not in shown for row in each]
    if _held(rest) >= _LEAST:
        shown["tables"] = rest
    return [ShapeHeap(KIND, each, name=name) for name, each in shown.items()]


def _held(rows: Sequence[_Row]) -> int:
    return sum(row[2] if row[3] is None else max(row[2], row[3]) for row in rows)


def _written(memory: Source, region: Region, start: int, end: int) -> int:
    """Where a core file does not say what was in memory: bytes of the pages that hold anything.
    Tables are mapped for much more than they will ever hold, and what may not be written is zero.
    """
    if region.protect != "PAGE_READWRITE":
        return 0
    found = 0
    for at in range(start, min(end, start + _MOST_WRITTEN), _PIECE):
        data = memory.read(at, min(_PIECE, end - at)) or b""
        if data.count(0) < len(data):
            pages = (data[i : i + 4096] for i in range(0, len(data), 4096))
            found += sum(len(page) for page in pages if page.count(0) < len(page))
    return found


def _rows(memory: Source, summary: AddressSummary, spans: Iterable[tuple[int, int]]) -> list[_Row]:
    """Each stretch with what is committed and in memory of it. None of them counts twice, whatever
    the list says."""
    rows: list[_Row] = []
    regions = summary.regions
    starts = [region.start for region in regions]
    done = 0
    for start, end in sorted(spans):
        for region in regions[max(0, bisect_right(starts, max(start, done)) - 1) :]:
            if region.start >= end:
                break
            low, high = max(start, region.start, done), min(end, region.end)
            if low < high:
                there = resident(memory, region, low, high - low)
                committed = region.committed * (high - low) // region.size
                if there is None:
                    committed = _written(memory, region, low, high)
                rows.append((low, high - low, committed, there))
        done = max(done, end)
    return rows
