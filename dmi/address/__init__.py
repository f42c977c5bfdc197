"""`!address -summary` for a process of this machine: what its address space is used for.

``address_summary`` reads /proc, and on Windows asks the C core (``_windows``); ``summarise`` does
the same for any source of mappings. Text comes from ``dmi.windbg.format_address_summary``.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING, Final

from dmi import heap
from dmi.errors import HeapError
from dmi.windbg import FREE_STATE, FREE_TYPE, FREE_USAGE, AddressSummary, Region

from ._attribute import USAGES, DmiRange, Piece, attribute
from ._maps import NO_DISK, Mapping, ProcSource, Source, parse_maps
from ._outside import OutsideHeap, outside_heaps
from ._pools import pymalloc_usage
from ._windows import WINDOWS_USAGES, windows_regions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = [
    "NO_DISK",
    "USAGES",
    "WINDOWS_USAGES",
    "AddressSummary",
    "NotSupportedError",
    "OutsideHeap",
    "Region",
    "Source",
    "address_summary",
    "own_ranges",
    "process_heaps",
    "pymalloc_usage",
    "summarise",
]

_USER_BITS: Final = (47, 48, 52, 56)
_PROTECTIONS: Final = {
    "---": "PAGE_NOACCESS",
    "r--": "PAGE_READONLY",
    "rw-": "PAGE_READWRITE",
    "-w-": "PAGE_READWRITE",
    "--x": "PAGE_EXECUTE",
    "r-x": "PAGE_EXECUTE_READ",
    "rwx": "PAGE_EXECUTE_READWRITE",
    "-wx": "PAGE_EXECUTE_READWRITE",
}


class NotSupportedError(NotImplementedError):
    """The system has no source for what was asked."""


def address_summary(
    pid: int | None = None,
    *,
    dmi_ranges: Callable[[], Iterable[DmiRange]] | None = None,
) -> AddressSummary:
    """The address space of process ``pid``, by default of this one.

    Of this process dmi's segments are asked from its heaps, or from ``dmi_ranges``, which returns
    (address, size) pairs, or (address, size, committed) where that is known, in bytes. In another
    process they are asked from what its dmi says of itself, see ``process_heaps``. State is what
    the kernel charges: a segment that is given back by discard is MEM_COMMIT as a whole, and what
    dmi counts as committed of it is in ``stats()`` and ``layers()``. The snapshot is
    not atomic: mappings that change meanwhile may be seen before or after. On Windows the usages
    are those of ``WINDOWS_USAGES``, and dmi's memory is told in this process only.

    Raises ProcessLookupError, PermissionError, ValueError or TypeError for a bad pid, and
    NotSupportedError on systems that are neither Linux nor Windows. Thread-safe.
    """
    _check_pid(pid)
    if sys.platform == "win32":
        total, found = windows_regions(pid)
        return _tables(tuple(found), total, (), WINDOWS_USAGES)
    if not sys.platform.startswith("linux"):
        raise NotSupportedError(f"address_summary needs /proc, which {sys.platform} does not have")
    with ProcSource(pid) as source:
        if dmi_ranges is None and source.own:
            dmi_ranges = own_ranges
        return summarise(source, None if dmi_ranges is None else dmi_ranges())


def _check_pid(pid: int | None) -> None:
    if pid is not None and (isinstance(pid, bool) or not isinstance(pid, int)):
        raise TypeError(f"pid must be an int or None, not {type(pid).__name__}")
    if pid is not None and pid <= 0:
        raise ValueError(f"pid must be positive, not {pid}")


def process_heaps(pid: int) -> list[OutsideHeap]:
    """dmi's heaps in process ``pid``, oldest first, read from outside while it runs.

    Empty where there is none, where its dmi is of another build than this one, and where its memory
    may not be read: that needs the rights of a debugger. Linux only; raises what
    ``address_summary`` raises. Thread-safe.
    """
    _check_pid(pid)
    if not sys.platform.startswith("linux"):
        raise NotSupportedError(f"process_heaps needs /proc, which {sys.platform} does not have")
    with ProcSource(pid) as source:
        return outside_heaps(source, parse_maps(source.maps(details=False)))[0]


def own_ranges() -> list[DmiRange]:
    """(address, size, committed) of every segment and virtual block of this process's heaps, in
    bytes. Thread-safe."""
    ranges: list[DmiRange] = []
    for each in heap.heaps():
        with suppress(HeapError):  # destroyed meanwhile
            ranges += [(s.address, s.reserved, s.committed) for s in each.segments()]
    return ranges


def summarise(
    source: Source,
    dmi_ranges: Iterable[DmiRange] | None = None,
    mappings: Iterable[Mapping] | None = None,
) -> AddressSummary:
    """The summary of whatever ``source`` describes; see ``address_summary``. Without dmi_ranges
    they are asked from the dmi that the source has loaded; mappings: what its smaps said, where
    the caller has it already."""
    mappings = _user_space(parse_maps(source.maps()) if mappings is None else list(mappings))
    highest = mappings[-1].end if mappings else 0
    bits = next((bits for bits in _USER_BITS if highest <= 1 << bits), 64)
    total = 1 << bits
    why = ""
    if dmi_ranges is None:
        heaps, why = outside_heaps(source, mappings)
        dmi_ranges = [(s.address, s.reserved, s.committed) for h in heaps for s in h.segments]
    pieces, notes = attribute(mappings, source, dmi_ranges)
    if why:
        notes.append(f"dmi is loaded, but which memory is its cannot be told: {why}")
    regions = tuple(
        region
        for _, group in groupby(pieces, key=lambda piece: piece.mapping.start)
        for region in _regions(list(group), source.page)
    )
    return _tables(regions, total, tuple(notes))


def _user_space(mappings: list[Mapping]) -> list[Mapping]:
    """Sorted, without the kernel's half and without any overlap: the kernel promises none, but two
    mappings read at different moments must not be counted twice."""
    out: list[Mapping] = []
    for mapping in sorted(mappings, key=lambda m: m.start):
        low = out[-1].end if out else 0
        if mapping.start >= low and mapping.start < mapping.end <= 1 << _USER_BITS[-1]:
            out.append(mapping)
    return out


def _regions(pieces: list[Piece], page: int) -> Iterator[Region]:
    """The pieces of one mapping. The kernel says what was touched of the whole mapping only."""
    mapping = pieces[0].mapping
    shares: list[int] | None = None
    if mapping.resident is not None:
        shares = _shares(mapping.resident, pieces, page)
    held: list[int] | None = None
    if mapping.memory is not None:
        held = _shares(mapping.memory, pieces, page)
    committed = [piece.end - piece.start for piece in pieces]
    if mapping.inaccessible:
        committed = [0] * len(pieces)
    elif "nr" in mapping.flags and "ac" not in mapping.flags and not mapping.has_file:
        # Reserved without any charge: only what was touched is committed.
        committed = _shares((mapping.resident or 0) + (mapping.swapped or 0), pieces, page)
    for number, piece in enumerate(pieces):
        yield Region(
            piece.start, piece.end - piece.start, piece.usage, _type(piece),
            _PROTECTIONS[mapping.perms[:3]], committed[number], mapping.name,
            None if shares is None else shares[number],
            None if held is None else held[number],
        )  # fmt: skip


def _shares(touched: int, pieces: list[Piece], page: int) -> list[int]:
    """What each piece has of the touched bytes: first those that know what they committed, then the
    others by their size, in whole pages."""
    shares = [0] * len(pieces)
    touched = min(touched, sum(piece.end - piece.start for piece in pieces))
    for number, piece in enumerate(pieces):
        if piece.committed is not None:
            shares[number] = min(touched, piece.committed, piece.end - piece.start)
            touched -= shares[number]
    for number, piece in enumerate(pieces):
        if piece.committed is None:
            room = sum(p.end - p.start for p in pieces[number:] if p.committed is None)
            size = piece.end - piece.start
            shares[number] = size if touched >= room else touched * size // room // page * page
            if room == size:
                shares[number] = min(touched, size)  # the last takes what rounding left
            touched -= shares[number]
    return shares


def _type(piece: Piece) -> str:
    mapping = piece.mapping
    if piece.image or mapping.name == "[vdso]":
        return "MEM_IMAGE"
    if mapping.has_file or mapping.shared or piece.usage == "Kernel":
        return "MEM_MAPPED"
    return "MEM_PRIVATE"


def _tables(
    regions: tuple[Region, ...],
    total: int,
    notes: tuple[str, ...],
    usages: tuple[str, ...] = USAGES,
) -> AddressSummary:
    usage = {**dict.fromkeys(usages, 0), FREE_USAGE: 0}
    kinds = {FREE_TYPE: 0, "MEM_IMAGE": 0, "MEM_MAPPED": 0, "MEM_PRIVATE": 0}
    state = {"MEM_COMMIT": 0, FREE_STATE: 0, "MEM_RESERVE": 0}
    protect: dict[str, int] = {}
    counts: dict[str, dict[str, int]] = {"usage": {}, "type": {}, "state": {}, "protect": {}}
    largest: dict[str, tuple[int, int]] = {}

    def count(table: str, name: str) -> None:
        counts[table][name] = counts[table].get(name, 0) + 1

    def hole(start: int, end: int) -> None:
        if end > start:
            count("usage", FREE_USAGE)
            count("state", FREE_STATE)
            if end - start > largest.get(FREE_USAGE, (0, 0))[1]:
                largest[FREE_USAGE] = (start, end - start)

    at = 0
    for region in regions:
        hole(at, region.start)
        at = region.end
        usage[region.usage] += region.size
        kinds[region.type] += region.size
        count("usage", region.usage)
        count("type", region.type)
        if region.committed:
            state["MEM_COMMIT"] += region.committed
            protect[region.protect] = protect.get(region.protect, 0) + region.committed
            count("state", "MEM_COMMIT")
            count("protect", region.protect)
        if region.committed < region.size:
            state["MEM_RESERVE"] += region.size - region.committed
            count("state", "MEM_RESERVE")
        if region.size > largest.get(region.usage, (0, 0))[1]:
            largest[region.usage] = (region.start, region.size)
    hole(at, total)
    free = total - sum(region.size for region in regions)
    usage[FREE_USAGE] = kinds[FREE_TYPE] = state[FREE_STATE] = free
    return AddressSummary(
        usage, kinds, state, total, protect, counts, largest, regions=regions, notes=notes
    )
