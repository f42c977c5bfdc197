"""From the ranges of a heap to a map of its pages.

Ranges are summed by page with NumPy, a segment at a time, so that a heap of millions of blocks
takes seconds.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, Final

from dmi.report._content import HeapMap, MapSegment
from dmi.walk import STATE_CODES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dmi.process import ForeignHeap
    from dmi.walk import Ranges, Segment

__all__ = ["MAX_BLOCKS", "MAX_PAGES", "STATES", "map_of_ranges", "map_of_segments", "map_of_walk"]

STATES: Final = (
    "uncommitted",
    "free, committed",
    "offered to the system",
    "up to a quarter busy",
    "up to half busy",
    "up to three quarters busy",
    "more than that busy",
    "all busy",
    "overhead alone",
)
"""The meaning of a page's byte in a map."""

MAX_BLOCKS: Final = 2_000_000
"""Blocks that one report holds; beyond it maps have pages only, and say so."""
MAX_PAGES: Final = 8 << 20
"""Pages of the largest heap that is drawn."""
PINS: Final = 20
OVERHEAD: Final = STATE_CODES["overhead"]


def map_of_ranges(title: str, ranges: Ranges, page: int, *, blocks: bool = True) -> HeapMap:
    """The map of a walk. ImportError, naming the extra, without NumPy."""
    return _map_of_rows(title, ranges.array(), page, blocks)


def map_of_walk(
    title: str, heap: ForeignHeap, page: int, *, most: int = MAX_BLOCKS
) -> tuple[HeapMap, int]:
    """The map of a heap in another process, and how many busy blocks it lists.

    The blocks are listed where they are known and not more than ``most`` are busy. A walk of over
    twice as many ranges is given up: the memory for it must have an end.
    """
    numpy = _numpy()
    segments = sorted(heap.segments(), key=lambda each: each.address)
    words = array("Q")
    busy = 0
    for each in heap.walk() or ():
        busy += each.state == "busy"
        if busy > most or len(words) >= 8 * most:
            words = array("Q")
            break
        words.extend((each.address, each.size, STATE_CODES.get(each.state, OVERHEAD), each.segment))  # type: ignore[call-overload]
    if not words:
        return map_of_segments(title, segments, page), 0
    table = numpy.frombuffer(words, dtype=numpy.uint64).reshape(-1, 4)
    names = ("address", "size", "state", "segment")
    rows = numpy.rec.fromarrays(list(table.T), names=names)
    # A walk names no segment where its kind of heap has one alone, and need not go by address.
    bases = numpy.array([each.address for each in segments] or [0], dtype=numpy.uint64)
    rows["segment"] = numpy.searchsorted(bases, rows["address"], side="right")
    rows = rows[numpy.argsort(rows["address"], kind="stable")]
    return _map_of_rows(title, rows, page, True), busy


def _map_of_rows(title: str, rows: Any, page: int, blocks: bool) -> HeapMap:
    numpy = _numpy()
    found = HeapMap(title, page, [])
    if not len(rows):
        return found
    starts = numpy.flatnonzero(numpy.diff(rows["segment"], prepend=rows["segment"][:1] + 1))
    pins: list[tuple[int, int, int]] = []
    for part in numpy.split(rows, starts[1:]):
        end = int(part["address"][-1] + part["size"][-1])
        first = int(part["address"][0]) // page * page
        pages = (end - first + page - 1) // page
        if pages > MAX_PAGES:
            found.note = f"a segment of {pages:,} pages is too large to be drawn"
            continue
        states, found_pins = _pages(numpy, part, first, pages, page)
        pins += found_pins
        busy = part[part["state"] == STATE_CODES["busy"]]
        found.segments.append(
            MapSegment(
                first,
                False,
                states.tobytes(),
                _packed(numpy, busy, first) if blocks else None,
                len(busy),
            )
        )
    found.pins = sorted(pins, key=lambda pin: -pin[2])[:PINS]
    if not blocks:
        found.note = f"more than {MAX_BLOCKS:,} blocks: pages are drawn, blocks are not listed"
    return found


