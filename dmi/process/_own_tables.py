"""What dmi has mapped for itself in a process: its page map, descriptors, the sampler's tables. Its
library lists them for readers from outside (csrc/os/own.h); builds before 2026-11-29 do not."""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

from dmi.address._outside import layout_roots

from ._pages import resident
from ._rights import ShapeHeap

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dmi.address import AddressSummary, Region
    from dmi.address._maps import Mapping, Source

    from ._heaps import ForeignHeap


__all__ = ["KIND", "OwnTable", "own_tables", "segment_tables", "table_heaps"]

KIND: Final = "dmi tables"
_LEAST: Final = 1 << 20
_PIECE: Final = 1 << 20
_MOST_WRITTEN: Final = 1 << 28
"""Bytes of one table that are looked through."""
_Row = tuple[int, int, int, "int | None"]
"""Start, size, committed, resident."""

_HEAD: Final = struct.Struct("<16s4I")
_FIELD: Final = 32
_OWN: Final = 6
"""The list is the seventh of the pointers between head and fields."""
_LIST: Final = struct.Struct("<QQ")
_AREA: Final = struct.Struct("<QQ16s")
_MOST: Final = 1024
_NAMES: Final = {
    "dmi-pagemap": "page map",
    "dmi-profile": "profiler",
    "dmi-watch": "profiler",
    "dmi-heaps": "descriptors of heaps",
    "dmi-virtual": "descriptors of large blocks",
    "dmi-caches": "caches of threads",
    "dmi-threads": "caches of threads",
    "dmi-states": "states of hardened blocks",
    "dmi-quarantine": "quarantine",
    "dmi-guarded": "guarded blocks",
}


class OwnTable(NamedTuple):
    """A mapping of the library's own, and what it is for."""

    start: int
    size: int
    name: str


def own_tables(source: Source, mappings: Iterable[Mapping]) -> list[OwnTable]:
    """All that are listed. A list that does not fit what it says of itself is none."""
    found = []
    for root in layout_roots(source, mappings):
        found += _listed(source, root)
    return found


def _listed(source: Source, root: int) -> list[OwnTable]:
    head = source.read(root, _HEAD.size)
    if head is None or len(head) < _HEAD.size:
        return []
    _, size, _, _, fields = _HEAD.unpack(head)
    pointers = (size - _HEAD.size - fields * _FIELD) // 8
    if not _OWN < pointers <= 64:
        return []
    at = _word(source, root + _HEAD.size + 8 * _OWN)
    begin = source.read(at, _LIST.size) if at and at % 8 == 0 else None
    if begin is None or len(begin) < _LIST.size:
        return []
    count, each = _LIST.unpack(begin)
    if each != _AREA.size or not 0 < count <= _MOST:
        return []
    data = source.read(at + _LIST.size, count * each) or b""
    tables = []
    for start, room, raw in _AREA.iter_unpack(data[: len(data) // each * each]):
        name = raw.split(b"\0")[0].decode("ascii", "replace")
        if start and start % 4096 == 0 and room % 4096 == 0 and start + room < 1 << 63 and room:
            tables.append(OwnTable(start, room, _NAMES.get(name, "tables")))
    return tables


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
            if any(_word(source, start + at) == segment.address for at in offsets):
                found.append(OwnTable(start, segment.address - start, "bitmaps"))
    return found


def _base_at(source: Source, root: int) -> int | None:
    """Where a segment's struct has the address of the segment, by the table of fields."""
    head = source.read(root, _HEAD.size)
    if head is None or len(head) < _HEAD.size:
        return None
    _, size, _, _, fields = _HEAD.unpack(head)
    if not 0 < fields <= _MOST or size < _HEAD.size + fields * _FIELD:
        return None
    table = source.read(root + size - fields * _FIELD, fields * _FIELD) or b""
    for name, offset, _ in struct.iter_unpack("<24sII", table[: len(table) // _FIELD * _FIELD]):
        if name.rstrip(b"\0") == b"segment.base":
            return int(offset)
    return None


def _word(source: Source, address: int) -> int:
    data = source.read(address, 8)
    return int.from_bytes(data, "little") if data is not None and len(data) == 8 else 0


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
