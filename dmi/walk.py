"""What a walk of a heap finds: ranges, segments, histograms."""

from __future__ import annotations

import struct
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress, count
from operator import add, gt, ne
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args, overload

from dmi import _inspect, _records
from dmi._tables import frame

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy
    import pandas
    from numpy.typing import NDArray

    from dmi._core import HeapCore

__all__ = ["HeapWalk", "HistogramRow", "Mark", "Pin", "Range", "Ranges", "Segment"]

Kind = Literal["lfh", "list", "pages", "virtual", "uncommitted", "overhead"]
State = Literal["busy", "free", "uncommitted", "offered", "overhead"]

# In the order of dmi_range_kind and dmi_range_state, which begin with 1.
KINDS: tuple[Kind, ...] = get_args(Kind)
STATES: tuple[State, ...] = get_args(State)

KIND_CODES: dict[Kind, int] = {name: code for code, name in enumerate(KINDS, 1)}
STATE_CODES: dict[State, int] = {name: code for code, name in enumerate(STATES, 1)}
"""What stands for a kind and a state in the array of a walk."""

# struct dmi_range: address, size, kind, state, bucket, flags, segment.
_RECORD = struct.Struct("=QQIIIIQ")
_WHOLE = struct.Struct(f"{_RECORD.size}s")
# DMI_RANGE_REASON and DMI_RANGE_DAMAGED of dmi.h, by the value of flags.
_DAMAGED = 0x100
_REASON_BITS = 0xFF | _DAMAGED
_REASONS: dict[int, str] = {
    code: name for code, (name, _unit, _doc) in enumerate(_inspect.REASONS_TABLE, 1)
} | {code | _DAMAGED: "damaged" for code in range(len(_inspect.REASONS_TABLE) + 1)}
# The same as 64-bit words: address, size, kind and state, bucket and flags, segment.
_WORDS = 5
_LOW = 0xFFFFFFFF
_MOST = 1 << 64
# Ranges in a part of a lazy walk (DMI_WALK_CHUNK at least), and where the last one ends.
_PART = 65536
_END = 0xFFFFFFFFFFFFFFFF
if _RECORD.size != _inspect.RANGE_BYTES:  # pragma: no cover - a build that mixes two versions
    raise ImportError("dmi's Python and C parts are of different versions; install it again")


class Range(NamedTuple):
    """A stretch of a heap's address space.

    address, size  where it begins, and its bytes
    kind           lfh (a block of a bucket), list (a back-end block), pages (a run), virtual (a
                   block mapped on its own), uncommitted, or overhead (tags, tails, gaps)
    state          busy, free, uncommitted, offered, or overhead
    bucket         block size of the bucket in bytes, 0 when kind is not lfh
    segment        base of the segment or virtual block that it lies in
    reason         why it is retained, one of the names of stats().reasons; "damaged" where nothing
                   makes sense (see validate()); None when it is busy or uncommitted. A free block
                   that lies on several pages has the reason of the first that it does not share.
    """

    address: int
    size: int
    kind: Kind
    state: State
    bucket: int
    segment: int
    reason: str | None = None

    @property
    def end(self) -> int:
        """The address behind the range."""
        return self.address + self.size

    @classmethod
    def from_native(cls, native: _records.RangeFields | tuple[int, ...]) -> Range:
        """From the fields of the C struct."""
        address, size, kind, state, bucket, flags, segment = native
        reason = _REASONS.get(flags & _REASON_BITS)
        return cls(address, size, KINDS[kind - 1], STATES[state - 1], bucket, segment, reason)


class Segment(NamedTuple):
    """One reservation of a heap: a segment, or (virtual) a busy block mapped on its own. Sizes are
    bytes. What was such a block and is kept by the policy is a segment, free as a whole."""

    address: int
    reserved: int
    committed: int
    uncommitted_ranges: int
    virtual: bool


class ThreadUsage(NamedTuple):
    """What the subsegments of one thread hold, bytes. ``thread`` is the system's number of a thread
    of Python, which has a ``name``; of others an address within its own storage; 0 for all threads
    that ended. ``in_flight`` is free, and on pages that stay because the thread may have stopped
    half way through an operation; ``unknown`` free bytes of which that cannot be told."""

    thread: int
    committed: int
    busy: int
    free: int
    in_flight: int
    unknown: int
    name: str = ""


