"""Files at rest: told apart by their first bytes, decompressed in pieces, never beyond a limit.

Plain files, zstd (the extra `trace`), gzip and xz. Compressed input is never trusted about its
size: it is read in small pieces, and what comes out is counted.
"""

from __future__ import annotations

import io
import lzma
import mmap
import os
import zlib
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

from dmi.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_LIMIT = 4 << 30
"""Bytes that a recording may have once decompressed, unless the caller says otherwise."""

_PIECE = 8 << 10
"""Compressed bytes at a time: zstd can blow 8 KiB up to 256 MiB at once, not more."""
_PLAIN_PIECE = 1 << 20
_WINDOW = 128 << 20
"""The largest zstd window that is accepted (`zstd --long=27` asks for as much)."""

Source = str | os.PathLike[str] | bytes | bytearray | memoryview


class _Decoder(Protocol):
    """What zlib, lzma and zstandard have in common."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


def _zstd() -> _Decoder:
    try:
        import zstandard
    except ImportError:
        raise ImportError(
            "reading zstd files needs the extra 'trace': pip install 'dmi-heap[trace]'"
        ) from None
    decoder: _Decoder = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
    return decoder


def _gzip() -> _Decoder:
    return zlib.decompressobj(wbits=31)


def _xz() -> _Decoder:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_WINDOW)


_KINDS = {b"\x28\xb5\x2f\xfd": _zstd, b"\x1f\x8b": _gzip, b"\xfd7zXZ\x00": _xz}


def _kind(head: bytes) -> Any:
    for magic, decoder in _KINDS.items():
        if head.startswith(magic):
            return decoder
    return None


def _errors() -> tuple[type[Exception], ...]:
    try:
        import zstandard
    except ImportError:
        return (zlib.error, lzma.LZMAError)
    return (zlib.error, lzma.LZMAError, zstandard.ZstdError)


def _decompressed(file: IO[bytes], make: Any) -> Iterator[bytes]:
    decoder = make()
    errors = _errors()
    read = 0
    started = False
    while piece := file.read(_PIECE):
        while piece:
            if decoder.eof:  # another frame or member follows
                decoder = make()
                started = False
            started = True
            try:
                out = decoder.decompress(piece)
            except errors as error:
                raise TraceError(f"the compression is broken: {error}", offset=read) from None
            read += len(piece)
            piece = b""
            if decoder.eof:
                piece = decoder.unused_data
                read -= len(piece)
            if out:
                yield out
    if started and not decoder.eof:
        raise TraceError("the compressed file is cut off", offset=read)


def _open(source: Source) -> IO[bytes]:
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    return Path(source).open("rb")


def describe(source: Source) -> str:
    """A name for messages: the path, or the number of bytes."""
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{len(source):,} bytes"
    return os.fspath(source)


def pieces(source: Source, limit: int = DEFAULT_LIMIT) -> Iterator[bytes]:
    """The contents of a file or of bytes, decompressed, piece by piece.

    Raises TraceError beyond `limit` bytes and on broken compression, OSError as open() does, and
    ImportError where a decompressor is not installed.
    """
    total = 0
    with _open(source) as file:
        head = file.read(6)
        file.seek(0)
        make = _kind(head)
        parts = (
            iter(lambda: file.read(_PLAIN_PIECE), b"") if not make else _decompressed(file, make)
        )
        for part in parts:
            total += len(part)
            if total > limit:
                raise TraceError(
                    f"{describe(source)} holds more than {limit:,} bytes once decompressed; "
                    "pass a higher limit if that is meant",
                    offset=limit,
                )
            yield part


def mapped(source: Source) -> memoryview | None:
    """An uncompressed file mapped read-only, or the bytes themselves; None if compressed or empty.

    The memoryview keeps the mapping alive.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        view = memoryview(source).cast("B")
        return None if not view or _kind(bytes(view[:6])) else view
    with Path(source).open("rb") as file:
        head = file.read(6)
        if not head or _kind(head) or not os.fstat(file.fileno()).st_size:
            return None
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
