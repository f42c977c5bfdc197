"""Which thread has how many blocks in malloc's cache, where the threads' control blocks are known.

A thread's own variables stand right below its control block, and one of them leads to its cache.
Where the control blocks are the loader's lists say, the ends of stacks, and in a core file the
registers.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

from dmi.address._attribute import control_block
from dmi.address._thread_stacks import listed_blocks

from ._glibc import GlibcHeap

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from ._glibc_find import Space
    from ._heaps import ForeignHeap, Memory

__all__ = ["ThreadCache", "thread_caches"]

_NUMBER: Final = 0x2D0
"""From the control block to the thread's number, in glibc on x86-64."""
_BELOW: Final = 16 << 10
_SMALL: Final = 64
_MOST_THREADS: Final = 1 << 14
_MOST_WORDS: Final = 1 << 21
"""Words of all threads' variables that are looked at: many thousand threads."""
_MOST_BLOCKS: Final = 1 << 12


class ThreadCache(NamedTuple):
    """What a thread's cache of glibc's malloc holds."""

    thread: int
    blocks: int
    size: int | None
    """Bytes, headers included; None: not all of its blocks could be read."""


def thread_caches(
    memory: Memory, space: Space, heaps: Iterable[ForeignHeap]
) -> tuple[ThreadCache, ...]:
    """The cache of each thread of which it can be told, by number; of others nothing."""
    arenas = [heap for heap in heaps if isinstance(heap, GlibcHeap)]
    stretches = sorted(
        (region.start, region.end, index)
        for index, heap in enumerate(arenas)
        for region in heap.regions
    )
    found: dict[int, ThreadCache] = {}
    left = _MOST_WORDS
    for number, block in _threads(memory, space):
        for word in _words_below(memory, space, block):
            left -= 1
            at = bisect_right(stretches, (word, 1 << 64, 0)) - 1
            if at < 0 or word >= stretches[at][1]:
                continue
            told = arenas[stretches[at][2]].cache_at(word - 16)
            if told is not None:
                counts, entries = told
                sizes = [
                    _bytes(memory, index, count, entry)
                    for index, (count, entry) in enumerate(zip(counts, entries, strict=True))
                ]
                read = [size for size in sizes if size is not None]
                size = sum(read) if len(read) == len(sizes) else None
                found[number] = ThreadCache(number, sum(counts), size)
                break
        if left <= 0:
            break
    return tuple(found[number] for number in sorted(found))


def _threads(memory: Memory, space: Space) -> Iterator[tuple[int, int]]:
    """Number and control block."""
    told = getattr(memory, "control_blocks", {})
    pointers: Sequence[tuple[int, int]] = getattr(memory, "threads", ())
    blocks = [told[pointer] for _, pointer in pointers if told.get(pointer)]
    blocks += listed_blocks(space.mappings, memory)  # type: ignore[arg-type]
    # Older loaders have no lists, but a stack ends with its thread's block.
    for pointer in getattr(memory, "stack_pointers", list)():
        here = space.at(pointer)
        if here is not None and here.plain:
            blocks.append(control_block(memory, here.start, here.end))  # type: ignore[arg-type]
    for block in list(dict.fromkeys(blocks))[:_MOST_THREADS]:
        raw = memory.read(block, _NUMBER + 4) if block else None
        if raw and struct.unpack_from("<Q", raw)[0] == block:
            (number,) = struct.unpack_from("<i", raw, _NUMBER)
            if number > 0:
                yield number, block


def _words_below(memory: Memory, space: Space, block: int) -> Iterator[int]:
    """What the thread's own variables may lead to, the nearest variable first."""
    here = space.at(block)
    if here is None:
        return
    low = max(here.start, block - _BELOW) + 7 & ~7
    raw = memory.read(low, block - low & ~7) or b""
    for (word,) in reversed(list(struct.iter_unpack("<Q", raw))):
        if word and word % 16 == 0:
            yield word


def _bytes(memory: Memory, index: int, count: int, entry: int) -> int | None:
    """What the blocks of a bin come to: of the small bins each has one size, of others it is asked
    block by block. None: one of them cannot be read, or there are too many."""
    if index < _SMALL:
        return count * (32 + 16 * index)
    total = 0
    if count > _MOST_BLOCKS:
        return None
    for _ in range(count):
        raw = memory.read(entry - 16, 24) if entry > 16 and entry % 16 == 0 else None
        if raw is None:
            return None
        _, size, link = struct.unpack("<3Q", raw)
        total += min(size & ~15, 1 << 32)
        entry = link ^ entry >> 12
    return total