class Pin(NamedTuple):
    """A busy block, and the free bytes that could go back but for this block alone."""

    address: int
    size: int
    pinned: int
    stack: tuple[str, ...] | None = None
    """Where it was allocated, the innermost frame first; None where no sampler has seen it."""


@dataclass(frozen=True, slots=True)
class HistogramRow:
    """Busy blocks of one usable size: bytes each, how many, bytes in all, percent of busy."""

    size: int
    count: int
    total: int
    percent: float


class _Ranges(Iterable[Range]):
    """What can be asked of ranges wherever they come from."""

    __slots__ = ()

    @abstractmethod
    def _parts(self) -> Iterator[memoryview]:
        """The ranges, one struct dmi_range after the other, in parts."""

    def __iter__(self) -> Iterator[Range]:
        for records in self._parts():
            yield from map(Range.from_native, _RECORD.iter_unpack(records))

    def select(
        self,
        *,
        state: State | None = None,
        kind: Kind | None = None,
        at_least: int = 0,
        at_most: int | None = None,
    ) -> Iterator[Range]:
        """The ranges of one state, of one kind, of at_least to at_most bytes."""
        if state is not None and state not in STATES:
            raise ValueError(f"state must be one of {', '.join(STATES)}, not {state!r}")
        if kind is not None and kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
        for found in self:
            if (
                (state is None or found.state == state)
                and (kind is None or found.kind == kind)
                and found.size >= at_least
                and (at_most is None or found.size <= at_most)
            ):
                yield found

    def histogram(self) -> list[HistogramRow]:
        """Busy blocks by size, the sizes that hold most bytes first (`!heap -stat`)."""
        busy_word = STATES.index("busy") + 1
        counts: Counter[int] = Counter()
        for records in self._parts():
            words = records.cast("Q") if records.nbytes else []
            pairs = Counter(zip(words[1::_WORDS], words[2::_WORDS], strict=True))
            for (size, both), number in pairs.items():
                if both >> 32 == busy_word:
                    counts[size] += number
        busy = sum(size * number for size, number in counts.items())
        rows = [
            HistogramRow(size, number, size * number, 100.0 * size * number / busy)
            for size, number in counts.items()
        ]
        return sorted(rows, key=lambda row: (-row.total, row.size))


class HeapWalk(_Ranges):
    """Every range of a heap, by address, read as it is gone through, in parts of bounded memory.

    Each iteration walks the heap anew. The heap is stopped for a part at a time (up to 2.6 MB of
    ranges, about a millisecond), so other threads work on in between: each part is consistent in
    itself, a block that is busy from the first part to the last is met exactly once, addresses only
    rise, and what changes between two parts may be missing. ranges() and Heap.walk_array() show one
    moment, at the price of holding the heap for the whole walk and of 40 bytes for each range.
    HeapError when the heap is destroyed meanwhile. Any thread may iterate.
    """

    __slots__ = ("_heap",)

    def __init__(self, heap: HeapCore) -> None:
        _inspect.walk_chunk(heap, _END, 0)  # no range; but a heap that was destroyed is refused
        self._heap = heap

    def _parts(self) -> Iterator[memoryview]:
        start = 0
        while start != _END:
            records, start = _inspect.walk_chunk(self._heap, start, _PART)
            yield records

    def __iter__(self) -> Iterator[Range]:
        # An uncommitted range may be cut where a part ends.
        last: Range | None = None
        for found in super().__iter__():
            if (
                last is not None
                and last.state == found.state == "uncommitted"
                and (last.end, last.segment) == (found.address, found.segment)
            ):
                last = last._replace(size=last.size + found.size)
                continue
            if last is not None:
                yield last
            last = found
        if last is not None:
            yield last

    def __repr__(self) -> str:
        return f"<dmi.HeapWalk of heap {self._heap.handle:#x}>"

    def ranges(self) -> Ranges:
        """Every range of one moment, copied."""
        return Ranges(_inspect.walk_ranges(self._heap))


