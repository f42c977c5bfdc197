"""dmi's heaps in a process that is looked at from outside, by what its library says of itself.

``dmi_layout_root`` lies in the data of the library's file and leads to the list of heaps. A process
may have loaded two copies, of which one is in use.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final, NamedTuple

from dmi._inspect import LAYOUT_MAGIC
from dmi._inspect import outside_heaps as read_heaps
from dmi.walk import Segment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ._maps import Mapping, Source

__all__ = ["OutsideHeap", "is_dmi", "layout_roots", "outside_heaps"]

_MAX_DATA: Final = 4 << 20
"""Bytes of the largest mapping of the library's data that is searched."""


class OutsideHeap(NamedTuple):
    """A heap of another process. Bytes, as in HeapStats."""

    handle: int
    name: str
    reserved: int
    committed: int
    busy: int
    busy_blocks: int
    segments: tuple[Segment, ...]


def is_dmi(mapping: Mapping) -> bool:
    """Whether the mapping is of dmi's library, or of the one that is preloaded."""
    return mapping.has_file and "libdmi" in mapping.name.rpartition("/")[2]


def outside_heaps(source: Source, mappings: Iterable[Mapping]) -> tuple[list[OutsideHeap], str]:
    """The heaps of the process, and why they cannot be told, empty where they can.

    The process may be at work: what was torn in the reading counts as overhead.
    """
    found: list[OutsideHeap] = []
    why = ""
    for root in layout_roots(source, mappings):
        try:
            heaps = read_heaps(source.read, root)
        except OSError as error:
            why = (
                "its dmi is of another version or build"
                if error.errno == errno.ENOTSUP
                else "what its dmi says of itself cannot be read"
            )
            continue
        found += [
            OutsideHeap(*fields[:-1], tuple(Segment(*each) for each in fields.segments))
            for fields in heaps
        ]
    return found, "" if found else why


def layout_roots(source: Source, mappings: Iterable[Mapping]) -> Iterator[int]:
    """Where the library says how its structs lie, in each copy that is loaded."""
    for mapping in mappings:
        if not is_dmi(mapping) or mapping.perms[0] != "r" or "x" in mapping.perms:
            continue
        data = source.read(mapping.start, min(mapping.size, _MAX_DATA)) or b""
        at = data.find(LAYOUT_MAGIC)
        while at >= 0:
            if at % 8 == 0:
                yield mapping.start + at
            at = data.find(LAYOUT_MAGIC, at + 1)
