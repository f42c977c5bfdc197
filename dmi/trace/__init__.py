"""Recordings of real programs: reading, checking, converting.

trace = dmi.trace.load("redis.raw.zst")    # heaptrack, memray or dmi's own, by content
dmi.trace.save(trace, "redis.dmi.zst")
"""

from __future__ import annotations

import itertools
import os
from pathlib import Path

from dmi.errors import TraceError
from dmi.trace import files, heaptrack, memray
from dmi.trace.files import DEFAULT_LIMIT, Source
from dmi.trace.format import MAGIC, Record, Trace, check, pack, parse

__all__ = ["DEFAULT_LIMIT", "Record", "Trace", "check", "load", "pack", "parse", "save"]


def load(source: Source, *, limit: int = DEFAULT_LIMIT, name: str | None = None) -> Trace:
    """Read a recording of any known kind, from a path or from bytes.

    Kinds are told apart by content: dmi's own format and the text of `heaptrack -r`, compressed or
    not, and memray's files. An uncompressed file of dmi's own is mapped, not read. `limit` bounds
    the bytes after decompression. Raises TraceError (with `.offset`), OSError, or ImportError where
    a decompressor is missing.
    """
    label = name or files.describe(source)
    view = files.mapped(source)
    if view is not None and bytes(view[:8]) == MAGIC:
        if len(view) > limit:
            raise TraceError(f"{label} is larger than the limit of {limit:,} bytes", offset=limit)
        return parse(view, name=label)
    del view
    parts = files.pieces(source, limit)
    head = b""
    for part in parts:
        head += part
        if len(head) >= len(MAGIC):
            break
    parts = itertools.chain((head,), parts)
    if head.startswith(MAGIC):
        data = bytearray()
        for part in parts:
            data += part
        return parse(data, name=label)
    if head.startswith(heaptrack.HEAD):
        return heaptrack.read(parts, name=label)
    if memray.is_one(head):
        return memray.read(source, name=label)
    if not head:
        raise TraceError(f"{label} is empty", offset=0)
    raise TraceError(
        f"{label} is no recording: neither dmi's own, nor of `heaptrack -r`, nor of memray",
        offset=0,
    )


def save(trace: Trace, path: str | os.PathLike[str], *, level: int = 19) -> int:
    """Write a recording in dmi's own format; a name ending in .zst is compressed.

    Returns the size of the file in bytes. The file appears whole or not at all.
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            if target.suffix == ".zst":
                file.write(_compressed(trace, level))
            else:
                trace.write(file)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target.stat().st_size


def _compressed(trace: Trace, level: int) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise ImportError(
            "writing zstd files needs the extra 'trace': pip install 'dmi-heap[trace]'"
        ) from None
    # Matches of three bytes, which the highest levels try, do not pay among records of sixteen: the
    # Redis recording came out 9 % larger. The window is what a reader has to hold: 64 MiB.
    settings = zstandard.ZstdCompressionParameters.from_level(
        level, window_log=26, min_match=4, write_checksum=True, write_content_size=True
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
