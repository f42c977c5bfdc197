"""Who holds the memory of a process, layer by layer, and in which layer it is stuck.

    1a  custom libraries   dmi's heaps, Python's pymalloc
    1b  language runtime   the malloc of glibc
    1c  OS heap            the address space that malloc got: the brk heap, arenas
    2   virtual memory     all of the address space
    3   physical memory    resident, swapped, lazily freed; by holder, each byte once

Each layer has what it holds (taken from the layer below), what it uses (handed to the layer above)
and what it retains, the difference. Memory that a layer retains is free for the layer above and
lost to the layer below: that is where it is stuck.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dmi import heap
from dmi._cgroup import cgroup_of
from dmi._leaves import HEAP, Leaf, leaf_lines, short
from dmi._tables import frame, html_table
from dmi.address import pymalloc_usage
from dmi.errors import HeapError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pandas

    from dmi._cgroup import Cgroup
    from dmi.address import AddressSummary
    from dmi.address._maps import Mapping

__all__ = ["Layer", "Layers", "Part", "glibc_malloc", "own_layers", "physical_memory"]


@dataclass(frozen=True, slots=True)
class Part:
    """One holder of memory. Bytes; None where it cannot be told.

    resident  what of holds is in physical memory
    unknown   what of holds could not be looked at, as what is in swap: it may be used or not
    """

    name: str
    holds: int | None
    uses: int | None
    resident: int | None = field(default=None, compare=False)
    unknown: int = 0

    @property
    def retains(self) -> int | None:
        """holds - uses - unknown, at least 0: they may be read at different moments."""
        if self.holds is None or self.uses is None:
            return None
        return max(0, self.holds - self.uses - self.unknown)

    @property
    def weight(self) -> int:
        """What it costs as far as that is known: what is resident, else what it holds."""
        held = self.holds or 0
        return held if self.resident is None else min(held, self.resident)

    @property
    def unseen(self) -> Part:
        """What could not be looked at, as a holder of its own."""
        return Part(f"what was not looked at of {self.name}", self.unknown, None)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "name": self.name,
            "holds": self.holds,
            "uses": self.uses,
            "retains": self.retains,
            "resident": self.resident,
            "unknown": self.unknown,
        }


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: number ("1a"), name, its holders, further figures in bytes, and what to know."""

    number: str
    name: str
    parts: tuple[Part, ...]
    figures: tuple[tuple[str, int], ...] = ()
    note: str = ""

    def _sum(self, name: str) -> int | None:
        known = [value for part in self.parts if (value := getattr(part, name)) is not None]
        return sum(known) if known else None

    @property
    def holds(self) -> int | None:
        """Bytes taken from the layer below; None where nothing is known."""
        return self._sum("holds")

    @property
    def uses(self) -> int | None:
        """Bytes handed to the layer above, of the parts where that is known."""
        return self._sum("uses")

    @property
    def retains(self) -> int | None:
        """Bytes that are held without being used, of the parts where that is known."""
        return self._sum("retains")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "number": self.number,
            "name": self.name,
            "holds": self.holds,
            "uses": self.uses,
            "retains": self.retains,
            "parts": [part.as_dict() for part in self.parts],
            "figures": dict(self.figures),
            "note": self.note,
        }


