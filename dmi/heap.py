"""Heaps as Python sees them: dmi.Heap, and what concerns all heaps of the process."""

from __future__ import annotations

import json
import operator
import os
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, NamedTuple, SupportsIndex, overload

from dmi import _core, _decommit, _inspect, windbg
from dmi import numpy as arrays
from dmi._core import HeapCore
from dmi.errors import HeapError, SizeError
from dmi.explain import Explanation, explain
from dmi.policy import Decommit
from dmi.stats import DetailedStats, HeapStats, TrimReport
from dmi.walk import (
    HeapWalk,
    HistogramRow,
    Kind,
    Mark,
    Pin,
    Range,
    Ranges,
    Segment,
    State,
    ThreadUsage,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Any, Self

    import numpy
    import numpy.typing
    from numpy.typing import NDArray

__all__ = [
    "Found",
    "Heap",
    "default_heap",
    "find",
    "heaps",
    "metadata_committed",
    "summary",
]

MAX_NAME = 47
"""Bytes of the longest name of a heap, as UTF-8."""

# The Python objects of the heaps that have one, by handle. A handle is never used twice.
# DMI_GUARD_MOST.
_GUARD_MOST = 1_000_000_000
_known: weakref.WeakValueDictionary[int, Heap] = weakref.WeakValueDictionary()


_STORAGE = 64 << 10
"""A thread's own storage lies at most so many bytes below what Python calls its ident."""


def _named(usage: ThreadUsage) -> ThreadUsage:
    """With the number and the name of the Python thread that it is of."""
    # Where this module is loaded first by a thread of a sub-interpreter, threading would take that
    # thread for the main one, and wait for it for ever at the end (CPython 3.11).
    import threading

    for thread in threading.enumerate():
        near = thread.ident is not None and 0 <= thread.ident - usage.thread < _STORAGE
        if thread.native_id is not None and (near or usage.thread == thread.native_id):
            return usage._replace(thread=thread.native_id, name=thread.name)
    return usage


@_core.own_calls
class Heap(HeapCore):
    """A heap of its own: its blocks, its segments, its policy, its numbers.

    decommit     when and how free pages go back: a dmi.Decommit or its text, "lazy:delay=0.5"
    name         shown beside the handle, at most 47 bytes of UTF-8
    max_size     upper bound of reserved bytes, None for no bound
    lfh          use the low-fragmentation front end for sizes that are in demand
    hardened     put a guard behind each block, so that an overflow is found when it is freed
    clock        "os", or "manual": time passes only through advance(), so that a run repeats
    thread_safe  False promises that one thread at a time uses the heap
    huge_pages   let transparent huge pages of 2 MiB back the heap, where the system has them
    huge_split   with huge_pages: the share of such 2 MiB that must be free before their huge page
                 is split and the free part goes back (above 0, up to 1)
    guard        put one block in about so many between pages that nobody may touch: what touches it
                 behind its end, or after it was freed, ends the program there, with a line that
                 says so; at most 256 blocks at a time (None: none)

    alloc() and calloc() make Blocks, which look after themselves; malloc() and free() deal in raw
    addresses, are faster, and refuse what is not theirs with HeapError.

    The heap is destroyed by destroy(), at the end of a with statement, or when the last reference
    to it goes; a Block is one, a raw address is not: raw blocks go with the heap, unless other code
    allocated some of them: then the heap stays, seen by dmi.heaps() only. Safe to use
    from several threads unless thread_safe is False. After destruction everything but `handle`,
    `closed`, `destroy()` and repr() raises HeapError.
    """

    __slots__ = ()

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        _core.own_calls(cls)

    def __init__(
        self,
        decommit: str | Decommit = "lazy",
        *,
        name: str | None = None,
        max_size: SupportsIndex | None = None,
        lfh: bool = True,
        hardened: bool = False,
        clock: Literal["os", "manual"] = "os",
        thread_safe: bool = True,
        huge_pages: bool = False,
        huge_split: float = 0.25,
        guard: SupportsIndex | None = None,
    ) -> None:
        policy = Decommit.of(decommit)
        for argument, value in (
            ("lfh", lfh),
            ("hardened", hardened),
            ("thread_safe", thread_safe),
            ("huge_pages", huge_pages),
        ):
            if not isinstance(value, bool):
                raise TypeError(f"{argument} must be True or False, not {type(value).__name__}")
        if not isinstance(clock, str):
            raise TypeError(f"clock must be 'os' or 'manual', not {type(clock).__name__}")
        if clock not in ("os", "manual"):
            raise ValueError(f"clock must be 'os' or 'manual', not {clock!r}")
        if isinstance(huge_split, bool) or not isinstance(huge_split, (int, float)):
            raise TypeError(f"huge_split must be a number, not {type(huge_split).__name__}")
        if not 0 < huge_split <= 1:
            raise ValueError(f"huge_split must be above 0 and at most 1, not {huge_split}")
        every = 0 if guard is None else operator.index(guard)
        if guard is not None and not 1 <= every <= _GUARD_MOST:
            raise ValueError(f"guard must be from 1 to {_GUARD_MOST}, or None, not {every}")
        flags = 0
        flags |= 0 if lfh else _core.HEAP_NO_LFH
        flags |= _core.HEAP_HARDENED if hardened else 0
        flags |= _core.HEAP_MANUAL_CLOCK if clock == "manual" else 0
        flags |= 0 if thread_safe else _core.HEAP_NO_SERIALIZE
        flags |= _core.HEAP_HUGE_PAGES if huge_pages else 0
        self._open(
            _name_bytes(name),
            _max_size(max_size),
            flags,
            policy.native(),
            huge_split=huge_split,
            guard=every,
        )
        _known[self.handle] = self

    @classmethod
    def from_handle(cls, handle: SupportsIndex) -> Heap:
        """The heap with that handle: the object that made it, or a view of one made elsewhere.

        A view does not own: destroy() of it is refused. HeapError when there is no such heap.
        """
        number = operator.index(handle)
        known = _known.get(number)
        if known is not None and not known.closed:
            return known
        view: Heap = cls.__new__(cls)
        view._attach(number)
        _known[number] = view
        return view

    # ---- life --------------------------------------------------------------------------------

    def destroy(self, *, force: bool = False) -> None:
        """Destroy the heap with all its blocks; once more does nothing.

        BufferError while a buffer of one of its Blocks is exported; HeapError for the process
        default heap, for a heap made elsewhere, while another thread is inside, while somebody
        holds it (holders()), and while blocks are busy that did not come from this object: those of
        C extensions, NumPy and cffi. force=True takes those along, for callers who know that
        nothing will touch them again.
        """
        self._close(force)

    def __enter__(self) -> Self:
        self._info()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.destroy()

    def __repr__(self) -> str:
        if self.closed:
            return f"<dmi.Heap {self.handle:#x}, destroyed>"
        name = f" {self.name!r}" if self.name else ""
        return f"<dmi.Heap {self.handle:#x}{name}, decommit {self.decommit}>"

    # ---- arrays ------------------------------------------------------------------------------

    def empty(
        self,
        shape: SupportsIndex | tuple[SupportsIndex, ...],
        dtype: numpy.typing.DTypeLike | None = None,
        *,
        align: SupportsIndex = 64,
    ) -> numpy.ndarray[Any, numpy.dtype[Any]]:
        """An uninitialised NumPy array on this heap, its data at a multiple of align bytes.

        dtype None is float64, as for numpy.empty. The array keeps its memory and the heap alive;
        the heap is not destroyed (BufferError) as long as it lives. TypeError for a dtype that
        holds objects; ImportError without NumPy (the extra "numpy").
        """
        return arrays.make(self, shape, dtype, align, zero=False)

    def zeros(
        self,
        shape: SupportsIndex | tuple[SupportsIndex, ...],
        dtype: numpy.typing.DTypeLike | None = None,
        *,
        align: SupportsIndex = 64,
    ) -> numpy.ndarray[Any, numpy.dtype[Any]]:
        """The same, filled with zero bytes."""
        return arrays.make(self, shape, dtype, align, zero=True)

    # ---- options -----------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name given at creation, or an empty str."""
        return self._info().name

    @property
    def max_size(self) -> int | None:
        """Upper bound of reserved bytes, None for no bound."""
        return self._info().max_size or None

    @property
    def lfh(self) -> bool:
        """True when the heap may use the low-fragmentation front end."""
        return not self._info().flags & _core.HEAP_NO_LFH

    @property
    def hardened(self) -> bool:
        """True when a guard stands behind each block."""
        return bool(self._info().flags & _core.HEAP_HARDENED)

    @property
    def guard(self) -> int | None:
        """One block in about so many lies between guards; None: none does."""
        return self._info().guard or None

    @property
    def clock(self) -> Literal["os", "manual"]:
        """Whose time the policy follows."""
        return "manual" if self._info().flags & _core.HEAP_MANUAL_CLOCK else "os"

    @property
    def thread_safe(self) -> bool:
        """False when the maker promised that one thread at a time uses the heap."""
        return not self._info().flags & _core.HEAP_NO_SERIALIZE

    @property
    def huge_pages(self) -> bool:
        """True when huge pages were asked for; whether the system gives any is another matter."""
        return bool(self._info().flags & _core.HEAP_HUGE_PAGES)

    @property
    def huge_split(self) -> float:
        """The share of 2 MiB that must be free before their huge page is split."""
        return self._info().huge_split

    @property
    def is_default(self) -> bool:
        """True for the process default heap."""
        return self._info().is_default

    @property
    def time(self) -> float:
        """The heap's own time, in seconds since an arbitrary start."""
        return self._info().time

    # ---- decommit ----------------------------------------------------------------------------

    @property
    def decommit(self) -> Decommit:
        """The policy. Assign a Decommit or its text to change it on the live heap.

        A change applies to what is free already before the assignment returns. OSError when the
        policy needs something that this system does not have.
        """
        return Decommit.from_native(self._info().policy)

    @decommit.setter
    def decommit(self, policy: str | Decommit) -> None:
        _decommit.set_policy(self, Decommit.of(policy).native())

    def advance(self, seconds: float) -> None:
        """Let seconds pass on a manual clock and do what became due; 0 is allowed."""
        if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
            raise TypeError(f"seconds must be a number, not {type(seconds).__name__}")
        if not 0 <= seconds < float("inf"):
            raise ValueError(f"seconds must be finite and 0 or more, not {seconds}")
        if self.clock != "manual":
            raise HeapError("advance() needs a heap made with clock='manual'")
        _decommit.advance_clock(self, seconds)

    def trim(self) -> TrimReport:
        """Give back every page that holds nothing, whatever the policy says."""
        return TrimReport(*_decommit.trim_report(self))

    # ---- numbers -----------------------------------------------------------------------------

    @overload
    def stats(self, detail: Literal[True]) -> DetailedStats: ...
    @overload
    def stats(self, detail: bool = False) -> HeapStats: ...
    def stats(self, detail: bool = False) -> HeapStats:
        """The counters; with detail also what needs a walk and the system's answer.

        Without detail each run is looked at, and no block: so it costs more the larger the heap is,
        but little. With detail the free blocks are walked as well.
        """
        detail = bool(detail)
        return HeapStats.from_native(_inspect.stats_fields(self, detail, detail), detail=detail)

    def summary(self, *, names: bool = False) -> str:
        """The rows of `!heap -s` for this heap. Sizes are KiB. names adds the heap's name."""
        return summary([self], names=names)

    def row(self, stats: HeapStats | None = None) -> windbg.HeapRow:
        """The columns of `!heap -s`; of stats, where given, instead of the present state."""
        return heap_row(self.handle, self.stats() if stats is None else stats)

    def explain(self) -> Explanation:
        """Each number with its formula and value, and why each retained byte is retained."""
        label = f"heap {self.handle:#x}" + (f" ({self.name})" if self.name else "")
        return explain(label, str(self.decommit), self.stats(detail=True))

    # ---- inspection --------------------------------------------------------------------------

    def walk(self) -> HeapWalk:
        """Every range of the heap, by address, read in parts as it is iterated: see HeapWalk.

        Of a heap at rest their sizes sum to reserved.
        """
        return HeapWalk(self)

    def ranges(self) -> Ranges:
        """Every range of one moment, a sequence: 40 bytes for each; the heap is stopped for it."""
        return self.walk().ranges()

    def walk_array(self) -> NDArray[numpy.void]:
        """The same as a NumPy structured array, see Ranges.array(); needs the extra ``numpy``."""
        return self.ranges().array()

    def segments(self) -> list[Segment]:
        """The segments, freed virtual blocks that the policy keeps among them; then the blocks
        mapped on their own."""
        return [Segment(*fields) for fields in _inspect.segment_list(self)]

    def threads(self) -> list[ThreadUsage]:
        """What each thread's subsegments hold, those first that keep most in flight."""
        found = [_named(ThreadUsage(*fields)) for fields in _inspect.thread_list(self)]
        return sorted(found, key=lambda usage: (-usage.in_flight, -usage.free))

    def histogram(self) -> list[HistogramRow]:
        """Busy blocks by usable size, the sizes that hold most bytes first."""
        return self.walk().histogram()

    def pins(self, top: int = 20) -> list[Pin]:
        """The busy blocks that keep most free bytes from going back, most first.

        A block pins the free bytes of those pages that hold no byte of another busy block and that
        could be given back without it. What two blocks hold together is counted for neither. Where
        dmi.profile() or dmi run --profile has seen a block, its stack stands beside it.
        """
        if isinstance(top, bool) or not isinstance(top, int):
            raise TypeError(f"top must be an int, not {type(top).__name__}")
        if not 0 <= top <= _core.MAX_SIZE:
            raise ValueError(f"top must be 0 or more, not {top}")
        found, _count = _inspect.pin_list(self, min(top, self.stats().busy_blocks))
        return _with_stacks([Pin(*fields) for fields in found])

    def mark(self) -> Mark:
        """This moment, for blocks_since(): a walk, kept until the mark goes."""
        return Mark(self.handle, self.ranges())

    def blocks_since(self, mark: Mark) -> list[Range]:
        """The busy blocks that were not there at the mark, by segment and address.

        Two walks are compared, so that allocation itself pays nothing: a block that was freed and
        whose place went to a new block of the same size counts as the old one. Costs a walk now and
        about 200 bytes for each block that was busy at the mark. HeapError for another heap's mark.
        """
        if mark.handle != self.handle:
            raise HeapError(f"the mark is of heap {mark.handle:#x}, not of {self.handle:#x}")
        return self.ranges().busy_since(mark.walk)

    def validate(self) -> None:
        """Check every tag, list and counter; HeapError names the first fault and its address."""
        fault = _inspect.first_fault(self)
        if fault is not None:
            raise HeapError(
                f"heap {self.handle:#x} is damaged at {fault.address:#x}: {fault.message}",
                address=fault.address,
                fault=fault.word,
            )


def _with_stacks(pins: list[Pin]) -> list[Pin]:
    """The same with the stacks of those blocks that lie on sampled pages."""
    if not pins or (profile := current_profile()) is None:
        return pins
    from dmi.profile._owners import stacks_of

    stacks = stacks_of(profile, [pin.address for pin in pins])
    return [pin._replace(stack=stacks.get(pin.address)) for pin in pins]


def current_profile() -> dict[str, Any] | None:
    """What the sampler of this process knows now; None where there was none."""
    try:
        values: dict[str, Any] = json.loads(_inspect.profile_text())
    except OSError:
        return None
    return values


class Found(NamedTuple):
    """Where an address lies: the heap, the range around it, and the bytes into that range.

    A pickle names the heap by its handle: in another process, or when it is gone, ``heap`` is None.
    """

    heap: Heap
    address: int
    size: int
    kind: Kind
    state: State
    bucket: int
    segment: int
    offset: int

    def __reduce__(self) -> tuple[Any, ...]:
        return (_found_again, (os.getpid(), self.heap and self.heap.handle, *self[1:]))


def _found_again(pid: int, handle: int | None, *rest: Any) -> Found:
    heap: Any = None
    if handle is not None and pid == os.getpid():
        with suppress(HeapError):
            heap = Heap.from_handle(handle)
    return Found(heap, *rest)


def _name_bytes(name: str | None) -> bytes | None:
    if name is None:
        return None
    if not isinstance(name, str):
        raise TypeError(f"name must be a str or None, not {type(name).__name__}")
    try:
        raw = name.encode()
    except UnicodeEncodeError:
        raise ValueError(f"name must be text that UTF-8 can hold, not {name!r}") from None
    if len(raw) > MAX_NAME or b"\0" in raw:
        raise ValueError(f"name must be at most {MAX_NAME} bytes of UTF-8 without NUL")
    return raw


def _max_size(max_size: SupportsIndex | None) -> int:
    if max_size is None:
        return 0
    if isinstance(max_size, bool):
        raise TypeError("max_size must be an int (bytes) or None, not bool")
    try:
        size = operator.index(max_size)
    except TypeError:
        raise TypeError(
            f"max_size must be an int (bytes) or None, not {type(max_size).__name__}"
        ) from None
    if size <= 0:
        raise ValueError(f"max_size must be 1 byte or more, or None, not {size}")
    if size > _core.MAX_SIZE:
        raise SizeError(f"max_size must be at most {_core.MAX_SIZE} bytes, not {size}")
    return size


def heap_row(handle: int, stats: HeapStats) -> windbg.HeapRow:
    """The columns of `!heap -s` from the counters of a heap."""
    return windbg.HeapRow(
        handle=handle,
        flags=stats.flags,
        reserved_kib=stats.segment_reserved // 1024,
        committed_kib=stats.segment_committed // 1024,
        virtual_kib=stats.segment_virtual // 1024,
        free_kib=stats.free // 1024,
        list_length=stats.list_length,
        uncommitted_ranges=stats.uncommitted_ranges,
        virtual_blocks=stats.virtual_blocks,
        lock_contention=stats.lock_contention,
        fast_heap="L" if stats.lfh_active else "",
    )


def heaps() -> list[Heap]:
    """All live heaps of the process, oldest first, whoever made them."""
    found: list[Heap] = []
    for handle in _inspect.handles():
        try:
            found.append(Heap.from_handle(handle))
        except HeapError:
            continue  # destroyed by another thread meanwhile
    return found


def default_heap() -> Heap:
    """The process default heap, which dmi_malloc() serves; made at the first call."""
    return Heap.from_handle(_inspect.default_handle())


def find(address: SupportsIndex) -> Found | None:
    """Where an address lies, interior ones too; None when no heap owns it (`!heap -x`)."""
    found = _inspect.find(address)
    if found is None:
        return None
    handle, native = found
    where = Range.from_native(native)
    return Found(
        Heap.from_handle(handle),
        where.address,
        where.size,
        where.kind,
        where.state,
        where.bucket,
        where.segment,
        operator.index(address) - where.address,
    )


def metadata_committed() -> int:
    """Committed bytes of metadata that belongs to the process and to no heap."""
    return _inspect.metadata_committed()


def summary(which: Iterable[Heap] | None = None, *, names: bool = False) -> str:
    """`!heap -s` for all heaps of the process, or for those given. Sizes are KiB.

    names  adds a line with each heap's name and policy behind the table, which WinDbg has not
    """
    rows: list[windbg.HeapRow] = []
    named: list[str] = []
    for heap in heaps() if which is None else which:
        try:
            rows.append(heap.row())
            named.append(f"    {heap.handle:x}  {heap.name or '-'}  {heap.decommit}\n")
        except HeapError:
            if which is not None:
                raise
    return windbg.format_heap_summary(rows) + ("".join(named) if names else "")
