"""The layers of a process that is looked at from outside, or of a core file, from its heaps."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from dmi._layers import Layer, Layers, Part, os_heap, physical, virtual

from ._text import escaped

if TYPE_CHECKING:
    from collections.abc import Iterable

    from . import Process
    from ._heaps import ForeignHeap

__all__ = ["layers_of"]

_RUNTIME: Final = ("glibc", "brk heap")
_SHOWN: Final = 12
"""Heaps of one layer that have a line of their own."""


def layers_of(process: Process) -> Layers:
    """Who holds the memory; see ``dmi.layers``."""
    summary = process.address_summary()
    heaps = process.heaps()
    custom = [part_of(each) for each in heaps if each.kind not in _RUNTIME]
    runtime = [part_of(each) for each in heaps if each.kind in _RUNTIME]
    found = [
        Layer("1a", "custom libraries", _merged(custom)),
        Layer("1b", "language runtime", _merged(runtime), note=_runtime_note(process)),
        os_heap(summary),
        virtual(summary),
    ]
    if process.live:
        with suppress(ProcessLookupError):
            found.append(physical(process.pid))
    else:
        note = "a core file does not say what was in physical memory"
        found.append(Layer("3", "physical memory", (Part("resident", None, None),), note=note))
    return Layers(process.pid, tuple(found), tuple(map(escaped, process.notes)))


def part_of(heap: ForeignHeap) -> Part:
    """What a heap holds and uses, blocks mapped on their own included."""
    stats = heap.stats()
    mapped = stats.mapped or 0
    name = f"{heap.kind} {escaped(heap.name)}".strip()
    if heap.kind in ("dmi", "glibc") and heap.name != "main arena":
        title = "dmi heap" if heap.kind == "dmi" else heap.kind
        name = f"{title} {heap.handle:x}" + (f" ({escaped(heap.name)})" if heap.name else "")
    holds = None if stats.committed is None else stats.committed + mapped
    return Part(name, holds, None if stats.busy is None else stats.busy + mapped)


def _merged(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Those that hold most, and the rest as one."""
    ordered = sorted(parts, key=lambda part: -(part.holds or 0))
    shown, rest = ordered[:_SHOWN], ordered[_SHOWN:]
    if rest:
        holds = [part.holds for part in rest if part.holds is not None]
        uses = [part.uses for part in rest if part.uses is not None]
        whole = len(holds) == len(uses) == len(rest)
        shown.append(Part(f"{len(rest)} others", sum(holds), sum(uses) if whole else None))
    return tuple(shown)


def _runtime_note(process: Process) -> str:
    estimate = process.trim()
    if estimate is None:
        return ""
    bound = "" if estimate.exact else "at most "
    return (
        f"malloc_trim would give back {bound}{estimate.gives // 1024:,} KB; blocks in threads' "
        "caches are not used"
    )
