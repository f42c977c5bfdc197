"""What dmi has mapped for itself in a process: its page map, descriptors, the sampler's tables. Its
library lists them for readers from outside (csrc/os/own.h); builds before 2026-11-29 do not."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from ._outside import layout_roots

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._maps import Mapping, Source

__all__ = ["FIELD", "HEAD", "MOST", "OwnTable", "own_tables", "word"]

HEAD: Final = struct.Struct("<16s4I")
"""Magic, size, version, bits of an address, count of fields."""
FIELD: Final = 32
MOST: Final = 1024
_OWN: Final = 6
"""The list is the seventh of the pointers between head and fields."""
_LIST: Final = struct.Struct("<QQ")
_AREA: Final = struct.Struct("<QQ16s")
_NAMES: Final = {
    "dmi-pagemap": "page map",
    "dmi-profile": "profiler",
    "dmi-watch": "profiler",
    "dmi-heaps": "descriptors of heaps",
    "dmi-virtual": "descriptors of large blocks",
    "dmi-caches": "caches of threads",
    "dmi-threads": "caches of threads",
    "dmi-states": "states of hardened blocks",
    "dmi-quarantine": "quarantine",
    "dmi-guarded": "guarded blocks",
}


class OwnTable(NamedTuple):
    """A mapping of the library's own, and what it is for."""

    start: int
    size: int
    name: str


def own_tables(source: Source, mappings: Iterable[Mapping]) -> list[OwnTable]:
    """All that are listed. A list that does not fit what it says of itself is none."""
    found = []
    for root in layout_roots(source, mappings):
        found += _listed(source, root)
    return found


def _listed(source: Source, root: int) -> list[OwnTable]:
    head = source.read(root, HEAD.size)
    if head is None or len(head) < HEAD.size:
        return []
    _, size, _, _, fields = HEAD.unpack(head)
    pointers = (size - HEAD.size - fields * FIELD) // 8
    if not _OWN < pointers <= 64:
        return []
    at = word(source, root + HEAD.size + 8 * _OWN)
    begin = source.read(at, _LIST.size) if at and at % 8 == 0 else None
    if begin is None or len(begin) < _LIST.size:
        return []
    count, each = _LIST.unpack(begin)
    if each != _AREA.size or not 0 < count <= MOST:
        return []
    data = source.read(at + _LIST.size, count * each) or b""
    tables = []
    for start, room, raw in _AREA.iter_unpack(data[: len(data) // each * each]):
        name = raw.split(b"\0")[0].decode("ascii", "replace")
        if start and start % 4096 == 0 and room % 4096 == 0 and start + room < 1 << 63 and room:
            tables.append(OwnTable(start, room, _NAMES.get(name, "tables")))
    return tables


def word(source: Source, address: int) -> int:
    """The word at an address; 0 where it cannot be read."""
    data = source.read(address, 8)
    return int.from_bytes(data, "little") if data is not None and len(data) == 8 else 0
