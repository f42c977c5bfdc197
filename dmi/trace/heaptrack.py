"""Importer of `heaptrack -r` recordings (heaptrack 1.2 to 1.5, file versions 1 to 3).

The parsing is C (csrc/replay/heaptrack.c, where the format and the rule for reallocs are
explained); this module feeds it and names what it had to skip.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dmi._cffi import ffi, lib
from dmi.errors import TraceError
from dmi.trace.format import RECORD, Trace, check

if TYPE_CHECKING:
    from collections.abc import Iterable

HEAD = b"v "
"""How the text begins."""


def scan(parts: Iterable[bytes]) -> None:
    """Refuse what read() would refuse, with the same TraceError, and keep nothing."""
    _feed(lib.dmi_heaptrack_open_check(), parts)


def _feed(opened: Any, parts: Iterable[bytes]) -> tuple[Any, Any]:
    """The importer at the end of the text, and its result."""
    importer = ffi.gc(opened, lib.dmi_heaptrack_close)
    if importer == ffi.NULL:
        raise MemoryError("no memory for the importer")
    for part in parts:
        if lib.dmi_heaptrack_feed(importer, ffi.from_buffer(part), len(part)) != 0:
            raise _fault(importer)
    result = ffi.new("dmi_import_result *")
    result.size = ffi.sizeof("dmi_import_result")
    if lib.dmi_heaptrack_finish(importer, result) != 0:
        raise _fault(importer)
    return importer, result


def read(parts: Iterable[bytes], *, name: str = "recording") -> Trace:
    """Turn the text, given in pieces, into a Trace. Raises TraceError with the offset of the line.

    Memory: 20 to 40 bytes an event while it runs, 16 after. `Trace.notes` counts frees of blocks
    that the recording never saw ("unknown free"), blocks that came back without a free ("lost
    free", one is put in), and a last line that is cut ("cut line").
    """
    importer, result = _feed(lib.dmi_heaptrack_open(), parts)
    # A copy, so that the importer with its spare capacity can go.
    records = bytes(ffi.buffer(result.records, result.count * RECORD.size)) if result.count else b""
    del importer
    notes = {
        "unknown free": result.unknown_frees,
        "lost free": result.lost_frees,
        "cut line": result.cut_lines,
    }
    return check(
        records,
        objects=result.objects,
        page_size=result.page_size,
        name=name,
        notes=notes,
        base=0,
    )


def _fault(importer: object) -> Exception:
    offset = ffi.new("uint64_t *")
    text = lib.dmi_heaptrack_fault(importer, offset)
    if text == ffi.NULL:
        return MemoryError("no memory to import the recording")
    return TraceError(ffi.string(text).decode(), offset=offset[0])