@dataclass(frozen=True, slots=True, repr=False)
class Layers:
    """The layers of one process at one moment. str() is a table for people."""

    pid: int
    layers: tuple[Layer, ...]
    notes: tuple[str, ...] = ()
    """What could not be told."""
    leaves: tuple[Leaf, ...] = ()
    """What lies in physical memory by holder, each byte once: it adds up to layer 3."""
    cgroup: Cgroup | None = None
    """The account that it is killed by; None where there is none, or it may not be read."""
    counted: int = 0
    """Bytes that an allocator counts as its own without saying where they lie: they are among what
    nobody is known to have."""

    def __repr__(self) -> str:
        most = "" if self.holder is None else f", most held by {self.holder[0]:.60}"
        return f"<dmi.Layers of process {self.pid}: {len(self.layers)} layers{most}>"

    @property
    def holder(self) -> tuple[str, int] | None:
        """Who has most in physical memory, all heaps of one kind together, and how much; None
        where that is unknown, as for a core file."""
        sums: dict[str, int] = {}
        for leaf in self.leaves:
            # Clean pages of files are no cost: who has most is open where nobody tells of them.
            if leaf.holds is None or (leaf.what == "file" and leaf.clean is None):
                return None
            cost = leaf.holds - (leaf.clean or 0)
            name = leaf.allocator if leaf.what == HEAP and leaf.allocator else leaf.name
            sums[name] = sums.get(name, 0) + cost
        most = max(sums, key=lambda name: sums[name], default=None)
        return None if most is None or not sums[most] else (most, sums[most])

    def __getitem__(self, number: str) -> Layer:
        for layer in self.layers:
            if layer.number == number:
                return layer
        raise KeyError(number)

    @property
    def stuck(self) -> Part | None:
        """The allocator (layers 1a and 1b) that retains most; None when none retains anything, and
        where one whose use is unknown holds more than that: it may be the one."""
        parts = self._allocators()
        most = max(parts, key=lambda part: part.retains or 0, default=None)
        if most is None or not most.retains or self.unknown:
            return None
        return most

    @property
    def unknown(self) -> Part | None:
        """Of whom it is unknown what he uses, and who has more in memory than any other is known to
        retain: an allocator, shared memory, or what nobody is known to have. None where there is
        none."""
        parts = self._allocators()
        most = max((part.retains or 0 for part in parts), default=0)
        open_ = [(part.weight, part) for part in parts if part.retains is None]
        # Of a heap that was looked at in part, the rest may be what most is retained of.
        open_ += [(part.unknown, part.unseen) for part in parts if part.unknown]
        for leaf in self.leaves:
            if leaf.what in ("rest", "shared memory", "anonymous"):
                counted = self.counted if leaf.what == "rest" else 0
                held = max(0, (leaf.holds or 0) - counted)
                open_.append((held, Part(leaf.name, leaf.holds, None, leaf.resident)))
        larger = [each for each in open_ if each[0] > most]
        return max(larger, key=lambda each: each[0])[1] if larger else None

    def _allocators(self) -> list[Part]:
        return [part for layer in self.layers if layer.number in ALLOCATORS for part in layer.parts]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        stuck = self.stuck
        return {
            "pid": self.pid,
            "cgroup": None if self.cgroup is None else self.cgroup.as_dict(),
            "layers": [layer.as_dict() for layer in self.layers],
            "leaves": [leaf.as_dict() for leaf in self.leaves],
            "holder": None
            if (holder := self.holder) is None
            else {"name": holder[0], "holds": holder[1]},
            "stuck": None if stuck is None else stuck.name,
            "unknown": None if (unknown := self.unknown) is None else unknown.name,
            "notes": list(self.notes),
        }

    def frame(self) -> pandas.DataFrame:
        """A row a holder, with the layer that it is of. ImportError without pandas."""
        return frame([
            {"layer": layer.number, "of": layer.name, **part.as_dict()}
            for layer in self.layers for part in layer.parts
        ])  # fmt: skip

    def _repr_html_(self) -> str:
        names = ("holds", "uses", "retains", "resident")
        made = html_table(f"Layers of process {self.pid}, bytes", ("", *names), [
            (f"{layer.number} {part.name}", *(getattr(part, name) for name in names))
            for layer in self.layers for part in layer.parts
        ])  # fmt: skip
        if self.leaves:
            rows = [(leaf.name, leaf.holds) for leaf in self.leaves]
            made += html_table("In physical memory by holder", ("", "bytes"), rows)
        return made

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if self.cgroup is not None:
            yield from self.cgroup.lines()
            yield ""
        title = f"Layer (process {self.pid}, KB)"
        yield f"{title:<44}{'Holds':>16}{'Uses':>14}{'Retains':>14}{'Resident':>14}"
        for layer in self.layers:
            yield _row(f"{layer.number:<3}{layer.name}", layer.holds, layer.uses, layer.retains)
            if len(layer.parts) > 1 or layer.number in ALLOCATORS:
                for part in layer.parts:
                    yield _row(
                        f"     {part.name}", part.holds, part.uses, part.retains, part.resident
                    )
                    if part.unknown >= 1024:
                        yield _row("       of it not looked at", part.unknown, None, None, blank="")
            for name, size in layer.figures:
                yield _row(f"       {name}", size, None, None, blank="")
            if layer.note:
                yield f"       ({layer.note})"
        yield from leaf_lines(self.leaves)
        holder = self.holder
        if holder is not None:
            yield f"Most physical memory is held by {holder[0]}: {_kib(holder[1])} KB."
        stuck = self.stuck
        if stuck is not None:
            yield f"Most of what no program uses is held by {stuck.name}: {_kib(stuck.retains)} KB."
        unknown = self.unknown
        if unknown is not None:
            # Of a core file it is space that could be written; nobody knows what was in memory.
            held = ("" if self.holder else "at most ") + _kib(unknown.holds)
            yield (
                f"{unknown.name} holds {held} KB, and how much of it is used is not known: who "
                "retains most cannot be said."
            )
        for note in self.notes:
            yield f"({note})"


