"""How much of a range is in memory and in swap, by the kernel's word on each page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dmi.address import Region

__all__ = ["pages_of", "resident"]

_PRESENT: Final = bytes(1 if byte & 0x80 else 0 for byte in range(256))
_SWAPPED: Final = bytes(1 if byte & 0xC0 == 0x40 else 0 for byte in range(256))
_PAGES: Final = 1 << 17
_MOST_PAGES: Final = 1 << 24
"""Pages of one range that are counted."""


def pages_of(source: object, start: int, end: int) -> tuple[int, int] | None:
    """Bytes of [start, end) in memory and in swap; None: unknown, as of a core file, or too large.
    Pages of zeros that were only read count as there."""
    marks = getattr(source, "marks", None)
    page = getattr(source, "page", 4096)
    if marks is None or (end - start) // page > _MOST_PAGES:
        return None
    present = swapped = 0
    for at in range(start, end, _PAGES * page):
        data = marks(at, -(-(min(end, at + _PAGES * page) - at) // page))
        if data is None:
            return None
        tops = data[7::8]
        present += tops.translate(_PRESENT).count(1)
        swapped += tops.translate(_SWAPPED).count(1)
    return present * page, swapped * page


def resident(source: object, region: Region, start: int, size: int) -> int | None:
    """Bytes of a part of a region in physical memory. pagemap counts pages of zeros too, which cost
    nothing."""
    if size == region.size or region.resident is None:
        return region.resident
    found = pages_of(source, start, start + size)
    return None if found is None else min(found[0], region.resident)