def map_of_segments(title: str, segments: Iterable[Segment], page: int) -> HeapMap:
    """What can be drawn when blocks are not known: which share of each segment is committed."""
    drawn = []
    for each in segments:
        pages = -(-each.reserved // page)
        if pages > MAX_PAGES:
            continue
        committed = min(pages, -(-each.committed // page))
        body = bytes([1]) * committed + bytes(pages - committed)
        drawn.append(MapSegment(each.address, each.virtual, body, None))
    note = (
        "The blocks were not saved (snapshot with blocks=True, or dmi run --blocks): shown is how "
        "much of each segment is committed, not where and not by what it is used."
    )
    return HeapMap(title, page, drawn, note=note)


def _pages(
    numpy: Any, part: Any, first: int, pages: int, page: int
) -> tuple[Any, list[tuple[int, int, int]]]:
    """(state of each page, pins): busy and free bytes summed by page."""
    shares = {
        name: _by_page(numpy, part[part["state"] == STATE_CODES[name]], first, pages, page)
        for name in ("busy", "free", "offered", "uncommitted")
    }
    states = numpy.full(pages, 8, dtype=numpy.uint8)
    busy, free = shares["busy"], shares["free"]
    states[shares["uncommitted"] > 0] = 0
    states[shares["offered"] > 0] = 2
    states[(busy == 0) & (free > 0)] = 1
    some = busy > 0
    quarter = numpy.minimum(3, (busy * 4 - 1) // page)
    states[some] = (3 + quarter[some]).astype(numpy.uint8)
    states[some & (free == 0)] = 7
    return states, _pins(numpy, part, first, page, busy, free)


def _by_page(numpy: Any, rows: Any, first: int, pages: int, page: int) -> Any:
    """Bytes of these ranges on each page."""
    steps = numpy.zeros(pages + 1, dtype=numpy.int64)
    total = numpy.zeros(pages, dtype=numpy.int64)
    begin = rows["address"].astype(numpy.int64) - first
    end = begin + rows["size"].astype(numpy.int64)
    head, tail = begin // page, (end - 1) // page
    alone = head == tail
    numpy.add.at(total, head[alone], (end - begin)[alone])
    wide = ~alone
    numpy.add.at(total, head[wide], (head[wide] + 1) * page - begin[wide])
    numpy.add.at(total, tail[wide], end[wide] - tail[wide] * page)
    numpy.add.at(steps, head[wide] + 1, page)
    numpy.add.at(steps, tail[wide], -page)
    return total + numpy.cumsum(steps)[:pages]


def _pins(
    numpy: Any, part: Any, first: int, page: int, busy: Any, free: Any
) -> list[tuple[int, int, int]]:
    """Blocks that lie on one page and are all that is busy there, with what is free beside them."""
    rows = part[part["state"] == STATE_CODES["busy"]]
    begin = rows["address"].astype(numpy.int64) - first
    size = rows["size"].astype(numpy.int64)
    where = begin // page
    alone = (where == (begin + size - 1) // page) & (busy[where] == size)
    pinned = free[where[alone]]
    rows = rows[alone]
    best = numpy.argsort(-pinned, kind="stable")[:PINS]
    return [
        (int(rows["address"][n]), int(rows["size"][n]), int(pinned[n]))
        for n in best
        if pinned[n] > 0
    ]


def _packed(numpy: Any, busy: Any, first: int) -> bytes:
    """Gap and size of each block as variable-length numbers, seven bits a byte, lowest first."""
    address = busy["address"].astype(numpy.int64)
    size = busy["size"].astype(numpy.int64)
    ends = numpy.concatenate(([first], (address + size)[:-1])) if len(busy) else address
    numbers = numpy.empty(2 * len(busy), dtype=numpy.int64)
    numbers[0::2] = address - ends
    numbers[1::2] = size
    return _varints(numpy, numbers)


def _varints(numpy: Any, numbers: Any) -> bytes:
    lengths = numpy.ones(len(numbers), dtype=numpy.int64)
    rest = numbers >> 7
    while rest.any():
        lengths += rest > 0
        rest >>= 7
    out = numpy.zeros(int(lengths.sum()), dtype=numpy.uint8)
    place = numpy.cumsum(lengths) - lengths
    for byte in range(int(lengths.max(initial=0))):
        here = lengths > byte
        more = (lengths > byte + 1).astype(numpy.int64) << 7
        out[place[here] + byte] = (((numbers >> (7 * byte)) & 0x7F) | more)[here]
    return bytes(out.tobytes())


def budget(counts: Sequence[int]) -> list[bool]:
    """Which heaps' blocks a report can hold, the first ones first."""
    left = MAX_BLOCKS
    allowed = []
    for count in counts:
        allowed.append(count <= left)
        left -= count if count <= left else 0
    return allowed


def _numpy() -> Any:
    try:
        import numpy
    except ImportError:
        raise ImportError(
            "a report needs the extra 'report': pip install 'dmi-heap[report]'"
        ) from None
    return numpy
