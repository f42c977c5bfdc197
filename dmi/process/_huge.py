"""Which memory of a live process lies on huge pages: the kernel's PAGEMAP_SCAN, from 6.7 on."""

from __future__ import annotations

import ctypes
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._heaps import Memory

__all__ = ["huge_ranges", "overlap"]

_SCAN: Final = 0xC0606610
"""_IOWR('f', 16, struct pm_scan_arg)"""
_ARGUMENT: Final = struct.Struct("<12Q")
_HUGE: Final = 1 << 6
_ROOM: Final = 512
_MOST: Final = 1 << 16


def huge_ranges(memory: Memory, spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]] | None:
    """(start, end) of what of the spans lies on huge pages, by address; None: the kernel does not
    say."""
    if memory.stands_still:
        return None
    import fcntl  # which other systems do not have

    found: list[tuple[int, int]] = []
    with suppress(OSError):
        file = os.open(f"/proc/{getattr(memory, 'pid', 0)}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
        try:
            for start, end in sorted(spans):
                at = start
                while at < end and len(found) < _MOST:
                    room = (ctypes.c_uint64 * (3 * _ROOM))()
                    asked = bytearray(
                        _ARGUMENT.pack(
                            _ARGUMENT.size, 0, at, end, 0, ctypes.addressof(room), _ROOM, 0, 0,
                            _HUGE, 0, _HUGE,
                        )
                    )  # fmt: skip
                    count = fcntl.ioctl(file, _SCAN, asked)
                    found += [(room[3 * n], room[3 * n + 1]) for n in range(min(count, _ROOM))]
                    reached = _ARGUMENT.unpack(asked)[4]
                    at = reached if reached > at else end
            return found
        finally:
            os.close(file)
    return None


def overlap(ranges: Iterable[tuple[int, int]], start: int, end: int) -> int:
    """Bytes of [start, end) that lie in the ranges."""
    return sum(max(0, min(end, high) - max(start, low)) for low, high in ranges)
