"""Heaps before and after some work, in dmi's own counts.

Both moments are taken after a trim, so that what is left is what cannot come back: neither the
policy's delay nor the speed of the machine changes a figure, and no resident size is asked. What a
policy would have kept for good is read before the trim.
"""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from dmi.errors import DmiError, HeapError
from dmi.heap import Heap, find, heaps
from dmi.testing._scatter import NOTHING, scattered

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from dmi.stats import HeapStats
    from dmi.walk import Pin, Ranges

__all__ = ["Found", "HeapFound", "NotOnDmiError", "Watch", "heaps_of_process"]

FOR_GOOD: Final = (
    "never",
    "budget",
    "pressure",
    "block_threshold",
    "total_threshold",
    "refused",
)
"""Reasons that do not pass with time: what they keep stays until the program asks for a trim."""

YOUNG_ALONE: Final = sys.version_info < (3, 14)
"""Whether gc.collect(1) takes all that came since the last whole collection."""


class NotOnDmiError(DmiError):
    """The memory of the code under test is not on dmi, so nothing can be said of it."""


def heaps_of_process() -> list[Heap]:
    """The heaps of this process, when Python's objects live on one of them.

    NotOnDmiError, saying what to do, when they do not: then a test of Python code would pass
    whatever it keeps.
    """
    probe = bytes(203)
    if find(id(probe)) is None:
        raise NotOnDmiError(
            "Python's objects are not on dmi: run pytest under `dmi run -- python -m pytest`, call "
            "dmi.python.install() first, or name the heap that the test uses (heap=...)"
        )
    return heaps()


@dataclass(frozen=True, slots=True)
class HeapFound:
    """One heap across the work. Bytes; growth may be negative.

    busy_growth, committed_growth  after less before, both after a trim
    retained_growth                what committed grew more than busy
    kept_by_policy                 what the policy would not have given back without the trim, less
                                   what it kept before
    committed_in_all               bytes committed while the work ran, again or first
    reasons                        why each retained byte is retained at the end
    scattered                      what the blocks that stayed could pin alone (_scatter.py); None
                                   when it was not asked for
    """

    name: str
    busy_growth: int
    committed_growth: int
    committed_in_all: int
    kept_by_policy: int
    after: HeapStats = field(repr=False)
    pins: tuple[Pin, ...] = ()
    handle: int = field(default=0, repr=False)
    scattered: int | None = None

    @property
    def retained_growth(self) -> int:
        """Bytes: growth of committed less growth of busy."""
        return self.committed_growth - self.busy_growth

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "busy_growth": self.busy_growth,
            "committed_growth": self.committed_growth,
            "retained_growth": self.retained_growth,
            "committed_in_all": self.committed_in_all,
            "kept_by_policy": self.kept_by_policy,
        }


@dataclass(frozen=True, slots=True)
class Found:
    """All watched heaps across the work.

    left_out   bytes that stay allocated and are none of the work's: what Watch.apart() saw,
               or leave_out() was told
    """

    heaps: tuple[HeapFound, ...]
    left_out: int = 0

    def by_handle(self) -> dict[int, HeapFound]:
        """The heaps by their handles."""
        return {each.handle: each for each in self.heaps}

    def _sum(self, name: str) -> int:
        return sum(int(getattr(each, name)) for each in self.heaps)

    @property
    def busy_growth(self) -> int:
        """Bytes that the work allocated and did not free."""
        return self._sum("busy_growth")

    @property
    def committed_growth(self) -> int:
        """Bytes by which committed memory grew."""
        return self._sum("committed_growth")

    @property
    def retained_growth(self) -> int:
        """Bytes that are committed and not busy, beyond those before."""
        return self._sum("retained_growth")

    @property
    def kept_by_policy(self) -> int:
        """Bytes that a policy kept until the trim took them."""
        return self._sum("kept_by_policy")

    @property
    def committed_in_all(self) -> int:
        """Bytes committed while the work ran."""
        return self._sum("committed_in_all")

    @property
    def scattered(self) -> int | None:
        """Bytes that the blocks that stayed could pin alone; None when it was not asked for."""
        known = [each.scattered for each in self.heaps if each.scattered is not None]
        return sum(known) if known else None

    @property
    def returned(self) -> float:
        """The share of what was committed that went back: 1 when nothing had to be committed."""
        if self.committed_in_all <= 0:
            return 1.0
        return min(1.0, max(0.0, 1 - self.committed_growth / self.committed_in_all))

    def as_dict(self) -> dict[str, Any]:
        """For JSON and for baseline files."""
        return {
            "busy_growth": self.busy_growth,
            "committed_growth": self.committed_growth,
            "retained_growth": self.retained_growth,
            "committed_in_all": self.committed_in_all,
            "kept_by_policy": self.kept_by_policy,
        }


@dataclass(slots=True)
class _Start:
    heap: Heap
    busy: int
    committed: int
    commit_bytes: int
    kept: int


def _kept(stats: HeapStats) -> int:
    return sum((stats.reasons or {}).get(name, 0) for name in FOR_GOOD)


def _look(start: _Start) -> _Start | None:
    """The heap as it is, without what a trim would take; None when it went."""
    try:
        stats = start.heap.stats(detail=True)
    except HeapError:
        if not start.heap.closed:
            raise
        return None
    bound = stats.committed if stats.page_bound is None else stats.page_bound
    return _Start(start.heap, stats.busy, bound, _committed_so_far(stats), _kept(stats))


