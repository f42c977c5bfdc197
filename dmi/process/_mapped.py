"""Blocks that glibc mapped on their own.

malloc keeps no list of them, only their number and their sum. But each begins a page with its
header: the size of the mapping, and the bit that says so. They are looked for where other owners
left private memory, at the start of each mapping and behind each that was found (the kernel joins
neighbours), then page by page until malloc's own totals are reached. What is not found stays
unknown.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ._heaps import Memory

__all__ = ["mapped_blocks"]

_IS_MAPPED: Final = 2
_HEADER: Final = 16
_MOST_LOOKS: Final = 1 << 20
_PART: Final = 1 << 20


def mapped_blocks(
    memory: Memory, free: Iterable[tuple[int, int]], total: int, count: int
) -> list[tuple[int, int]]:
    """(address, size) of each that is found in the ranges ``free``; never more than malloc's own
    total and count."""
    if total <= 0 or count <= 0:
        return []
    ranges = list(free)
    found: list[tuple[int, int]] = []
    left, looks = total, _MOST_LOOKS
    open_: list[tuple[int, int]] = []
    for start, end in ranges:
        at = start
        while at < end and looks and len(found) < count:
            looks -= 1
            size = _size(memory, at, min(end - at, left))
            if not size:
                break
            found.append((at, size))
            left -= size
            at += size
        if at < end:
            open_.append((at, end))
    for start, end in open_:
        at = start
        for address in _pages(memory, start, end):
            if not looks or len(found) >= count or left <= 0:
                return found
            looks -= 1
            if address < at:
                continue
            size = _size(memory, address, min(end - address, left))
            if size:
                found.append((address, size))
                left -= size
                at = address + size
    return found


def _pages(memory: Memory, start: int, end: int) -> Iterator[int]:
    """Pages of the range that can be read without bringing them in."""
    page = memory.page
    at = start
    while at < end:
        # Of what a core file does not have nothing needs to be looked at.
        at = max(at, memory.next_there(at) // page * page)
        pages = min(_PART, max(end - at, 0)) // page
        marks = memory.pagemap(at, pages)
        for number in range(pages):
            if marks is None or marks[8 * number + 7] & 0x80:
                yield at + number * page
        at += max(pages, 1) * page


def _size(memory: Memory, address: int, most: int) -> int:
    """The size of the mapped block that begins there, or 0."""
    marks = memory.pagemap(address, 1)
    if marks is not None and not marks[7] & 0x80:
        return 0
    raw = memory.read(address, 16)
    if raw is None:
        return 0
    before, word = struct.unpack("<2Q", raw)
    size: int = word & ~7
    if size % memory.page == memory.page - _HEADER:
        size += _HEADER  # from 2.43 on the size is without the header
    # Where an alignment was asked for, the word in front keeps how far the block was moved; from
    # 2.43 on it also says whether it lies on huge pages.
    fits = word & 7 == _IS_MAPPED and before <= 1 and size % memory.page == 0 and size > 0
    return size if fits and size <= most else 0
