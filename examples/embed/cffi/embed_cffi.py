"""Text on a dmi heap through cffi. The library that the module needs is loaded by dmi, first."""

from __future__ import annotations

import dmi

dmi.get_library_path()  # importing dmi alone loads nothing native; asking for the library does
from _embed_cffi import ffi, lib  # noqa: E402

_heap = lib.open_heap()
if _heap == ffi.NULL:
    raise MemoryError("no heap")


def handle() -> int:
    """The heap's handle, for dmi.Heap.from_handle."""
    return int(ffi.cast("uintptr_t", _heap))


def reverse(text: bytes) -> ffi.CData:
    """The text backwards, in a block that goes back with the object returned."""
    block = lib.reversed(_heap, text)
    if block == ffi.NULL:
        raise MemoryError(f"no memory for {len(text)} bytes")
    return ffi.gc(block, lambda gone: lib.dmi_heap_free(_heap, gone), len(text) + 1)


def summary() -> str:
    """`!heap -s` of that heap alone."""
    return dmi.Heap.from_handle(handle()).summary()
