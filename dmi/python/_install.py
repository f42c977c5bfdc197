"""install(): from now on Python's objects live on a dmi heap."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmi.errors import DmiError
from dmi.heap import Heap
from dmi.python import _checks

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import ModuleType

NAME = "python"
"""Of the heap that install() makes."""


class InstallError(DmiError, RuntimeError):
    """Python's objects cannot move to dmi in this process, or not now; the message says why."""


def hook() -> ModuleType:
    """The native part. InstallError where there is none."""
    if reason := _checks.not_here():
        raise InstallError(reason)
    from dmi.python import _hook

    return _hook


def install(heap: Heap | None = None, domains: Iterable[str] = ("mem", "obj")) -> Heap:
    """Have Python's objects live on a dmi heap from now on; returns the heap.

    heap     the heap, which then lives as long as the process; None makes one named "python"
    domains  CPython's allocator domains: "obj" (objects), "mem" (the buffers of lists, bytearrays
             and many extensions), "raw" (what is allocated without the GIL)

    What was allocated before stays where it is until it is freed, and goes back to the allocator
    that it came from; what grows moves to dmi. mem and obj may be installed at any time, beside
    running threads, with tracemalloc or the debug hooks in place: those stay outermost and see
    every block. raw is used without the GIL, so it can be installed only while the process has one
    thread. Called once more with the same heap or None it does nothing, or adds domains.

    InstallError says why it cannot be done: a free-threaded build, sub-interpreters, threads and
    raw, another tool's allocator hooks, another heap than the first time.
    """
    wanted = _domains(domains)
    if heap is not None and not isinstance(heap, Heap):
        raise TypeError(f"heap must be a dmi.Heap or None, not {type(heap).__name__}")
    native = hook()
    there = native.installed()
    if there and heap is not None and heap.handle != _process_heap().handle:
        raise InstallError(f"Python's objects live on {_process_heap()!r} already")
    if reason := _checks.refusal(native, wanted):
        raise InstallError(reason)
    if heap is None:
        heap = _process_heap() if there else Heap.from_handle(native.make_heap(NAME.encode()))
    elif not heap.thread_safe:
        raise InstallError("the heap must be thread_safe: objects are freed on any thread")
    if not there:
        native.hold(heap.handle)
        _kept.append(heap)
    native.put(wanted, heap.handle, _checks.is_traced())
    return heap


def is_installed() -> bool:
    """Whether Python's objects come from dmi."""
    return _checks.not_here() is None and bool(hook().installed())


_kept: list[Heap] = []


def _process_heap() -> Heap:
    if not _kept:  # a start-up file installed it
        _kept.append(Heap.from_handle(hook().process_heap()))
    return _kept[0]


def process_heap() -> Heap:
    """The heap of objects outside of contexts. InstallError before install()."""
    if not is_installed():
        raise InstallError("Python's objects are not on dmi yet: call dmi.python.install() first")
    return _process_heap()


def _domains(domains: Iterable[str]) -> list[str]:
    if isinstance(domains, str):
        raise TypeError(f"domains must be a list such as ('mem', 'obj'), not {domains!r}")
    wanted = list(domains)
    for domain in wanted:
        if domain not in _checks.DOMAINS:
            raise ValueError(f"domains may be {', '.join(_checks.DOMAINS)}, not {domain!r}")
    if not wanted:
        raise ValueError(f"domains must name one of {', '.join(_checks.DOMAINS)}")
    return wanted
