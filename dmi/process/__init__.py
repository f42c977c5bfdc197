"""The heaps of any process and of any core file, whoever's they are.

    with dmi.open_process(pid) as process:
        for heap in process.heaps():
            print(heap.kind, heap.stats())

A live process is read from outside, through /proc, while it runs on: nothing is stopped, nothing is
written, and pages that are not in memory are not touched. What it changes meanwhile is read again
or reported as unknown. A core file stands still.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from dmi.address import NotSupportedError, summarise
from dmi.address._maps import parse_maps
from dmi.address._own_tables import OwnTable, own_tables

from . import _text as text
from ._corefile import CoreError, CoreReader, is_core, packed
from ._dmi import dmi_heaps
from ._glibc import glibc_heaps
from ._glibc_find import Space
from ._heaps import ForeignHeap, ForeignPin, ForeignRange, ForeignRow, ForeignStats
from ._live import LiveReader
from ._others import other_heaps
from ._own_tables import segment_tables, table_heaps
from ._python import pymalloc_heaps
from ._rights import (
    ShapeHeap,
    is_narrow,
    run_of,
    shape_heaps,
    status,
    without_rights,
)
from ._stop import Stop, limit_for
from ._thread_caches import ThreadCache, thread_caches
from ._trim import TrimEstimate, estimate_trim

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from dmi._layers import Layers
    from dmi._snapshot import Snapshot
    from dmi.address import AddressSummary
    from dmi.address._maps import Mapping

__all__ = [
    "CoreError",
    "ForeignHeap",
    "ForeignPin",
    "ForeignRange",
    "ForeignRow",
    "ForeignStats",
    "OwnTable",
    "Process",
    "ThreadCache",
    "TrimEstimate",
    "heap_rows",
    "is_core",
    "is_source",
    "layers",
    "open_core",
    "open_process",
    "open_source",
    "text",
]


class Moment(NamedTuple):
    """One reading of smaps."""

    mappings: list[Mapping]
    summary: AddressSummary


class Process:
    """A process that is looked at from outside: see ``open_process`` and ``open_core``.

    A context manager. Not for use by two threads at once.
    """

    def __init__(self, reader: LiveReader | CoreReader, *, stop: bool = False) -> None:
        self.reader = reader
        self._may_stop = stop
        self._stopped: Stop | None = None
        self._heaps: tuple[ForeignHeap, ...] | None = None
        self._tables: tuple[OwnTable, ...] = ()
        self._notes: list[str] = []
        self._remarks: list[str] = []
        self._moment: Moment | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the process or the file."""
        self.resume()
        self.reader.close()

    def resume(self) -> None:
        """Let a process go that was stopped to be looked at; ``notes`` say for how long."""
        stopped, self._stopped = self._stopped, None
        if stopped is not None:
            stopped.resume()
            self._remarks.append(stopped.note)

    def _stop(self) -> None:
        if self._may_stop and self.live:
            known = status(self.pid)
            size = known.get("RssAnon", known.get("VmRSS", 0)) + known.get("VmSwap", 0)
            self._stopped = Stop(self.pid, limit_for(size))
        self._may_stop = False

    @property
    def pid(self) -> int:
        """Its number, in the caller's namespace; of a core file the number it had."""
        return self.reader.pid

    @property
    def program(self) -> str:
        """The name of the program, as the system has it."""
        return self.reader.program

    @property
    def live(self) -> bool:
        """Whether it runs, or is a core file."""
        return not self.reader.stands_still

    @property
    def gaps(self) -> tuple[str, ...]:
        """What could not be told, and why."""
        return (*self.reader.notes, *self._notes)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What else is to be said: its other number, for how long it stood still."""
        inner = self.reader.namespace_pid
        if self.live and inner != self.pid:
            return (
                f"process {self.pid} is process {inner} in its own namespace", *self._remarks
            )  # fmt: skip
        return tuple(self._remarks)

    @property
    def notes(self) -> tuple[str, ...]:
        """Both: what could not be told, and what else is to be said."""
        return (*self.gaps, *self.remarks)

    def space(self) -> Space:
        """Its mappings now."""
        if not self.live:
            return Space(self.moment().mappings)
        return Space(parse_maps(self.reader.maps(details=False)))

    def heaps(self) -> tuple[ForeignHeap, ...]:
        """Its heaps of every kind that is known, found at the first call."""
        if self._heaps is None:
            if self.reader.denied:
                self._heaps = tuple(self._without_rights())
                return self._heaps
            if self.live and is_narrow(self.pid):
                self._notes.append("a 32-bit program: its heaps are not read, only its mappings")
                self._heaps = tuple(shape_heaps(self.moment().summary))
                return self._heaps
            self._stop()
            run = run_of(self.pid) if self.live else ()
            space = self.space()
            heaps: list[ForeignHeap] = []
            for kind in (dmi_heaps, glibc_heaps, pymalloc_heaps):
                found, notes = kind(self.reader, space)
                heaps += found
                self._notes += notes
            with suppress(OSError):
                self._tables = (
                    *own_tables(self.reader, space.mappings),
                    *segment_tables(self.reader, space.mappings, heaps),
                )
                heaps += table_heaps(self.reader, self._tables, self.moment().summary)
            with suppress(OSError):
                rest, notes = other_heaps(
                    self.reader, space, self.moment().summary, heaps, self._tables
                )
                heaps += rest
                self._notes += notes
            if self.live and run_of(self.pid) != run:
                self._notes.append("it became another program, or ended, while it was looked at")
            self._heaps = tuple(heaps)
        return self._heaps

    def tables(self) -> tuple[OwnTable, ...]:
        """What dmi has mapped for itself there, also what is too little for a row of heaps()."""
        self.heaps()
        return self._tables

    def moment(self) -> Moment:
        """Its mappings with what is in memory, read at the first call, and what they are used
        for."""
        if self._moment is None:
            mappings = parse_maps(self.reader.maps())
            self._moment = Moment(mappings, summarise(self.reader, mappings=mappings))
        return self._moment

    def _without_rights(self) -> list[ShapeHeap]:
        """What can be told of heaps where the memory may not be read; notes say what is missing."""
        self._say_which_right()
        with suppress(OSError):
            return shape_heaps(self.moment().summary)
        return []

    def _say_which_right(self) -> None:
        """Note, once, which right to its memory is missing, and what everybody may know."""
        for line in without_rights(self.pid):
            if line not in self._notes:
                self._notes.append(line)

    def thread_caches(self) -> tuple[ThreadCache, ...]:
        """What the cache of each thread holds, of those threads that can be told apart; glibc
        counts it as used."""
        return thread_caches(self.reader, self.space(), self.heaps())

    def trim(self) -> TrimEstimate | None:
        """What malloc_trim would give back, and the command that does it; None without glibc."""
        return estimate_trim(self.heaps(), self.pid if self.live else 0)

    def find(self, address: int) -> tuple[ForeignHeap, ForeignRange] | None:
        """The heap and the range that hold the address; None: no heap that is known does."""
        for heap in self.heaps():
            for start, size in getattr(heap, "mapped", ()):
                if start <= address < start + size:
                    return heap, ForeignRange(start, size, "mapped", "busy", 0, start)
            if not any(s.address <= address < s.address + s.reserved for s in heap.segments()):
                continue
            for found in heap.walk() or ():
                if found.address <= address < found.address + found.size:
                    return heap, found
        return None

    def layers(self) -> Layers:
        """Who holds its memory, layer by layer. Where not even its mappings may be read, what
        everybody may know. One that was stopped to be looked at goes on."""
        from ._layers import layers_of

        return layers_of(self)

    def snapshot(self, label: str = "") -> Snapshot:
        """This moment of it, as ``dmi snapshot`` keeps it."""
        from ._snapshot import snapshot_of

        return snapshot_of(self, label=label)

    def address_summary(self) -> AddressSummary:
        """What its address space is used for."""
        self._stop()
        if self.reader.denied:
            self._say_which_right()
        return summarise(self.reader)


def open_process(pid: int, *, swap_in: bool = False, stop: bool = False) -> Process:
    """Look at process ``pid``, which runs on. swap_in: read pages that are in swap too. stop: from
    ``heaps()`` to ``resume()`` or ``close()`` it stands still, for 50 ms at most for each 128 MiB
    and 200 ms in all; then it is read as it runs, and ``notes`` say so.

    Raises ProcessLookupError where there is none; where its memory may not be read,
    ``heaps()`` is empty and ``notes`` say why.
    """
    if isinstance(pid, bool) or not isinstance(pid, int):
        raise TypeError(f"pid must be an int, not {type(pid).__name__}")
    if pid <= 0:
        raise ValueError(f"pid must be positive, not {pid}")
    if not sys.platform.startswith("linux"):
        raise NotSupportedError("open_process needs /proc, which this system does not have")
    return Process(LiveReader(pid, swap_in=swap_in).__enter__(), stop=stop)


def open_core(path: str | os.PathLike[str]) -> Process:
    """Look into a core file, the kernel's or gcore's. CoreError for any other file; OSError."""
    return Process(CoreReader(path).__enter__())


def layers(pid: int | None = None) -> Layers:
    """The layers of process ``pid``, by default of this one.

    This process is asked for what it knows: dmi's heaps, pymalloc, malloc; other allocators in it
    (jemalloc, mimalloc) are told by where and how their memory lies, not how much of it is used.
    Another process is looked at from outside (``dmi.open_process``): its heaps of every kind, each
    arena of glibc's malloc. That needs the rights of a debugger; notes say what could not be told.
    The moments of the layers differ by the time it takes to read them. Raises what
    ``dmi.address_summary`` raises, and NotSupportedError where there is no /proc. Thread-safe.
    """
    if not sys.platform.startswith("linux"):
        raise NotSupportedError(f"layers needs /proc, which {sys.platform} does not have")
    if pid is not None and pid != os.getpid():
        with open_process(pid) as process:
            return process.layers()
    from ._layers import layers_of_self

    return layers_of_self()


def is_source(path: str | os.PathLike[str]) -> bool:
    """Whether the file is a core file, or compressed as core files are."""
    return is_core(path) or bool(packed(path))


def open_source(
    path: str | os.PathLike[str] | None,
    pid: int | None,
    *,
    swap_in: bool = False,
    stop: bool = False,
) -> Process:
    """The process with that number, else the core file."""
    if pid is not None:
        return open_process(pid, swap_in=swap_in, stop=stop)
    if stop or swap_in:
        word = "--stop" if stop else "--swap-in"
        raise ValueError(f"{word} is for a process that runs: name one with --pid N")
    if path is None:
        raise ValueError("neither a process nor a core file is named")
    return open_core(path)


def heap_rows(process: Process | int) -> list[ForeignStats]:
    """The figures of every heap of a process, given by its number or opened."""
    if isinstance(process, int):
        with open_process(process) as opened:
            return heap_rows(opened)
    found: list[ForeignStats] = []
    for heap in process.heaps():
        with suppress(ProcessLookupError):
            found.append(heap.stats())
    return found