ALLOCATORS: Final = ("1a", "1b")


def _row(
    name: str,
    holds: int | None,
    uses: int | None,
    retains: int | None,
    resident: int | None = None,
    *,
    blank: str = "-",
) -> str:
    cells = [blank if size is None else _kib(size) for size in (holds, uses, retains)]
    cells.append("" if resident is None else _kib(resident))
    return f"{short(name, 46):<46}{cells[0]:>14}{cells[1]:>14}{cells[2]:>14}{cells[3]:>14}".rstrip()


def _kib(size: int | None) -> str:
    return "-" if size is None else f"{size // 1024:,}"


_MALLINFO2: Final = (
    "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks",
    "keepcost",
)  # fmt: skip


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _MALLINFO2]


def glibc_malloc() -> dict[str, int] | None:
    """What glibc's own malloc says of this process: the fields of mallinfo2, in bytes and counts.

    It is asked from glibc itself, also where another malloc was preloaded. None where the C library
    is another one, or older than 2.33. Thread-safe; locks one arena after the other.
    """
    try:
        ask = ctypes.CDLL("libc.so.6").mallinfo2
    except (OSError, AttributeError):
        return None
    ask.restype = _Mallinfo2
    ask.argtypes = []
    found = ask()
    return {name: int(getattr(found, name)) for name in _MALLINFO2}


def physical_memory(pid: int | None = None) -> dict[str, int]:
    """Rss, Pss, Swap, LazyFree and their kin in bytes, as smaps_rollup has them.

    Where that file may not be read: Rss and Swap from status. Raises ProcessLookupError for a
    process that is not there.
    """
    root = Path("/proc") / ("self" if pid is None else str(pid))
    for name, names in (("smaps_rollup", {}), ("status", {"VmRSS": "Rss", "VmSwap": "Swap"})):
        with suppress(OSError):
            found: dict[str, int] = {}
            for line in (root / name).read_text().splitlines():
                key, _, value = line.partition(":")
                words = value.split()
                if len(words) == 2 and words[1] == "kB" and (not names or key in names):
                    found[names.get(key, key)] = int(words[0]) * 1024
            if found:
                return found
    raise ProcessLookupError(f"no process {pid}, or it has no memory")


def own_layers(
    summary: AddressSummary,
    mappings: Sequence[Mapping],
    leaves: tuple[Leaf, ...],
    others: tuple[Part, ...] = (),
    counted: int = 0,
    notes: tuple[str, ...] = (),
) -> Layers:
    """The layers of this process, as its own allocators tell them; see ``dmi.layers``.

    others   allocators that do not tell, and what they hold
    counted  bytes that malloc counts without saying where they lie, and that were not found
    """
    return Layers(
        os.getpid(),
        (
            _custom(summary, others),
            _runtime(summary),
            os_heap(summary),
            virtual(summary),
            physical(None, mappings),
        ),
        leaves=leaves,
        cgroup=cgroup_of(),
        counted=counted,
        notes=notes,
    )


