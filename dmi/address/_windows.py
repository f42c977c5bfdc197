"""The regions of a Windows process, as the C core finds them by VirtualQueryEx.

What the numbers mean stands in dmi/dmi.h (``dmi_region``); the protections are those of the system.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

from dmi._inspect import address_regions
from dmi.windbg import Region

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["WINDOWS_USAGES", "windows_regions"]

WINDOWS_USAGES: Final = (
    "HeapDmi",
    "HeapSystem",
    "Stack",
    "TebPeb",
    "Image",
    "MappedFile",
    "Other",
)
"""In the order of ``dmi_usage``, of which 0 is free address space."""

_MEM_COMMIT: Final = 0x1000
_MEM_FREE: Final = 0x10000
_TYPES: Final = {0x20000: "MEM_PRIVATE", 0x40000: "MEM_MAPPED", 0x1000000: "MEM_IMAGE"}
_PROTECTIONS: Final = {
    0x01: "PAGE_NOACCESS",
    0x02: "PAGE_READONLY",
    0x04: "PAGE_READWRITE",
    0x08: "PAGE_WRITECOPY",
    0x10: "PAGE_EXECUTE",
    0x20: "PAGE_EXECUTE_READ",
    0x40: "PAGE_EXECUTE_READWRITE",
    0x80: "PAGE_EXECUTE_WRITECOPY",
}
_MODIFIERS: Final = {0x100: "PAGE_GUARD", 0x200: "PAGE_NOCACHE", 0x400: "PAGE_WRITECOMBINE"}


def windows_regions(pid: int | None) -> tuple[int, Iterator[Region]]:
    """The end of the address space of process ``pid`` (None: this one), and what is not free of it.

    Raises ProcessLookupError or PermissionError; OSError where this is not Windows. Thread-safe.
    """
    try:
        total, found = address_regions(0 if pid is None else pid)
    except OverflowError:
        raise ProcessLookupError(errno.ESRCH, f"no process {pid}") from None
    return total, (
        Region(
            address,
            size,
            WINDOWS_USAGES[usage - 1] if 0 < usage <= len(WINDOWS_USAGES) else "Other",
            _TYPES.get(kind, "MEM_PRIVATE"),
            _protection(protect) if state == _MEM_COMMIT else "PAGE_NOACCESS",
            size if state == _MEM_COMMIT else 0,
            name,
        )
        for address, size, usage, state, kind, protect, name in found
        if state != _MEM_FREE
    )


def _protection(value: int) -> str:
    """PAGE_READWRITE, or PAGE_READWRITE|PAGE_GUARD; in hexadecimal what has no name."""
    base = _PROTECTIONS.get(value & 0xFF, f"{value & 0xFF:#x}")
    return "|".join([base, *(name for bit, name in _MODIFIERS.items() if value & bit)])
