"""dmi's own heaps in a process or a core file, by what their library says of itself."""

from __future__ import annotations

import errno
from functools import cached_property
from typing import TYPE_CHECKING

from dmi import _foreign, _names
from dmi._inspect import OutsideWalk
from dmi._inspect import outside_heaps as read_heaps
from dmi.address._outside import OutsideHeap, layout_roots
from dmi.walk import KINDS, STATES, HistogramRow, Ranges, Segment

from ._heaps import ForeignPin, ForeignRange, ForeignRow, ForeignStats, histogram

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from dmi.address._maps import Source

    from ._glibc_find import Space

__all__ = ["DmiHeap", "dmi_heaps"]

_UCR_BIG = 1 << 20


class DmiHeap:
    """A heap of dmi, seen from outside: whoever reads it, the same figures."""

    kind = "dmi"

    def __init__(self, memory: Source, root: int, found: OutsideHeap) -> None:
        self._memory = memory
        self._root = root
        self.found = found
        _names.note(found.name)

    @property
    def handle(self) -> int:
        """As in the process itself."""
        return self.found.handle

    @property
    def name(self) -> str:
        """The name that the program gave it."""
        return self.found.name

    @cached_property
    def _sums(self) -> tuple[dict[tuple[str, str], tuple[int, int]], dict[int, int], int]:
        sums, sizes, damaged = OutsideWalk(self._memory.read, self._root, self.handle).sums()
        named: dict[tuple[str, str], tuple[int, int]] = {
            (KINDS[k - 1], STATES[s - 1]): found for (k, s), found in sums.items() if k and s
        }
        return named, sizes, damaged

    def _of(self, *states: str, blocks: bool = False) -> int:
        index = 0 if blocks else 1
        return sum(found[index] for (_, state), found in self._sums[0].items() if state in states)

    def stats(self) -> ForeignStats:
        """Its figures, summed from its ranges."""
        busy, free, uncommitted = self._of("busy"), self._of("free"), self._of("uncommitted")
        offered, damaged = self._of("offered"), self._sums[2]
        mapped = self._sums[0].get(("virtual", "busy"), (0, 0))
        reserved = sum(s.reserved for s in self.found.segments if not s.virtual)
        committed = reserved - uncommitted
        overhead = committed + mapped[1] - busy - free - offered - damaged
        pages = [(s.address, s.reserved) for s in self.found.segments]
        return ForeignStats(
            kind=self.kind,
            reserved=reserved,
            committed=committed,
            busy=busy - mapped[1],
            busy_blocks=self._of("busy", blocks=True) - mapped[0],
            free=free + offered,
            free_blocks=self._of("free", "offered", blocks=True),
            overhead=max(0, overhead),
            unknown=damaged,
            mapped=mapped[1],
            mapped_blocks=mapped[0],
            resident=_foreign.resident(self._memory, pages),
            details={"offered": offered, "uncommitted": uncommitted},
        )

    def row(self) -> ForeignRow:
        """The columns of `!heap -s` that can be told from outside."""
        stats = self.stats()
        places = [s for s in self.found.segments if not s.virtual]
        big = sum(
            each.size
            for each in self.walk()
            if each.state == "uncommitted" and each.size >= _UCR_BIG
        )
        return ForeignRow(
            kind=self.kind,
            handle=self.handle,
            reserved=stats.reserved,
            committed=stats.committed,
            virtual=(stats.reserved or 0) - big,
            free=stats.free,
            list_length=stats.free_blocks,
            uncommitted_ranges=sum(place.uncommitted_ranges for place in places),
            virtual_blocks=stats.mapped_blocks,
        )

    def segments(self) -> Sequence[Segment]:
        """Its segments and virtual blocks."""
        return self.found.segments

    def walk(self) -> Iterator[ForeignRange]:
        """Every range by address."""
        walk = OutsideWalk(self._memory.read, self._root, self.handle)
        while part := walk.take():
            for each in Ranges(part):
                state = "unknown" if each.reason == "damaged" else each.state
                yield ForeignRange(
                    each.address, each.size, each.kind, state, each.bucket, each.segment
                )

    def histogram(self) -> list[HistogramRow]:
        """Busy blocks by size."""
        return histogram(self._sums[1])

    def pins(self, top: int = 10) -> list[ForeignPin] | None:
        """Unknown from outside."""
        return None


def dmi_heaps(memory: Source, space: Space) -> tuple[list[DmiHeap], list[str]]:
    """dmi's heaps; and why some cannot be told."""
    heaps: list[DmiHeap] = []
    notes: list[str] = []
    for root in layout_roots(memory, space.mappings):
        try:
            found = read_heaps(memory.read, root)
        except OSError as error:
            what = "of another build" if error.errno == errno.ENOTSUP else "not to be read"
            notes.append(f"dmi is loaded, and its heaps are {what}")
            continue
        heaps += [
            DmiHeap(memory, root, OutsideHeap(*each[:-1], tuple(Segment(*s) for s in each[-1])))
            for each in found
        ]
    return heaps, notes
