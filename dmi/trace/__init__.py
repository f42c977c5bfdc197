"""Recordings of real programs: reading, checking, converting.

trace = dmi.trace.load("redis.raw.zst")    # heaptrack, memray or dmi's own, by content
dmi.trace.save(trace, "redis.dmi.zst")
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dmi import _files
from dmi.errors import TraceError
from dmi.trace import files, heaptrack, memray
from dmi.trace.files import DEFAULT_LIMIT, Source
from dmi.trace.format import MAGIC, Record, Trace, check, pack, parse, scan

if TYPE_CHECKING:
    import os

__all__ = ["DEFAULT_LIMIT", "Record", "Trace", "check", "load", "pack", "parse", "save"]


def load(source: Source, *, limit: int = DEFAULT_LIMIT, name: str | None = None) -> Trace:
    """Read a recording of any known kind, from a path or from bytes.

    Kinds are told apart by content: dmi's own format and the text of `heaptrack -r`, compressed or
    not, and memray's files. An uncompressed file of dmi's own is mapped, not read. `limit` bounds
    the bytes after decompression. Raises TraceError (with `.offset`), OSError, or ImportError where
    a decompressor is missing.

    A file is read twice: once only to look at it, in less than 64 MiB whatever it says of itself,
    and once to keep it.
    """
    label = name or files.describe(source)
    head = files.head(source, limit)
    if head.startswith(MAGIC):
        return _own(source, limit, label)
    if head.startswith(heaptrack.HEAD):
        heaptrack.scan(files.pieces(source, limit))
        return heaptrack.read(files.pieces(source, limit), name=label)
    if memray.is_one(head):
        return memray.read(source, name=label)
    if not head:
        raise TraceError(f"{label} is empty", offset=0)
    raise TraceError(
        f"{label} is no recording: neither dmi's own, nor of `heaptrack -r`, nor of memray",
        offset=0,
    )


def _own(source: Source, limit: int, label: str) -> Trace:
    view = files.mapped(source)
    if view is not None and len(view) > limit:
        raise TraceError(f"{label} is larger than the limit of {limit:,} bytes", offset=limit)
    present = None if view is None else len(view)
    scan(files.pieces(source, limit), name=label, present=present, limit=limit)
    if view is not None:
        return parse(view, name=label)
    data = bytearray()
    for part in files.pieces(source, limit):
        data += part
    return parse(data, name=label)


def save(trace: Trace, path: str | os.PathLike[str], *, level: int = 19) -> int:
    """Write a recording in dmi's own format; a name ending in .zst is compressed.

    Returns the size of the file in bytes. The file appears whole or not at all.
    """
    target = Path(path)
    with _files.replacing(target) as file:
        if target.suffix == ".zst":
            file.write(_compressed(trace, level))
        else:
            trace.write(file)
    return target.stat().st_size


def _compressed(trace: Trace, level: int) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise ImportError(
            "writing zstd files needs the extra 'trace': pip install 'dmi-heap[trace]'"
        ) from None
    # Matches of three bytes, which the highest levels try, do not pay among records of sixteen: the
    # Redis recording came out 9 % larger. The window is what a reader has to hold: 16 MiB.
    settings = zstandard.ZstdCompressionParameters.from_level(
        level, window_log=24, min_match=4, write_checksum=True, write_content_size=True
    )
    compressor = zstandard.ZstdCompressor(compression_params=settings)
    size = len(trace.header()) + len(trace.records)
    stream = compressor.compressobj(size=size)
    packed: list[bytes] = [
        stream.compress(trace.header()),
        stream.compress(trace.records),
        stream.flush(),
    ]
    return b"".join(packed)
