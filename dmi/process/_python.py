"""pymalloc in a process: the arenas, pools and blocks of Python's small objects, per interpreter.

CPython keeps a table of 32 lists, one for each size class, of pools that have blocks left. A pool
begins a page and its header names its class, and the head of an empty list leads to itself: so the
table is known by what stands in it, in the data of the program or libpython. The vector of arenas
follows the table from 3.12 on; in 3.11 it is the pointer whose element holds a pool that is known.
Interpreters with an allocator of their own are found by ``_interpreters``; free-threaded builds
have no pymalloc.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from dmi import _foreign
from dmi.walk import HistogramRow, Segment

from ._glibc_find import Space, data_of_files, pieces
from ._heaps import ForeignPin, ForeignRange, ForeignRow, ForeignStats, histogram
from ._interpreters import COOKIE, tables_behind, words_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._heaps import Memory

__all__ = ["PymallocHeap", "pymalloc_heaps"]

_CLASSES: Final = 32
_TABLE: Final = 16 * _CLASSES
_HEADER: Final = 48
_OBJECT: Final = 48
_POOLS: Final = (4 << 10, 16 << 10, 32 << 10, 64 << 10)
_MAX_ARENAS: Final = 1 << 22
_MAX_POOLS: Final = 1 << 12
_FEW: Final = 4
_FIRST_ARENAS: Final = 16
"""Elements that the vector of arenas has at first; it is doubled when they are used up."""


@dataclass(frozen=True, slots=True)
class Arena:
    """One arena: its index, where it lies, what of it was carved into pools, how many of those are
    free or were never carved."""

    index: int
    address: int
    size: int
    carved: int
    free_pools: int
    pools: int

    def first(self, pool: int) -> int:
        """Its first pool."""
        return -(-self.address // pool) * pool


class PymallocHeap:
    """The small objects of one interpreter."""

    kind = "pymalloc"

    def __init__(
        self, memory: Memory, table: int, pool: int, arenas: Sequence[Arena], name: str
    ) -> None:
        self._memory = memory
        self._found: tuple[dict[str, Any], list[tuple[int, int, int, int]]] | None = None
        self.table = table
        self.pool = pool
        self.arenas = tuple(arenas)
        self.name = name

    @property
    def handle(self) -> int:
        """Address of the table of pools."""
        return self.table

    def counted(self) -> tuple[dict[str, Any], list[tuple[int, int, int, int]]]:
        """What the headers of the pools say, in all and of each arena."""
        if self._found is None:
            spans = [(a.index, a.first(self.pool), a.carved) for a in self.arenas]
            self._found = _foreign.pools(self._memory, spans, self.pool)
        return self._found

    def stats(self) -> ForeignStats:
        """Its figures. Blocks count with the size of their class."""
        total, each = self.counted()
        reserved = sum(arena.size for arena in self.arenas)
        whole = (total["empty"]) * self.pool
        never = sum(
            max(0, a.first(self.pool) + a.pools * self.pool - a.carved) for a in self.arenas
        )
        unknown = total["unknown"] * self.pool
        free = total["free"] + whole + never
        few = [
            (arena.pools - used) * self.pool
            for arena, (_, used, _, _) in zip(self.arenas, each, strict=True)
            if 0 < used <= _FEW
        ]
        spans = [(a.address, a.size) for a in self.arenas]
        return ForeignStats(
            kind=self.kind,
            reserved=reserved,
            committed=reserved,
            busy=total["busy"],
            busy_blocks=sum(busy for _, busy, _ in total["classes"]),
            free=free,
            free_blocks=sum(room - busy for _, busy, room in total["classes"]) + total["empty"],
            overhead=max(0, reserved - total["busy"] - free - unknown),
            unknown=unknown,
            resident=_foreign.resident(self._memory, spans),
            trim=0,
            pinned=sum(few),
            details={
                "arenas": len(self.arenas),
                "arena_size": max((arena.size for arena in self.arenas), default=0),
                "pool_size": self.pool,
                "pools_used": total["used"],
                "pools_empty": total["empty"],
                "free_in_pools": total["free"],
                "free_pools": whole,
                "never_used": never,
                "arenas_held_by_few_pools": len(few),
            },
        )

    def row(self) -> ForeignRow:
        """The columns of `!heap -s`."""
        stats = self.stats()
        return ForeignRow(
            kind=self.kind,
            handle=self.handle,
            reserved=stats.reserved,
            committed=stats.committed,
            virtual=stats.reserved,
            free=stats.free,
            list_length=stats.free_blocks,
            uncommitted_ranges=0,
            virtual_blocks=0,
        )

    def segments(self) -> list[Segment]:
        """Its arenas, by address."""
        ordered = sorted(self.arenas, key=lambda arena: arena.address)
        return [Segment(arena.address, arena.size, arena.size, 0, False) for arena in ordered]

    def histogram(self) -> list[HistogramRow]:
        """Busy blocks by size class."""
        return histogram({size: busy for size, busy, _ in self.counted()[0]["classes"]})

    def pins(self, top: int = 10) -> list[ForeignPin]:
        """Arenas of which few pools are in use, as (address, busy bytes, bytes of its free pools):
        an arena goes back when its last pool is empty."""
        found = [
            ForeignPin(arena.address, busy, (arena.pools - used) * self.pool)
            for arena, (_, used, busy, _) in zip(self.arenas, self.counted()[1], strict=True)
            if used and used < arena.pools
        ]
        return sorted(found, key=lambda pin: -pin.pinned)[:top]

    def walk(self) -> Iterator[ForeignRange]:
        """Every block of every pool, by address; pools that are free as a whole are one range."""
        for arena in sorted(self.arenas, key=lambda each: each.address):
            first = arena.first(self.pool)
            if first > arena.address:
                yield ForeignRange(
                    arena.address, first - arena.address, "overhead", "overhead", 0, arena.address
                )
            for at in range(first, arena.carved, self.pool):
                yield from self._blocks(arena, at)
            end = first + arena.pools * self.pool
            if end > arena.carved:
                yield ForeignRange(
                    arena.carved, end - arena.carved, "pages", "free", 0, arena.address
                )
            if arena.address + arena.size > end:
                rest = arena.address + arena.size - end
                yield ForeignRange(end, rest, "overhead", "overhead", 0, arena.address)

    def _blocks(self, arena: Arena, at: int) -> Iterator[ForeignRange]:
        data = self._memory.read(at, self.pool)
        head = None if data is None else read_pool(data, self.pool)
        if data is None or head is None or head[3] not in (0, arena.index):
            yield ForeignRange(at, self.pool, "pages", "unknown", 0, arena.address)
            return
        count, _, block, _, _ = head
        if count == 0:
            yield ForeignRange(at, self.pool, "pages", "free", 0, arena.address)
            return
        yield ForeignRange(at, _HEADER, "overhead", "overhead", block, arena.address)
        room = (self.pool - _HEADER) // block
        busy = {offset for offset, _ in pool_blocks(data, at, self.pool, arena.index)}
        for number in range(room):
            offset = _HEADER + number * block
            state = "busy" if offset in busy else "free"
            yield ForeignRange(at + offset, block, "lfh", state, block, arena.address)
        end = at + _HEADER + room * block
        if end < at + self.pool:
            yield ForeignRange(
                end, at + self.pool - end, "overhead", "overhead", block, arena.address
            )


def pool_blocks(data: bytes, at: int, pool: int, index: int) -> list[tuple[int, int]]:
    """Offset and size of each busy block of the pool at ``at`` of arena ``index``."""
    head = read_pool(data, pool)
    if head is None or head[3] not in (0, index) or head[0] == 0:
        return []
    _, free, block, _, following = head
    listed: set[int] = set()
    while at + _HEADER <= free <= at + pool - block and free - at not in listed:
        listed.add(free - at)
        (free,) = struct.unpack_from("<Q", data, free - at)
    end = min(following, _HEADER + (pool - _HEADER) // block * block)
    return [(offset, block) for offset in range(_HEADER, end, block) if offset not in listed]


def read_pool(data: bytes, pool: int) -> tuple[int, int, int, int, int] | None:
    """(busy blocks, first free one, block size, arena index, where what was never used begins)."""
    count, free = struct.unpack_from("<I4xQ", data)
    index, size_class, following, last = struct.unpack_from("<4I", data, 32)
    block = 16 * (size_class + 1)
    if size_class >= 64 or last != pool - block or count > (pool - _HEADER) // block:
        return None if count else (0, 0, 16, index, 0)
    return count, free, block, index, following


# ---- finding it ----------------------------------------------------------------------------------


def pymalloc_heaps(memory: Memory, space: Space) -> tuple[list[PymallocHeap], list[str]]:
    """pymalloc of every interpreter; and what could not be told."""
    heaps: list[PymallocHeap] = []
    notes: list[str] = []
    tables: dict[int, bytes] = {}
    cookies: list[int] = []
    for start, end in data_of_files(space):
        for at, data in pieces(memory, start, end):
            for first, last, _ in _foreign.linked_pages(data, at, _TABLE // 8):
                _look_for_table(memory, space, data, at, first, last, tables)
            where = data.find(COOKIE)
            while where >= 0:
                cookies.append(at + where)
                where = data.find(COOKIE, where + 1)
    for cookie in cookies:
        for word in words_of(memory, space, cookie):
            raw = memory.read(word, _TABLE)
            if raw and _is_table(space, raw, word):
                tables.setdefault(word, raw)
    for table in () if cookies else list(tables):
        for other in tables_behind(memory, space, table):
            raw = memory.read(other, _TABLE)
            if raw and _is_table(space, raw, other):
                tables.setdefault(other, raw)
    for table, raw in tables.items():
        number = len(heaps)
        name = "main interpreter" if not number else f"interpreter {number}"
        found = _heap_at(memory, space, table, raw, name)
        if isinstance(found, PymallocHeap):
            heaps.append(found)
        elif found:
            notes.append(found)
    return heaps, notes


def _is_pair(space: Space, raw: bytes, offset: int, address: int) -> bool:
    """Whether the pair of words is the head of a list of pools."""
    low, high = struct.unpack_from("<2Q", raw, offset)
    if low == high == address - 16:
        return True
    return bool(
        low and high and not (low | high) & 4095 and space.writable(low) and space.writable(high)
    )


def _is_table(space: Space, raw: bytes, address: int) -> bool:
    return all(_is_pair(space, raw, 16 * i, address + 16 * i) for i in range(_CLASSES))


def _look_for_table(
    memory: Memory,
    space: Space,
    data: bytes,
    at: int,
    first: int,
    last: int,
    found: dict[int, bytes],
) -> None:
    """Take of a run of words what is 32 heads side by side, one with a pool of its class."""
    words = struct.unpack_from(f"<{(last + 8 - first) // 8}Q", data, first - at)
    if all(word & 4095 for word in words):
        return  # empty lists alone, as glibc's bins are
    for start in range(first, last + 8 - _TABLE + 1, 8):
        raw = data[start - at : start - at + _TABLE]
        if _is_table(space, raw, start) and _known_pool(memory, start, raw):
            found.setdefault(start, raw)
            return


def _known_pool(memory: Memory, table: int, raw: bytes) -> tuple[int, int, int] | None:
    """(address, pool size, arena index) of a pool in the table whose header names its class; None
    when the table has none, or one that does not fit."""
    found = None
    for number in range(_CLASSES):
        (at,) = struct.unpack_from("<Q", raw, 16 * number)
        if at == table + 16 * number - 16:
            continue
        data = memory.read(at, _HEADER)
        if data is None:
            continue
        index, size_class, _, last = struct.unpack_from("<4I", data, 32)
        pool = last + 16 * (size_class + 1)
        if size_class != number or pool not in _POOLS or at % pool:
            return None
        found = found or (at, pool, index)
    return found


def _heap_at(
    memory: Memory, space: Space, table: int, raw: bytes, name: str
) -> PymallocHeap | str | None:
    known = _known_pool(memory, table, raw)
    if known is None:
        return None
    at, pool, index = known
    behind = memory.read(table + _TABLE, 16)
    if behind is not None:
        vector, most = struct.unpack("<QI", behind[:12])
        if index < most <= _MAX_ARENAS:
            arenas = _arenas(memory, space, vector, most, pool, index, at)
            if arenas:
                return PymallocHeap(memory, table, pool, arenas, name)
    vector, most = _search_vector(memory, space, table, pool, index, at)
    arenas = _arenas(memory, space, vector, most, pool, index, at) if vector else []
    if arenas:
        return PymallocHeap(memory, table, pool, arenas, name)
    return f"pymalloc's pools at {table:x} lead to no arenas"


def _arena(raw: bytes, offset: int, number: int, pool: int) -> Arena | None:
    address, carved, free, pools = struct.unpack_from("<QQII", raw, offset)
    if not address or address & 4095 or not 0 < pools <= _MAX_POOLS or free > pools:
        return None
    size = (pools if address % pool == 0 else pools + 1) * pool
    if size & (size - 1) or address >> 48:
        return None
    first = -(-address // pool) * pool
    if not first <= carved <= address + size or carved % pool:
        return None
    return Arena(number, address, size, carved, free, pools)


def _arenas(
    memory: Memory, space: Space, vector: int, most: int, pool: int, index: int, at: int
) -> list[Arena]:
    """The arenas of a vector whose element `index` must hold the pool; empty when it does not."""
    here = space.at(vector)
    if here is None or vector % 8:
        return []
    most = min(most, _MAX_ARENAS, (here.end - vector) // _OBJECT)
    if index >= most:
        return []
    raw = memory.read(vector + index * _OBJECT, _OBJECT)
    one = _arena(raw, 0, index, pool) if raw else None
    if one is None or not one.address <= at < one.address + one.size:
        return []
    whole = memory.read(vector, most * _OBJECT)
    if whole is None:
        return []
    found = [_arena(whole, i * _OBJECT, i, pool) for i in range(most)]
    return [
        each
        for each in found
        if each is not None and each.size == one.size and space.writable(each.address)
    ]


def _search_vector(
    memory: Memory, space: Space, table: int, pool: int, index: int, at: int
) -> tuple[int, int]:
    """The vector of arenas by a pointer in the data of the same file, and how long it can be."""
    for start, end in data_of_files(space):
        if not start <= table < end:
            continue
        for _, data in pieces(memory, start, end):
            for (word,) in struct.iter_unpack("<Q", data):
                if word & 7 or start <= word < end or not word or not space.writable(word):
                    continue
                raw = memory.read(word + index * _OBJECT, 24)
                if raw is None:
                    continue
                one = _arena(raw, 0, index, pool)
                if one is None or not one.address <= at < one.address + one.size:
                    continue
                return word, _length(memory, word, pool) or _by_block(memory, word, index)
    return 0, 0


def _length(memory: Memory, vector: int, pool: int) -> int:
    """How many elements a vector without a count has: 16, or that doubled, as many as are arenas or
    stand in the one list of those that are not. 0: not told. Whose block it lies in is not asked,
    for Python may run on any malloc."""
    found, most, ends = 0, _FIRST_ARENAS, 0
    while most <= _MAX_ARENAS:
        raw = memory.read(vector + found * _OBJECT, (most - found) * _OBJECT)
        if raw is None:
            break
        for offset in range(0, len(raw), _OBJECT):
            if _arena(raw, offset, 0, pool) is not None:
                continue
            address, following = struct.unpack_from("<Q24xQ", raw, offset)
            inside = 0 <= following - vector < 2 * most * _OBJECT
            if address or (following and (not inside or (following - vector) % _OBJECT)):
                return found
            ends += not following
            if ends > 1:
                return found
        found, most = most, 2 * most
    return found


def _by_block(memory: Memory, vector: int, index: int) -> int:
    """The same by the header of glibc's block, at least what is known to be there."""
    head = memory.read(vector - 8, 8)
    size = struct.unpack("<Q", head)[0] & ~7 if head else 0
    return max(index + 1, (size - 8) // _OBJECT)
