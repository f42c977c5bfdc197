"""What a core file says of addresses: which it holds, and which files were mapped.

A file may say it of a million of them, so they lie in arrays, not in objects.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from heapq import merge, nlargest
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["MOST_MAPPINGS", "MappedFile", "MappedFiles", "Segment", "Segments", "Shown"]

MOST_MAPPINGS: Final = 1 << 16
"""As many as Linux lets a process have, where nobody raised that. Of more the largest are shown."""


class Segment(NamedTuple):
    """Addresses, and where the file has their bytes. have: bytes that are really there; promised:
    those that should be."""

    start: int
    end: int
    offset: int
    have: int
    promised: int
    flags: int


class Segments:
    """The segments by address; of two that claim the same one the first holds."""

    def __init__(self) -> None:
        self.starts = array("Q")
        self._columns = [array("Q") for _ in range(4)]
        self._flags = array("B")

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> Segment:
        end, offset, have, promised = (column[index] for column in self._columns)
        return Segment(self.starts[index], end, offset, have, promised, self._flags[index])

    def __iter__(self) -> Iterator[Segment]:
        return self.behind(0)

    def behind(self, index: int) -> Iterator[Segment]:
        """Those from that one on."""
        for number in range(index, len(self.starts)):
            yield self[number]

    def parts(self, index: int) -> Iterator[tuple[int, int, int]]:
        """Of those from that one on where each begins, where its bytes stand in the file, and how
        many there are. A look passes over thousands."""
        _, offsets, have, _ = self._columns
        for number in range(index, len(self.starts)):
            yield self.starts[number], offsets[number], have[number]

    def add(self, segment: Segment) -> None:
        """Take one more, in any order. Its end is below 1 << 64."""
        self.starts.append(segment.start)
        for column, value in zip(self._columns, segment[1:5], strict=True):
            column.append(value)
        self._flags.append(segment.flags & 7)

    def settle(self) -> None:
        """Sort them and leave out what is claimed already; to be called once, after the last."""
        ends = self._columns[0]
        if all(self.starts[n] >= ends[n - 1] for n in range(1, len(self.starts))):
            return
        kept = array("L")
        last = 0
        for number in sorted(range(len(self.starts)), key=self.starts.__getitem__):
            if self.starts[number] >= last:
                kept.append(number)
                last = ends[number]
        self.starts = _chosen(self.starts, kept)
        self._columns = [_chosen(column, kept) for column in self._columns]
        self._flags = _chosen(self._flags, kept)

    def before(self, address: int) -> int:
        """The last that begins at the address or before it; -1: none."""
        return bisect_right(self.starts, address) - 1

    def at(self, address: int) -> Segment | None:
        """That which holds the address."""
        index = self.before(address)
        return self[index] if index >= 0 and address < self._columns[0][index] else None

    def place(self, address: int) -> tuple[int, int]:
        """Where the file has the byte at the address, and how many from there on: 0 where it has
        none."""
        index = bisect_right(self.starts, address) - 1
        inside = address - self.starts[index] if index >= 0 else 0
        have = self._columns[2][index] if index >= 0 else 0
        return (self._columns[1][index] + inside, have - inside) if inside < have else (0, 0)


class MappedFile(NamedTuple):
    """Addresses where a file was mapped, from which byte of it on, and its name."""

    start: int
    end: int
    offset: int
    name: str


class MappedFiles:
    """The files by address."""

    def __init__(self) -> None:
        self.starts = array("Q")
        self._ends = array("Q")
        self._offsets = array("Q")
        self._numbers = array("L")
        self._names: list[str] = []
        self._known: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: int) -> MappedFile:
        name = self._names[self._numbers[index]]
        return MappedFile(self.starts[index], self._ends[index], self._offsets[index], name)

    def __iter__(self) -> Iterator[MappedFile]:
        return map(self.__getitem__, range(len(self.starts)))

    def add(self, start: int, end: int, offset: int, name: str) -> None:
        """Take one more, in any order."""
        number = self._known.get(name)
        if number is None:
            number = self._known[name] = len(self._names)
            self._names.append(name)
        self.starts.append(start)
        self._ends.append(end)
        self._offsets.append(offset & (1 << 64) - 1)
        self._numbers.append(number)

    def settle(self) -> None:
        """Sort them; to be called once, after the last."""
        if all(low <= high for low, high in pairwise(self.starts)):
            return
        order = sorted(range(len(self.starts)), key=self.starts.__getitem__)
        self.starts = _chosen(self.starts, order)
        self._ends = _chosen(self._ends, order)
        self._offsets = _chosen(self._offsets, order)
        self._numbers = _chosen(self._numbers, order)

    def at(self, address: int) -> MappedFile | None:
        """That which is mapped there."""
        index = bisect_right(self.starts, address) - 1
        return self[index] if index >= 0 and address < self._ends[index] else None


def _chosen(column: array[int], order: Sequence[int]) -> array[int]:
    return array(column.typecode, map(column.__getitem__, order))


class Shown:
    """Which mappings are looked at: all, or of very many the largest. An iterable of first address,
    end and flags, by address."""

    def __init__(self, segments: Segments, files: MappedFiles) -> None:
        self._segments = segments
        self._files = files
        # Those of a file whose data the process changed are a program or a library.
        self._changed = {each.name for each in files if self._is_changed(each.start)}
        self._least = self._equal = 0
        self.left_out = self.left_bytes = 0
        count = sum(1 for _ in self._all())
        if count > MOST_MAPPINGS:
            sizes = nlargest(MOST_MAPPINGS, (end - start for start, end, _ in self._all()))
            self._least = sizes[-1]
            self._equal = sum(1 for size in sizes if size == self._least)
            self.left_out = count - MOST_MAPPINGS
            whole = sum(end - start for start, end, _ in self._all())
            self.left_bytes = whole - sum(sizes)

    def __iter__(self) -> Iterator[tuple[int, int, int]]:
        equal = self._equal
        for each in self._all():
            size = each[1] - each[0]
            if size > self._least:
                yield each
            elif size == self._least and equal:
                equal -= 1
                yield each

    def _is_changed(self, address: int) -> bool:
        found = self._segments.at(address)
        return found is not None and bool(found.flags & 2)

    def _all(self) -> Iterator[tuple[int, int, int]]:
        # Files that were mapped and of which the core has no header are mappings all the same.
        return merge(
            ((each.start, each.end, each.flags) for each in self._segments),
            (
                (each.start, each.end, 5 if each.name in self._changed else 4)
                for each in self._files
                if self._segments.at(each.start) is None
            ),
        )
