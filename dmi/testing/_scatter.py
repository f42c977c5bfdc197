"""How far over the pages lie the blocks that came, beside those that went.

What pins memory is a few blocks that stay on many pages. When a test that left some is run again,
its blocks fill the holes of the run before, and committed memory hardly grows: but its own few lie
as far apart as theirs. So what a repetition would have pinned, had it been the first, is read from
where its blocks lie. A cache that replaces what it holds loses as many as it gains.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Final

from dmi.walk import Ranges

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dmi.heap import Heap
    from dmi.walk import Range

__all__ = ["NOTHING", "scattered"]

HUGE: Final = 2 << 20
NOTHING: Final = Ranges(b"")
"""The walk of a heap that was not there."""


def scattered(heap: Heap, before: Ranges) -> int:
    """Bytes beside the blocks that came, on their pages, less those beside the blocks that went."""
    came, went = heap.ranges().busy_changes(before)
    page = HUGE if heap.huge_pages else mmap.PAGESIZE
    return _beside(came, page) - _beside(went, page)


def _beside(blocks: Iterable[Range], page: int) -> int:
    pages: set[int] = set()
    size = 0
    for block in blocks:
        pages.update(range(block.address // page, -(-block.end // page)))
        size += block.size
    return len(pages) * page - size