def _committed_so_far(stats: HeapStats) -> int:
    return stats.commit_bytes + stats.recommit_bytes


class Watch:
    """Heaps from now on. Not thread-safe.

    ``every`` watches also the heaps that come while it watches: from nothing on. ``collected`` says
    that a watch has just ended, and that nothing old was let go of since. ``walked`` keeps a walk
    of each heap, so that it is known how far apart lies what stayed.
    """

    def __init__(
        self,
        which: Iterable[Heap] = (),
        *,
        every: bool = False,
        collected: bool = False,
        walked: bool = False,
    ) -> None:
        self._every = every
        self._walked = walked
        self._walks: dict[int, Ranges] = {}
        self._starts: dict[int, _Start] = {}
        self._apart = 0
        # A whole collection is most of what a watch costs.
        gc.collect(1 if collected and YOUNG_ALONE else 2)
        watched = heaps() if every else list(which)
        # All walks first: they are kept, on one of these heaps.
        for heap in watched:
            self._walk(heap)
        for heap in watched:
            self._add(heap)

    @property
    def count(self) -> int:
        """Heaps that are watched."""
        return len(self._starts)

    def again(self) -> None:
        """Begin anew: this moment is the start of the heaps that are watched."""
        gc.collect()
        self._apart = 0
        there = [start.heap for start in self._starts.values() if not start.heap.closed]
        for heap in there:
            self._walk(heap)
        for heap in there:
            self._add(heap)

    def add_new(self, which: Iterable[Heap]) -> None:
        """Watch those that came meanwhile, from nothing on."""
        for heap in which:
            if heap.handle not in self._starts:
                self._starts[heap.handle] = _Start(heap, 0, 0, 0, 0)

    def add(self, heap: Heap) -> Heap:
        """Watch one more, as it is now; returns it."""
        self._walk(heap)
        return self._add(heap)

    def _walk(self, heap: Heap) -> None:
        if not isinstance(heap, Heap):
            raise TypeError(f"a dmi.Heap can be watched, not {type(heap).__name__}")
        if self._walked:
            self._walks[heap.handle] = heap.ranges()

    def _add(self, heap: Heap) -> Heap:
        kept = _kept(heap.stats(detail=True))
        heap.trim()
        stats = heap.stats()
        self._starts[heap.handle] = _Start(
            heap, stats.busy, stats.committed, _committed_so_far(stats), kept
        )
        return heap

    @contextmanager
    def apart(self) -> Generator[None]:
        """What happens inside is none of the work: the start is moved by what it changes.

        Nothing is trimmed, because that would also give back what the work left behind.
        """
        gc.collect()
        if self._every:
            self.add_new(heaps())
        before = {handle: _look(start) for handle, start in self._starts.items()}
        try:
            yield
        finally:
            gc.collect()
            if self._every:
                # Those that came inside are watched from here on.
                for heap in heaps():
                    if heap.handle not in self._starts and (now := _look(_Start(heap, 0, 0, 0, 0))):
                        self._walk(heap)
                        self._starts[heap.handle] = now
            for handle, was in before.items():
                start = self._starts[handle]
                now = _look(start)
                if was is not None and now is not None:
                    start.busy += now.busy - was.busy
                    start.committed += now.committed - was.committed
                    start.commit_bytes += now.commit_bytes - was.commit_bytes
                    start.kept += now.kept - was.kept
                    self._apart += now.busy - was.busy

    def leave_out(self, handle: int, size: int) -> None:
        """Bytes on a heap that stay and are none of the work's. Nothing for a heap not watched."""
        if (start := self._starts.get(handle)) is not None:
            start.busy += size
            start.committed += size
            self._apart += size

    def found(self, *, pins: int = 0) -> Found:
        """What changed since, after a collection and a trim of each heap.

        A heap that was destroyed meanwhile holds nothing. NotOnDmiError when no heap was watched.
        """
        gc.collect()
        if self._every:
            self.add_new(heaps())
        if not self._starts:
            raise NotOnDmiError(
                "no heap is watched: nothing can be said of the memory of this test"
            )
        rows = [self._row(start, pins) for start in self._starts.values()]
        return Found(tuple(row for row in rows if row is not None), self._apart)

    def with_pins(self, found: Found, pins: int) -> Found:
        """The same with the blocks that pin most now. They cost a walk, and a look at a profile."""
        rows = []
        for row in found.heaps:
            heap = self._starts[row.handle].heap
            there = row.pins or heap.closed
            rows.append(row if there else replace(row, pins=tuple(heap.pins(pins))))
        return Found(tuple(rows), found.left_out)

    def _row(self, start: _Start, pins: int) -> HeapFound | None:
        heap = start.heap
        try:
            kept = _kept(heap.stats(detail=True))
            heap.trim()
            stats = heap.stats(detail=True)
            name = heap.name or ("default heap" if heap.is_default else f"heap {heap.handle:#x}")
            return HeapFound(
                name,
                stats.busy - start.busy,
                stats.committed - start.committed,
                _committed_so_far(stats) - start.commit_bytes,
                max(0, kept - start.kept),
                stats,
                tuple(heap.pins(pins)) if pins else (),
                heap.handle,
                scattered(heap, self._walks.get(heap.handle, NOTHING)) if self._walked else None,
            )
        except HeapError:
            if not heap.closed:
                raise
            return None
