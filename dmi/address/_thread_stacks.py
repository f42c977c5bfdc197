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
    from collections.abc import Callable, Iterable, Sequence

    from ._maps import Mapping, Source

__all__ = ["LOADER", "listed_stacks"]

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


def listed_stacks(mappings: Sequence[Mapping], source: Source) -> list[tuple[int, int]]:
    """Start and end of each, guard included, by address; none overlaps another."""
    found: set[tuple[int, int]] = set()
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
                stacks = _list(block_at, source.page, head, word, left)
                left -= len(stacks)
                found.update(stacks)
    return _apart(found)


def _apart(found: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    stacks: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if not stacks or start >= stacks[-1][1]:
            stacks.append((start, end))
    return stacks


def _list(
    block_at: Callable[[int], bytes | None], page: int, head: int, node: int, most: int
) -> list[tuple[int, int]]:
    """The stacks of the list with that head and first node; none where it is no list, or that of
    stacks which the program brought: those lie in other holders' memory."""
    stacks: list[tuple[int, int]] = []
    before = head
    while node != head:
        raw = block_at(node)
        if raw is None or len(stacks) >= most:
            return []
        own, _, again = struct.unpack_from("<3Q", raw)
        following, previous = struct.unpack_from("<2Q", raw, _LINKS)
        stack = _stack(page, own, raw)
        # The main thread stands in the list of those that were brought, and says of no stack.
        if own != again or own != node - _LINKS or previous != before or stack is None:
            return []
        stacks.append(stack)
        before, node = node, following
    return stacks


def _stack(page: int, block: int, raw: bytes) -> tuple[int, int] | None:
    """Where the stack lies, as its control block says: two words side by side, start and size."""
    words = struct.unpack_from(f"<{(len(raw) - _LINKS) // 8}Q", raw, _LINKS)
    for start, size in pairwise(words[2:]):
        whole = not (start % page or size % page)
        if whole and _LEAST <= size <= _MOST and start <= block < start + size <= block + _AT_END:
            return start, start + size
    return None