class Ranges(_Ranges, Sequence[Range]):
    """Every range of a heap at one moment, by address; without gap or overlap in each segment.

    A sequence that makes its Range objects as they are asked for. It is a copy: the heap goes on.
    """

    __slots__ = ("_records",)

    def __init__(self, records: bytes | memoryview) -> None:
        self._records = memoryview(records)

    def __len__(self) -> int:
        return self._records.nbytes // _RECORD.size

    @overload
    def __getitem__(self, index: int) -> Range: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Range]: ...
    def __getitem__(self, index: int | slice) -> Range | Sequence[Range]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError("no such range")
        return Range.from_native(_RECORD.unpack_from(self._records, index * _RECORD.size))

    def __iter__(self) -> Iterator[Range]:
        return map(Range.from_native, _RECORD.iter_unpack(self._records))

    def _parts(self) -> Iterator[memoryview]:
        yield self._records

    def __eq__(self, other: object) -> bool:
        return self._records == other._records if isinstance(other, Ranges) else NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<dmi.Ranges: {len(self)}>"

    def __reduce__(self) -> tuple[type[Ranges], tuple[bytes]]:
        return (Ranges, (bytes(self._records),))

    def frame(self) -> pandas.DataFrame:
        """A row a range: address, size, kind, state, bucket, segment, with words for the codes.

        ImportError without pandas (the extra ``frames``).
        """
        rows = self.array()
        columns = {name: rows[name] for name in ("address", "size", "bucket", "segment")}
        found = frame(columns)
        for name, words in (("kind", KINDS), ("state", STATES)):
            found.insert(2, name, [words[code - 1] for code in rows[name]])
        return found

    @property
    def records(self) -> memoryview:
        """The ranges as they lie in memory: one struct dmi_range after the other."""
        return self._records

    def array(self) -> NDArray[numpy.void]:
        """The same memory as a read-only NumPy array with the fields address, size, kind, state,
        bucket, flags and segment; kind and state as in KIND_CODES and STATE_CODES.

        ImportError without NumPy (the extra ``numpy``).
        """
        try:
            import numpy
        except ImportError as error:
            raise ImportError("arrays need NumPy: pip install 'dmi-heap[numpy]'") from error
        words, halves = ("address", "size", "segment"), ("kind", "state", "bucket", "flags")
        names = (*words[:2], *halves, words[2])
        kinds = ["u4" if name in halves else "u8" for name in names]
        found = numpy.frombuffer(self._records, list(zip(names, kinds, strict=True)))
        found.flags.writeable = False
        return found

    def checked(self) -> Ranges:
        """This walk, when its ranges are of known kinds and states, have a size, and lie segment by
        segment one behind the other; ValueError when not.

        For records that come from outside: every other use takes them for sound.
        """
        if not len(self):
            return self
        words = self._records.cast("Q")
        for both in set(words[2::_WORDS]):
            if not (1 <= both & _LOW <= len(KINDS) and 1 <= both >> 32 <= len(STATES)):
                raise ValueError("a range of unknown kind or state")
        starts, sizes, segments = words[0::_WORDS], words[1::_WORDS], words[4::_WORDS]
        ends = list(map(add, starts, sizes))
        if not all(sizes) or max(ends) > _MOST:
            raise ValueError("a range without a size, or beyond what can be addressed")
        begun = list(compress(count(1), map(ne, segments, segments[1:])))
        if len({segments[0], *(segments[number] for number in begun)}) != 1 + len(begun):
            raise ValueError("ranges of a segment that do not follow each other")
        back = compress(count(1), map(gt, ends, starts[1:]))
        if not set(begun).issuperset(back):
            raise ValueError("ranges that overlap")
        return self

    def busy_since(self, earlier: Ranges) -> list[Range]:
        """The busy blocks that were not busy, at that address and of that size, in ``earlier``."""
        # Nearly all are the same in both: whole records are compared, and the rest is looked at.
        known = set(_WHOLE.iter_unpack(earlier._records))
        return _busy(each for each in _WHOLE.iter_unpack(self._records) if each not in known)

    def busy_changes(self, earlier: Ranges) -> tuple[list[Range], list[Range]]:
        """The busy blocks that came since ``earlier`` and those that went, in no order."""
        now = set(_WHOLE.iter_unpack(self._records))
        then = set(_WHOLE.iter_unpack(earlier._records))
        return _busy(now - then), _busy(then - now)


def _busy(records: Iterable[tuple[bytes]]) -> list[Range]:
    ranges = (Range.from_native(_RECORD.unpack(record)) for (record,) in records)
    return [each for each in ranges if each.state == "busy"]


@dataclass(frozen=True, slots=True)
class Mark:
    """A moment of a heap, for blocks_since(). It keeps a walk: 40 bytes for each range."""

    handle: int
    walk: Ranges
