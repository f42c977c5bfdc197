"""The layers of a process that is looked at from outside, or of a core file, from its heaps."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from dmi._cgroup import cgroup_of
from dmi._layers import (
    Layer,
    Layers,
    Part,
    glibc_malloc,
    os_heap,
    own_layers,
    physical,
    physical_layer,
    virtual,
)
from dmi._leaves import Leaf
from dmi.address import own_ranges, summarise
from dmi.address._maps import parse_maps

from ._glibc_find import Space
from ._leaves import leaves_of
from ._live import LiveReader
from ._others import own_others
from ._own_tables import KIND as TABLES
from ._pages import pages_of
from ._rights import status
from ._spans import Claims
from ._text import escaped

if TYPE_CHECKING:
    from collections.abc import Iterable

    from . import Process
    from ._heaps import ForeignHeap
    from ._rights import ShapeHeap

__all__ = ["layers_of", "layers_of_self"]

_RUNTIME: Final = ("glibc", "brk heap")
_SHOWN: Final = 12
"""Heaps of one layer that have a line of their own."""


def layers_of_self() -> Layers:
    """Who holds the memory of this process; see ``dmi.layers``."""
    with LiveReader() as source:
        mappings = parse_maps(source.maps())
        summary = summarise(source, own_ranges(), mappings)
        malloc = glibc_malloc() or {}
        total, count = malloc.get("hblkhd", 0), malloc.get("hblks", 0)
        others: list[ShapeHeap] = []
        mapped: list[tuple[int, int]] = []
        notes: list[str] = []
        # Where a process may not read its own memory as a file, nobody else is told apart.
        if not source.denied:
            with suppress(OSError):
                others, mapped, notes = own_others(source, Space(mappings), summary, total, count)
        claims, owners = claims_of(others)
        claims.add(((start, start + size) for start, size in mapped), len(owners))
        owners.append(_mapped_leaf("glibc"))
        leaves = leaves_of(source, mappings, summary.regions, claims, owners)
    missing = max(0, total - sum(size for _, size in mapped))
    return own_layers(
        summary, mappings, leaves, _merged(map(part_of, others)), missing, tuple(notes)
    )


def layers_of(process: Process) -> Layers:
    """Who holds the memory; see ``dmi.layers``."""
    heaps = process.heaps()
    try:
        moment = process.moment()
    except PermissionError:
        return _known_to_all(process)
    custom = [part_of(each, process.reader) for each in heaps if each.kind not in _RUNTIME]
    runtime = [part_of(each, process.reader) for each in heaps if each.kind in _RUNTIME]
    found = [
        Layer("1a", "custom libraries", _merged(custom)),
        Layer(
            "1b",
            "language runtime",
            _merged(runtime),
            _on_huge_pages(heaps),
            _runtime_note(process),
        ),
        os_heap(moment.summary),
        virtual(moment.summary),
    ]
    if process.live:
        with suppress(ProcessLookupError):
            found.append(physical(process.pid, moment.mappings))
    else:
        note = "a core file does not say what was in physical memory"
        found.append(Layer("3", "physical memory", (Part("resident", None, None),), note=note))
    claims, owners = claims_of(heaps)
    for table in process.tables():
        claims.add([(table.start, table.start + table.size)], len(owners))
        owners.append((f"dmi: {table.name}", TABLES))
    process.resume()
    leaves = leaves_of(process.reader, moment.mappings, moment.summary.regions, claims, owners)
    return Layers(
        process.pid,
        tuple(found),
        tuple(map(escaped, process.notes)),
        leaves,
        cgroup_of(process.pid) if process.live else None,
    )


_KINDS: Final = (
    ("RssAnon", "anonymous", "anonymous, of whom is not known"),
    ("RssFile", "file", "files"),
    ("RssShmem", "shared memory", "shared memory"),
)


def _known_to_all(process: Process) -> Layers:
    """Of a process whose mappings may not be read: what is in physical memory, by kind.

    All from one reading: the process goes on meanwhile, and kinds and sum of two would differ.
    """
    known = status(process.pid)
    if "VmRSS" not in known:
        raise ProcessLookupError(f"no process {process.pid}, or it has no memory")
    names = {"VmRSS": "Rss", "VmSwap": "Swap"}
    figures = {name: known[key] for key, name in names.items() if key in known}
    swapped = known.get("VmSwap")
    leaves = [
        Leaf(what, name, known[key], known[key], 0) for key, what, name in _KINDS if known.get(key)
    ]
    if swapped:
        leaves.append(Leaf("anonymous", "in swap", swapped, 0, swapped))
    size = Part("address space", known.get("VmSize"), None)
    return Layers(
        process.pid,
        (Layer("2", "virtual memory", (size,)), physical_layer(figures)),
        tuple(map(escaped, process.notes)),
        tuple(sorted(leaves, key=lambda leaf: -(leaf.holds or 0))),
        cgroup_of(process.pid),
    )


def _on_huge_pages(heaps: Iterable[ForeignHeap]) -> tuple[tuple[str, int], ...]:
    """Huge pages keep what is free between blocks in memory: how much, where that is known."""
    known = [
        (each.stats().details or {}).get("free_on_huge_pages")
        for each in heaps
        if each.kind == "glibc"
    ]
    total = sum(size for size in known if size is not None)
    return (("free, whole pages, on huge pages", total),) if total else ()


def claims_of(heaps: Iterable[ForeignHeap]) -> tuple[Claims, list[tuple[str, str]]]:
    """What each heap has of the address space, the outermost first, and their names."""
    claims = Claims()
    owners: list[tuple[str, str]] = []
    ordered = sorted(heaps, key=lambda heap: _OUTER.get(heap.kind, 1))
    for heap in ordered:
        claims.add(((s.address, s.address + s.reserved) for s in heap.segments()), len(owners))
        owners.append((_leaf_name(heap), heap.kind))
        mapped = getattr(heap, "mapped", ())
        if mapped:
            claims.add(((start, start + size) for start, size in mapped), len(owners))
            owners.append(_mapped_leaf(heap.kind))
    return claims, owners


def _mapped_leaf(kind: str) -> tuple[str, str]:
    return f"{kind} blocks mapped on their own", kind


_OUTER: Final = {"dmi": 0, "glibc": 0, "pymalloc": 2}


def _leaf_name(heap: ForeignHeap) -> str:
    if heap.kind == "glibc" and heap.name != "main arena":
        return "glibc arenas of threads"
    name = escaped(heap.name)
    if heap.kind == TABLES:
        return f"dmi: {name}"
    return {"dmi": "dmi heaps", "pymalloc": "pymalloc"}.get(heap.kind, f"{heap.kind} {name}")


def part_of(heap: ForeignHeap, memory: object = None) -> Part:
    """What a heap holds and uses, and has in memory, blocks mapped on their own included."""
    stats = heap.stats()
    mapped = stats.mapped or 0
    name = f"{heap.kind} {escaped(heap.name)}".strip()
    if heap.kind == TABLES:
        name = _leaf_name(heap)
    if heap.kind in ("dmi", "glibc") and heap.name != "main arena":
        title = "dmi heap" if heap.kind == "dmi" else heap.kind
        name = f"{title} {heap.handle:x}" + (f" ({escaped(heap.name)})" if heap.name else "")
    holds = None if stats.committed is None else stats.committed + mapped
    busy = None if stats.busy is None else stats.busy + mapped
    resident = stats.resident
    for start, size in getattr(heap, "mapped", ()):
        found = pages_of(memory, start, start + size)
        resident = None if resident is None or found is None else resident + found[0]
    return Part(name, holds, busy, resident, stats.unknown or 0)


def _merged(parts: Iterable[Part]) -> tuple[Part, ...]:
    """Those that hold most, and the rest as one."""
    ordered = sorted(parts, key=lambda part: -(part.holds or 0))
    shown, rest = ordered[:_SHOWN], ordered[_SHOWN:]
    if rest:
        holds = [part.holds for part in rest if part.holds is not None]
        uses = [part.uses for part in rest if part.uses is not None]
        whole = len(holds) == len(uses) == len(rest)
        unknown = sum(part.unknown for part in rest)
        title = f"{len(rest)} others"
        shown.append(Part(title, sum(holds), sum(uses) if whole else None, unknown=unknown))
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
