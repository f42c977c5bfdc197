"""The stacks of threads that glibc knows of, by the lists that it keeps of them.

From 2.42 on the guard of a stack is a mark on its pages, not a mapping: neighbouring stacks are one
mapping then, and those of threads that have ended, which wait for the next ones, look like any
private memory. The loader (2.34 and later) has three lists of control blocks in its data: of stacks
in use, of stacks that the program brought, and of those that wait. Each block says where its stack
lies and holds its own address, so the lists are known by what stands in them.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from ._maps import Mapping, Source

__all__ = ["LOADER", "listed_blocks", "listed_stacks"]

LOADER: Final = re.compile(r"/ld(?:-linux[^/]*|-[0-9.]+)\.so(?:\.[0-9]+)?$")
_LINKS: Final = 0x2C0
"""From a control block to its place in the list, in glibc on x86-64."""
_BLOCK: Final = 0x700
_MOST_DATA: Final = 256 << 10
_MOST_STACKS: Final = 1 << 17
_LEAST: Final = 16 << 10
_MOST: Final = 1 << 40
_AT_END: Final = 64 << 10
"""A control block stands so near the end of its stack."""


_Listed = tuple[int, tuple[int, int] | None]
"""A control block, and where its stack lies."""


def listed_stacks(mappings: Sequence[Mapping], source: Source) -> list[tuple[int, int]]:
    """Start and end of each, guard included, by address; none overlaps another. Those that the
    program brought are left out: they lie in other holders' memory."""
    stacks: set[tuple[int, int]] = set()
    for listed in _lists(mappings, source):
        each = [stack for _, stack in listed]
        # The main thread stands in the list of those that were brought, and says of no stack.
        if None not in each:
            stacks.update(stack for stack in each if stack is not None)
    return _apart(stacks)


def listed_blocks(mappings: Sequence[Mapping], source: Source) -> list[int]:
    """The control block of each thread that glibc knows of, the main one's too."""
    return [block for listed in _lists(mappings, source) for block, _ in listed]


def _lists(mappings: Sequence[Mapping], source: Source) -> Iterator[list[_Listed]]:
    """What stands in each list: control blocks, and their stacks where they say."""
    left = _MOST_STACKS
    anonymous = [mapping for mapping in mappings if mapping.plain]
    starts = [mapping.start for mapping in anonymous]

    def block_at(node: int) -> bytes | None:
        """The control block whose place in a list that is, if it can be one: other words lead
        anywhere, and a look would bring in pages that nobody needs."""
        own = node - _LINKS
        at = bisect_right(starts, own) - 1
        if own % 64 or at < 0 or own + _BLOCK > anonymous[at].end:
            return None
        there = source.present(node // source.page * source.page, 1)
        return None if there is not None and not there[0] else source.read(own, _BLOCK)

    for mapping in mappings:
        if mapping.perms[:2] != "rw" or not mapping.has_file or not LOADER.search(mapping.name):
            continue
        data = source.read(mapping.start, min(mapping.size, _MOST_DATA) & ~7) or b""
        for index, (word,) in enumerate(struct.iter_unpack("<Q", data)):
            head = mapping.start + 8 * index
            # Most words lead nowhere, an empty list to itself.
            if word > 1 << 16 and word != head and (word - _LINKS) % 64 == 0:
                listed = _list(block_at, source.page, head, word, left)
                left -= len(listed)
                yield listed


def _apart(found: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    stacks: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if not stacks or start >= stacks[-1][1]:
            stacks.append((start, end))
    return stacks


def _list(
    block_at: Callable[[int], bytes | None], page: int, head: int, node: int, most: int
) -> list[_Listed]:
    """What stands in the list with that head and first node; nothing where it is no list."""
    listed: list[_Listed] = []
    before = head
    while node != head:
        raw = block_at(node)
        if raw is None or len(listed) >= most:
            return []
        own, _, again = struct.unpack_from("<3Q", raw)
        following, previous = struct.unpack_from("<2Q", raw, _LINKS)
        if own != again or own != node - _LINKS or previous != before:
            return []
        listed.append((own, _stack(page, own, raw)))
        before, node = node, following
    return listed


def _stack(page: int, block: int, raw: bytes) -> tuple[int, int] | None:
    """Where the stack lies, as its control block says: two words side by side, start and size."""
    words = struct.unpack_from(f"<{(len(raw) - _LINKS) // 8}Q", raw, _LINKS)
    for start, size in pairwise(words[2:]):
        whole = not (start % page or size % page)
        if whole and _LEAST <= size <= _MOST and start <= block < start + size <= block + _AT_END:
            return start, start + size
    return None
