"""What a heap of any kind can be asked: figures, rows, sizes, ranges, pins."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from dmi.walk import HistogramRow, Segment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "ForeignHeap",
    "ForeignPin",
    "ForeignRange",
    "ForeignRow",
    "ForeignStats",
    "Memory",
    "histogram",
]


class Memory(Protocol):
    """A process as the walkers see it: a live one or a core file."""

    page: int
    stands_still: bool
    swap_in: bool

    @property
    def denied(self) -> str: ...
    def read(self, address: int, size: int) -> bytes | None: ...
    def read_into(self, address: int, room: memoryview) -> int: ...
    def next_there(self, address: int) -> int: ...
    def pagemap(self, address: int, pages: int) -> bytes | None: ...


class ForeignRange(NamedTuple):
    """A stretch of a heap; bucket: block size of its size class, 0 where there are none."""

    address: int
    size: int
    kind: str
    state: str
    bucket: int = 0
    segment: int = 0


class ForeignPin(NamedTuple):
    """A busy block that alone keeps the pages it lies on; pinned: the free bytes on them."""

    address: int
    size: int
    pinned: int


@dataclass(frozen=True, slots=True)
class ForeignRow:
    """A row of `!heap -s` of any kind of heap. Bytes; None: unknown, or nothing of that kind."""

    kind: str
    handle: int
    flags: int | None = None
    reserved: int | None = None
    committed: int | None = None
    virtual: int | None = None
    free: int | None = None
    list_length: int | None = None
    uncommitted_ranges: int | None = None
    virtual_blocks: int | None = None
    lock_contention: int | None = None
    fast_heap: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class ForeignStats:
    """The figures of a heap of any kind. Bytes; None: unknown, or the kind has no such thing.

    reserved      address space that it holds, without what is mapped block by block
    committed     what of it can be written: busy + free + overhead + unknown
    busy          blocks that the program has, with the words that the allocator keeps before them
    free          what the allocator may hand out: free blocks, the top, caches of threads
    overhead      headers, tails, fences
    unknown       what could not be read or made no sense
    mapped        blocks mapped on their own, of which there are mapped_blocks
    resident      what of committed is in physical memory
    trim          what malloc_trim(0) would give back, of resident pages; an upper bound where
                  residence is unknown
    pinned        free bytes on pages that one busy block alone keeps
    details       more, by name
    """

    kind: str
    reserved: int | None = None
    committed: int | None = None
    busy: int | None = None
    busy_blocks: int | None = None
    free: int | None = None
    free_blocks: int | None = None
    overhead: int | None = None
    unknown: int | None = None
    mapped: int | None = None
    mapped_blocks: int | None = None
    resident: int | None = None
    trim: int | None = None
    pinned: int | None = None
    details: Mapping[str, int | None] | None = None
    notes: tuple[str, ...] = ()

    @property
    def retained(self) -> int | None:
        """committed - busy."""
        if self.committed is None or self.busy is None:
            return None
        return max(0, self.committed - self.busy)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        found = asdict(self)
        found["retained"] = self.retained
        return found


class ForeignHeap(Protocol):
    """A heap of any kind in a process that is looked at. What a kind cannot tell is None."""

    @property
    def kind(self) -> str: ...
    @property
    def handle(self) -> int: ...
    @property
    def name(self) -> str: ...
    def stats(self) -> ForeignStats: ...
    def row(self) -> ForeignRow: ...
    def segments(self) -> Sequence[Segment]: ...
    def walk(self) -> Iterator[ForeignRange] | None: ...
    def histogram(self) -> Sequence[HistogramRow] | None: ...
    def pins(self, top: int = 10) -> Sequence[ForeignPin] | None: ...


def histogram(sizes: Mapping[int, int]) -> list[HistogramRow]:
    """Rows of sizes and counts, the sizes that hold most first."""
    total = sum(size * count for size, count in sizes.items())
    rows = [
        HistogramRow(size, count, size * count, 100.0 * size * count / total if total else 0.0)
        for size, count in sizes.items()
        if count
    ]
    return sorted(rows, key=lambda row: (-row.total, row.size))
