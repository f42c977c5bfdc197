"""What the small objects of a Python process are, looked at from outside: a sample of pymalloc's
pools, and of each busy block the type that its object names.

A block is taken for an object only where its type pointer leads to a type, its reference count is
one, the collector's header is there exactly if the type has one, and the type's size fits the
block.
"""

from __future__ import annotations

import random
import struct
from typing import TYPE_CHECKING, Final

from ._python import pool_blocks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._heaps import Memory
    from ._python import Arena, PymallocHeap

__all__ = ["NO_OBJECT", "types_of"]

NO_OBJECT: Final = "(no object)"
"""Blocks that are no object for certain: tables of dicts and lists, buffers."""
_MOST_POOLS: Final = 384
_OFFSETS: Final = (0, 16, 32)
"""Where an object may begin in its block: behind the collector's header, and what is before it."""
_MOST_LOOKS: Final = 1 << 16
"""Addresses that are looked at: most are no types, as blocks may hold anything."""
_HEAD: Final = 176
"""A type's fields up to its flags."""
_NAME, _SIZE, _FLAGS = 24, 32, 168
_HAS_GC: Final = 1 << 14
_IS_STR: Final = 1 << 28
_LEAST_STR: Final = 40
_BEFORE: Final = 3 << 3
"""Of 3.11 and later: a dict, or weak references, before the object."""
_MOST_SIZE: Final = 1 << 20
_IMMORTAL: Final = 1 << 33
_MOST_NAME: Final = 100


class _Types:
    """Addresses of types, and what they are; None for what is no type."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._known: dict[int, tuple[str, int, int] | None] = {}

    def at(self, address: int) -> tuple[str, int, int] | None:
        """Name, size and offset of its objects within their blocks."""
        if address % 8 or not 1 << 12 <= address < 1 << 47:
            return None
        if address not in self._known:
            if len(self._known) >= _MOST_LOOKS:
                return None
            self._known[address] = self._read(address)
        return self._known[address]

    def _read(self, address: int) -> tuple[str, int, int] | None:
        head = self._memory.read(address, _HEAD)
        if head is None or not self._is_type(head):
            return None
        where, size = struct.unpack_from("<QQ", head, _NAME)
        (flags,) = struct.unpack_from("<Q", head, _FLAGS)
        raw = self._memory.read(where, _MOST_NAME) if 1 << 12 <= where < 1 << 47 else None
        name = (raw or b"").partition(b"\0")[0].decode("ascii", "replace")
        if not 16 <= size <= _MOST_SIZE or not name or not name.replace(".", "_").isidentifier():
            return None
        offset = 16 if flags & _HAS_GC else 0
        if flags & _IS_STR:
            size = _LEAST_STR  # most strings are shorter than the struct that the type names
        return name, size, offset + (16 if offset and flags & _BEFORE else 0)

    def _is_type(self, head: bytes) -> bool:
        """Its type is a type: of a type's types one is its own."""
        for _ in range(3):
            (above,) = struct.unpack_from("<Q", head, 8)
            raw = self._memory.read(above, 16) if 1 << 12 <= above < 1 << 47 else None
            if raw is None:
                return False
            if struct.unpack_from("<Q", raw, 8)[0] == above:
                return True
            head = raw
        return False


def types_of(heap: PymallocHeap, memory: Memory) -> dict[str, tuple[int, int]]:
    """Type -> blocks and bytes, as far as a sample of the pools tells, scaled to all of them. Empty
    where nothing could be read."""
    total = sum(_pools(arena, heap.pool) for arena in heap.arenas)
    step = max(1, total // _MOST_POOLS)
    types = _Types(memory)
    found: dict[str, list[int]] = {}
    taken, begin = 0, 0
    # One pool of each stretch, at a place that follows no pattern: pools of a size come in turns.
    chance = random.Random(0)
    pick = chance.randrange(step)
    for arena in heap.arenas:
        pools = _pools(arena, heap.pool)
        while pick < begin + pools:
            taken += 1
            at = arena.first(heap.pool) + (pick - begin) * heap.pool
            for name, size in _objects(heap, arena.index, at, memory, types):
                row = found.setdefault(name, [0, 0])
                row[0] += 1
                row[1] += size
            pick = (pick // step + 1) * step + chance.randrange(step)
        begin += pools
    scale = total / taken if taken else 1.0
    return {name: (round(n * scale), round(size * scale)) for name, (n, size) in found.items()}


def _pools(arena: Arena, pool: int) -> int:
    """Pools of the arena that were used once."""
    return max(0, arena.carved - arena.first(pool)) // pool


def _objects(
    heap: PymallocHeap, index: int, at: int, memory: Memory, types: _Types
) -> Iterator[tuple[str, int]]:
    """Type and size of each busy block of a pool."""
    data = memory.read(at, heap.pool)
    if data is None or len(data) < heap.pool:
        return
    blocks = pool_blocks(data, at, heap.pool, index)
    words = memoryview(data).cast("Q")
    for offset, size in blocks:
        yield _type(words, offset // 8, size, types), size


def _type(words: memoryview, first: int, size: int, types: _Types) -> str:
    for offset in _OFFSETS:
        if offset + 16 > size:
            break
        at = first + offset // 8
        if 0 < words[at] < _IMMORTAL:
            known = types.at(words[at + 1])
            if known is not None and known[2] == offset and known[1] <= size - offset:
                return known[0]
    return NO_OBJECT