def _committed(summary: AddressSummary, *usages: str) -> int:
    return sum(region.committed for region in summary.regions if region.usage in usages)


def _custom(summary: AddressSummary, others: Iterable[Part]) -> Layer:
    parts = list(_dmi_heaps())
    if not parts and (held := _committed(summary, "HeapDmi")):
        parts.append(Part("dmi heaps", held, None))
    arenas = [(r.start, r.size) for r in summary.regions if r.usage == "HeapPymalloc"]
    if arenas:
        held = _committed(summary, "HeapPymalloc")
        parts.append(Part("Python objects (pymalloc)", held, pymalloc_usage(None, arenas)))
    return Layer("1a", "custom libraries", (*parts, *others))


def _dmi_heaps() -> Iterator[Part]:
    for each in heap.heaps():
        with suppress(HeapError):  # destroyed meanwhile
            stats = each.stats()
            name = f" ({each.name})" if each.name else ""
            yield Part(f"dmi heap {each.handle:x}{name}", stats.committed, stats.busy)


def _runtime(summary: AddressSummary) -> Layer:
    info = glibc_malloc()
    if info is None:
        held = _committed(summary, "HeapBrk", "HeapGlibcArena")
        note = "without the blocks that malloc mapped on their own"
        return Layer("1b", "language runtime", (Part("malloc", held, None),), note=note)
    part = Part("glibc malloc", info["arena"] + info["hblkhd"], info["uordblks"] + info["hblkhd"])
    figures = (("of it mapped on their own", info["hblkhd"]),)
    note = "blocks in glibc's thread caches count as used, pymalloc's arenas are mapped apart"
    return Layer("1b", "language runtime", (part,), figures, note)


def os_heap(summary: AddressSummary) -> Layer:
    """The address space that malloc got."""
    parts = tuple(
        Part(
            title,
            sum(region.size for region in summary.regions if region.usage == usage),
            _committed(summary, usage),
        )
        for title, usage in (("brk heap", "HeapBrk"), ("malloc arenas", "HeapGlibcArena"))
    )
    return Layer("1c", "OS heap", parts, note="uses: what of its address space can be written")


def virtual(summary: AddressSummary) -> Layer:
    """All of the address space."""
    figures = tuple((name, summary.type.get(name, 0)) for name in _TYPES)
    note = "retains: reserved, not committed; that costs no memory"
    part = Part("address space", summary.busy, summary.committed)
    return Layer("2", "virtual memory", (part,), figures, note)


_TYPES: Final = ("MEM_IMAGE", "MEM_MAPPED", "MEM_PRIVATE")


def physical(pid: int | None, mappings: Sequence[Mapping]) -> Layer:
    """What is in memory, in swap, or lazily freed: the sum over the mappings; where the kernel does
    not tell it of each, what it says of the process as a whole."""
    if all(mapping.resident is not None for mapping in mappings):
        found = {
            name: sum(getattr(mapping, key) or 0 for mapping in mappings)
            for name, key in _SUMS.items()
        }
    else:
        found = physical_memory(pid)
    return physical_layer(found)


def physical_layer(found: dict[str, int]) -> Layer:
    """The layer of figures under the kernel's names."""
    resident, lazy = found.get("Rss", 0), found.get("LazyFree", 0)
    figures = [
        (title, found[key])
        for title, key in (("PSS", "Pss"), ("lazily freed", "LazyFree"))
        if key in found
    ]
    if found.get("Huge"):
        figures.append(("on huge pages", found["Huge"]))
    if found.get("Hugetlb"):
        figures.append(("pages of hugetlbfs, which are counted apart", found["Hugetlb"]))
    swapped = found.get("Swap")
    parts = (
        Part("resident", resident, max(0, resident - lazy)),
        Part("swapped", swapped, swapped),
    )
    return Layer("3", "physical memory", parts, tuple(figures), "retains: lazily freed")


_SUMS: Final = {
    "Rss": "resident", "Swap": "swapped", "Pss": "pss", "LazyFree": "lazy", "Huge": "huge",
    "Hugetlb": "hugetlb",
}  # fmt: skip
