"""What a JVM says of its heap in the file of counters that it keeps for `jstat`.

Its young objects fill the eden before each collection, garbage or not: that tells nothing of what
the program holds. What survived collections does.
"""

from __future__ import annotations

import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Survived", "read_counters", "survived"]

_MAGIC: Final = b"\xca\xfe\xc0\xc0"
_HEAD: Final = struct.Struct("4sBBBBIIqII")
_ENTRY: Final = "IIIBBBBI"
_MOST_BYTES: Final = 1 << 20
_MOST_ENTRIES: Final = 10_000
_LONG: Final = ord("J")
_USED: Final = re.compile(r"sun\.gc\.generation\.([0-9]{1,2})\.space\.([0-9]{1,2})\.used")
_EDEN: Final = ("0", "0")
_YOUNG: Final = "sun.gc.generation.0.space.0.capacity"
_CLASSES: Final = "sun.gc.metaspace.used"
_COLLECTIONS: Final = re.compile(r"sun\.gc\.collector\.[0-9]{1,2}\.invocations")


class Survived(NamedTuple):
    """Bytes outside the eden, as the last collection left them, with the classes; collections since
    the start; and the most that the eden takes."""

    bytes: int
    collections: int
    eden: int


def survived(pid: int) -> Survived | None:
    """Of a process; None where its file is not there, or is no such file."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
        inner = next(line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:"))
        places = sorted(Path(f"/proc/{pid}/root/tmp").glob(f"hsperfdata_*/{int(inner)}"))
        for place in places:
            if place.is_symlink() or not place.is_file():
                continue
            with place.open("rb") as file:
                counters = read_counters(file.read(_MOST_BYTES))
            spaces = {m.groups(): n for name, n in counters.items() if (m := _USED.fullmatch(name))}
            times = [n for name, n in counters.items() if _COLLECTIONS.fullmatch(name)]
            rest = [n for space, n in spaces.items() if space != _EDEN]
            eden, classes = counters.get(_YOUNG), counters.get(_CLASSES, 0)
            if _EDEN in spaces and rest and times and eden is not None:
                found = Survived(sum(rest) + classes, sum(times), eden)
                return found if min(*rest, *found) >= 0 else None
    except (OSError, StopIteration, ValueError):
        pass
    return None


def read_counters(data: bytes) -> dict[str, int]:
    """Its counters of 64 bits by name; empty for what is no such file."""
    return dict(_counters(data))


def _counters(data: bytes) -> Iterator[tuple[str, int]]:
    if len(data) < _HEAD.size or data[:4] != _MAGIC:
        return
    order = "<" if data[4] == 1 else ">"
    head = struct.Struct(order + _HEAD.format)
    entry = struct.Struct(order + _ENTRY)
    *_, start, count = head.unpack_from(data)
    for _ in range(min(count, _MOST_ENTRIES)):
        if start + entry.size > len(data):
            return
        size, name_at, elements, kind, _, _, _, value_at = entry.unpack_from(data, start)
        end = data.find(b"\0", start + name_at, start + name_at + 256)
        if kind == _LONG and elements == 0 and end > 0 and start + value_at + 8 <= len(data):
            name = data[start + name_at : end].decode("ascii", "replace")
            yield name, int(struct.unpack_from(f"{order}q", data, start + value_at)[0])
        if size < entry.size:
            return
        start += size
