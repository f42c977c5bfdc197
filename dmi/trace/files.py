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
from typing import IO, TYPE_CHECKING, Any, Protocol

from dmi import _files
from dmi.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_LIMIT = 4 << 30
"""Bytes that a recording may have once decompressed, unless the caller says otherwise."""

_PIECE = 128
"""Compressed bytes at a time: zstd can blow them up to 4 MiB at once, not more."""
_PLAIN_PIECE = 1 << 20
_WINDOW = 24 << 20
"""Bytes that a decompressor may look back to, which it has to hold: `zstd -19` and `xz -7` need
less."""

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


def _check_frame(head: bytes, limit: int, name: str) -> None:
    """What a zstd frame says of itself, before anything is unpacked."""
    import zstandard

    try:
        says = zstandard.get_frame_parameters(head)
    except zstandard.ZstdError as error:
        raise TraceError(f"the compression is broken: {error}", offset=0) from None
    if says.window_size > _WINDOW:
        raise TraceError(
            f"{name} asks for a window of {says.window_size >> 20:,} MiB to unpack it; up to "
            f"{_WINDOW >> 20} are given: compress it again without --long and --ultra",
            offset=0,
        )
    unknown = (zstandard.CONTENTSIZE_UNKNOWN, zstandard.CONTENTSIZE_ERROR)
    if says.content_size not in unknown and says.content_size > limit:
        raise TraceError(_beyond(name, limit), offset=0)


def _beyond(name: str, limit: int) -> str:
    return (
        f"{name} holds more than {limit:,} bytes once decompressed; "
        "pass a higher limit if that is meant"
    )


def _decompressed(file: IO[bytes], make: Any) -> Iterator[bytes]:
    decoder = make()
    errors = _errors()
    read = 0
    started = False
    while many := file.read(_PLAIN_PIECE):
        for start in range(0, len(many), _PIECE):
            piece = many[start : start + _PIECE]
            while piece:
                if decoder.eof:  # another frame or member follows
                    decoder = make()
                    started = False
                started = True
                try:
                    out = decoder.decompress(piece)
                except errors as error:
                    raise TraceError(_broken(error), offset=read) from None
                read += len(piece)
                piece = b""
                if decoder.eof:
                    piece = decoder.unused_data
                    read -= len(piece)
                if out:
                    yield out
    if started and not decoder.eof:
        raise TraceError("the compressed file is cut off", offset=read)


def _broken(error: Exception) -> str:
    words = str(error)
    if "emory" in words:  # both libraries say so of a window that is not given
        return (
            f"unpacking needs a window above {_WINDOW >> 20} MiB, which is not given: compress it "
            "again with less (zstd without --long and --ultra, xz -6)"
        )
    return f"the compression is broken: {words}"


def _open(source: Source) -> IO[bytes]:
    if isinstance(source, bytes | bytearray | memoryview):
        return io.BytesIO(source)
    return _files.open_regular(source)


def describe(source: Source) -> str:
    """A name for messages: the path, or the number of bytes."""
    if isinstance(source, bytes | bytearray | memoryview):
        return f"{len(source):,} bytes"
    return os.fspath(source)


def pieces(source: Source, limit: int = DEFAULT_LIMIT) -> Iterator[bytes]:
    """The contents of a file or of bytes, decompressed, piece by piece.

    Raises TraceError beyond `limit` bytes and on broken compression, OSError as open() does and
    for what is no regular file, and ImportError where a decompressor is not installed.
    """
    total = 0
    name = describe(source)
    with _open(source) as file:
        head = file.read(18)  # as long as the header of a zstd frame can be
        file.seek(0)
        make = _kind(head)
        if make is _zstd:
            make()
            _check_frame(head, limit, name)
        parts = (
            iter(lambda: file.read(_PLAIN_PIECE), b"") if not make else _decompressed(file, make)
        )
        for part in parts:
            total += len(part)
            if total > limit:
                raise TraceError(_beyond(name, limit), offset=limit)
            yield part


def head(source: Source, limit: int, size: int = 64) -> bytes:
    """The first bytes of what is in a file, decompressed; fewer where there are fewer."""
    found = b""
    for part in pieces(source, limit):
        found += part[:size]
        if len(found) >= size:
            break
    return found[:size]


def mapped(source: Source) -> memoryview | None:
    """An uncompressed file mapped read-only, or the bytes themselves; None if compressed or empty.

    The memoryview keeps the mapping alive.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        view = memoryview(source).cast("B")
        return None if not view or _kind(bytes(view[:6])) else view
    with _files.open_regular(source) as file:
        head = file.read(6)
        if not head or _kind(head) or not os.fstat(file.fileno()).st_size:
            return None
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
