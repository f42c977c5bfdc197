"""Interpreters of a Python that have an allocator of their own: where their tables of pools are."""

from __future__ import annotations

import struct
from array import array
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from ._glibc_find import data_of_files, pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._glibc_find import Space
    from ._heaps import Memory

__all__ = ["COOKIE", "tables_behind", "words_of"]

COOKIE: Final = b"xdebugpy"
"""How Python's runtime begins from 3.13 on."""
_MOST: Final = 1 << 12
_MAX_SIZE: Final = 8 << 20
_RUNTIME: Final = 1 << 20
"""More than the runtime of 3.12 takes, which holds the main interpreter."""


def words_of(memory: Memory, space: Space, runtime: int) -> Iterator[int]:
    """Words of each interpreter that may lead to its table, by the offsets that Python tells
    debuggers at the beginning of its runtime."""
    raw = memory.read(runtime, 72)
    if raw is None:
        return
    _, free_threaded, _, _, head, size, _, following = struct.unpack_from("<8Q", raw, 8)
    if free_threaded or max(head, size, following) > _MAX_SIZE or following >= size:
        return
    first = memory.read(runtime + head, 8)
    at = struct.unpack("<Q", first)[0] if first else 0
    seen: set[int] = set()
    while at and at not in seen and len(seen) < _MOST:
        seen.add(at)
        data = memory.read(at, size & ~7)
        if data is None:
            return
        own = at + size
        for (word,) in struct.iter_unpack("<Q", data):
            if not (word & 7 or at <= word < own) and space.writable(word):
                yield word
        (at,) = struct.unpack_from("<Q", data, following)


def tables_behind(memory: Memory, space: Space, table: int) -> Iterator[int]:
    """Tables of the other interpreters of 3.12, which keep them in themselves, at the same place as
    the main interpreter, whose table it is.

    The runtime has the newest interpreter beside the main one, and each begins with the link to the
    one that was made before it and its number; the main one ends the chain and is number 0.
    """
    for start, end in data_of_files(space):
        if not start <= table < end:
            continue
        low = max(start, table - _RUNTIME) & -8
        for _, data in pieces(memory, low, table):
            words = array("Q", data)
            for head, main in pairwise(words):
                if low <= main < table and main != head and not main % 8:
                    for at in _chain(memory, space, head, main):
                        yield at + table - main


def _chain(memory: Memory, space: Space, head: int, main: int) -> list[int]:
    """The interpreters from the newest to the one before the main one; empty where there is no such
    chain."""
    found: list[int] = []
    numbers: set[int] = set()
    at = head
    while len(found) < _MOST:
        raw = memory.read(at, 16) if space.writable(at) and not at % 8 else None
        if raw is None:
            return []
        link, number = struct.unpack("<2Q", raw)
        if at == main:
            return found if (link, number) == (0, 0) else []
        if number in numbers or not 0 < number < 1 << 32:
            return []
        numbers.add(number)
        found.append(at)
        at = link
    return []
