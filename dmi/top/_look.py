"""What the live view shows, read now and then, without a terminal.

Counters are read at each look. A walk (page bounds, reasons, layers, heaps of other processes) is
read again only when so much time has passed that walks take no more than SHARE of it.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

from dmi import heap
from dmi._cgroup import Cgroup, cgroup_of
from dmi._layers import Layers, physical_memory
from dmi._snapshot import snapshot
from dmi._status import resident_and_swapped
from dmi.address import process_heaps
from dmi.errors import HeapError
from dmi.process import layers, open_process

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

__all__ = ["HeapLine", "Look", "OtherLook", "OwnLook"]

SHARE: Final = 0.01
HISTORY: Final = 120


@dataclass(frozen=True, slots=True)
class HeapLine:
    """A heap as a line. Bytes; None is not known."""

    kind: str
    name: str
    handle: int
    committed: int | None
    busy: int | None
    page_bound: int | None = None
    policy: str = ""
    reasons: tuple[tuple[str, int], ...] = ()
    given_back: int | None = None
    """Bytes decommitted so far."""
    taken_again: int | None = None

    @property
    def retained(self) -> int | None:
        """committed - busy."""
        if self.committed is None or self.busy is None:
            return None
        return max(0, self.committed - self.busy)


@dataclass(slots=True)
class Look:
    """One look at a process."""

    when: float
    title: str
    heaps: list[HeapLine] = field(default_factory=list)
    layers: Layers | None = None
    physical: dict[str, int] = field(default_factory=dict)
    cgroup: Cgroup | None = None
    walk_age: float | None = None
    """Seconds since the last walk; None when there was none."""
    given_back_rate: float | None = None
    """Bytes a second since the look before."""
    taken_again_rate: float | None = None
    ended: bool = False
    notes: tuple[str, ...] = ()


class Source(Protocol):
    """What the view asks."""

    history: deque[tuple[int, int]]
    own: bool

    def read(self) -> Look: ...


class _Source:
    """What both kinds share: the budget of walks, the history, the rates."""

    own = False

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._taken = -1.0
        self._cost = 0.0
        self._rollup: dict[str, int] = {}
        self._before: tuple[float, int, int] | None = None
        self.history: deque[tuple[int, int]] = deque(maxlen=HISTORY)
        """(committed, busy) of the last looks."""

    def _due(self, now: float) -> bool:
        return self._taken < 0 or (now - self._taken) * SHARE >= self._cost

    def _walked(self, begin: float) -> None:
        self._taken = self._clock()
        self._cost = self._taken - begin

    def _finish(self, look: Look) -> Look:
        look.walk_age = None if self._taken < 0 else max(0.0, self._clock() - self._taken)
        known = [
            each for each in look.heaps if each.committed is not None and each.busy is not None
        ]
        if known:
            self.history.append(
                (sum(h.committed or 0 for h in known), sum(h.busy or 0 for h in known))
            )
        back = [h.given_back for h in look.heaps if h.given_back is not None]
        again = [h.taken_again for h in look.heaps if h.taken_again is not None]
        if back:
            now = (look.when, sum(back), sum(again))
            if self._before is not None and now[0] > self._before[0]:
                span = now[0] - self._before[0]
                look.given_back_rate = max(0, now[1] - self._before[1]) / span
                look.taken_again_rate = max(0, now[2] - self._before[2]) / span
            self._before = now
        return look


class OwnLook(_Source):
    """This process. Its heaps can be trimmed, given another policy, and saved."""

    own = True

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._detail: dict[int, tuple[int | None, tuple[tuple[str, int], ...]]] = {}
        self._layers: Layers | None = None

    def read(self) -> Look:
        """Look now."""
        begin = self._clock()
        look = Look(begin, "this process")
        if self._due(begin):
            self._walk()
            self._walked(begin)
        for each in heap.heaps():
            with suppress(HeapError):  # destroyed meanwhile
                stats = each.stats()
                bound, reasons = self._detail.get(each.handle, (None, ()))
                look.heaps.append(
                    HeapLine(
                        "dmi", each.name, each.handle, stats.committed, stats.busy, bound,
                        str(each.decommit), reasons, stats.decommit_bytes, stats.recommit_bytes,
                    )
                )  # fmt: skip
        look.layers = self._layers
        with suppress(OSError):
            look.physical = {**self._rollup, **resident_and_swapped()}
        look.cgroup = cgroup_of()
        return self._finish(look)

    def _walk(self) -> None:
        self._detail = {}
        for each in heap.heaps():
            with suppress(HeapError):
                stats = each.stats(detail=True)
                rows = sorted((stats.reasons or {}).items(), key=lambda row: -row[1])
                kept = tuple((name, size) for name, size in rows if size)
                self._detail[each.handle] = (stats.page_bound, kept)
        with suppress(OSError, NotImplementedError):
            self._layers = layers()
            self._rollup = physical_memory()

    # ---- what the keys do --------------------------------------------------------------------

    def trim(self, handle: int) -> str:
        """Trim a heap; a sentence about it."""
        report = heap.Heap.from_handle(handle).trim()
        self._taken = -1.0
        return f"{report.decommitted:,} bytes given back, the system confirms {report.confirmed:,}"

    def set_policy(self, handle: int, text: str) -> str:
        """Give a heap another policy; a sentence about it. ValueError for text that is none."""
        target = heap.Heap.from_handle(handle)
        target.decommit = text
        return f"{target.name or hex(handle)} now follows {target.decommit}"

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write a snapshot with blocks; a sentence about it."""
        snapshot(True).save(path)
        return f"snapshot written to {path}"


class OtherLook(_Source):
    """Another process, read from outside. Nothing of it is changed or stopped."""

    def __init__(self, pid: int, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self.pid = pid
        self._last: Look | None = None
        self._heaps: list[HeapLine] = []
        self._layers: Layers | None = None
        self._notes: tuple[str, ...] = ()

    def read(self) -> Look:
        """Look now. ProcessLookupError when it was never there; ``ended`` when it is gone."""
        begin = self._clock()
        look = Look(begin, f"process {self.pid}")
        try:
            now = resident_and_swapped(self.pid)
            if self._due(begin):
                self._walk()
                self._walked(begin)
            look.physical = {**self._rollup, **now}
        except (ProcessLookupError, FileNotFoundError):
            if self._last is None:
                raise
            look.ended = True
            look.physical = {}
        look.cgroup = None if look.ended else cgroup_of(self.pid)
        look.heaps = [] if look.ended else self._heaps
        look.layers = None if look.ended else self._layers
        look.notes = self._notes
        self._last = look
        return self._finish(look)

    def _walk(self) -> None:
        found = [
            HeapLine("dmi", each.name or "", each.handle, each.committed, each.busy)
            for each in process_heaps(self.pid)
        ]
        known = {each.handle for each in found}
        with open_process(self.pid) as process:
            for each in process.heaps():
                if each.handle in known:
                    continue
                stats = each.stats()
                found.append(
                    HeapLine(each.kind, each.name, each.handle, stats.committed, stats.busy)
                )
            self._notes = process.notes
        self._heaps = found
        with suppress(PermissionError, NotImplementedError):
            self._layers = layers(self.pid)
            self._rollup = physical_memory(self.pid)
