"""Files of others, and files of our own: the one door for both.

Reading: regular files only (and what a pipe brings, where a caller says so), opened without
waiting, in pieces, never more than the caller allows. JSON is weighed before it is parsed, so
that a small file that unfolds into many objects is refused before they exist.

Writing: never into what is there. A new file with a name that cannot be guessed is made beside the
target, and renamed over it when it is whole; the target must be a regular file or nothing at all.
No link is followed.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shlex
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKED: Final = (
    (b"\x28\xb5\x2f\xfd", "zstd", ".zst"),
    (b"\x1f\x8b", "gzip", ".gz"),
    (b"\xfd7zXZ\0", "xz", ".xz"),
    (b"\x04\x22\x4d\x18", "lz4", ".lz4"),
    (b"BZh", "bzip2", ".bz2"),
)
"""What compressed files begin with, who unpacks them, and how they are named as a rule."""


def unpacks(path: str, head: bytes) -> str:
    """The line for a shell that unpacks the file, whose first bytes are given, whatever it is
    called, and leaves it where it is; empty where it is not compressed."""
    for magic, program, suffix in PACKED:
        if head.startswith(magic):
            plain = path.removesuffix(suffix)
            plain = plain if plain != path else f"{path}.unpacked"
            return f"{program} -dc < {shlex.quote(path)} > {shlex.quote(plain)}"
    return ""


JSON_BUDGET: Final = 48 << 20
"""Bytes of memory that the text and the values of one JSON file may take."""

_PIECE: Final = 1 << 20

Name = str | os.PathLike[str]


class TooLargeError(ValueError):
    """A file is larger than what is read of its kind; the message says by which measure."""


def _kind(mode: int) -> str:
    for test, name in (
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISLNK, "a symbolic link"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    ):
        if test(mode):
            return name
    return "of an unknown kind"


# ---- reading ------------------------------------------------------------------------------------


def open_regular(path: Name, *, pipe: bool = False) -> IO[bytes]:
    """Open a file for reading. OSError where it is no regular file; never waits for a writer.

    With ``pipe`` also what a shell hands over as /dev/fd/N or /dev/stdin, which has no name of
    its own.
    """
    flags = os.O_RDONLY
    for name in ("O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY", "O_BINARY"):
        flags |= getattr(os, name, 0)
    number = os.open(path, flags)
    try:
        mode = os.fstat(number).st_mode
        if not stat.S_ISREG(mode) and not (pipe and stat.S_ISFIFO(mode) and _nameless(path)):
            code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
            raise OSError(
                code, f"it is {_kind(mode)}, not a file that can be read", os.fspath(path)
            )
        if not stat.S_ISREG(mode):
            os.set_blocking(number, True)
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def _nameless(path: Name) -> bool:
    """Whether a pipe is one of the shell's: no entry of a folder leads to it."""
    return not Path(os.path.realpath(path)).exists()


def read_bytes(path: Name, most: int, *, pipe: bool = False) -> bytes:
    """The bytes of a file. TooLargeError above ``most``, OSError as open_regular().

    Memory is taken for what is there, not for what may be.
    """
    pieces: list[bytes] = []
    left = most
    with open_regular(path, pipe=pipe) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            raise TooLargeError(f"{os.fspath(path)}: {size:,} bytes; up to {most:,} are read")
        while piece := file.read(min(left + 1, _PIECE)):
            left -= len(piece)
            if left < 0:
                raise TooLargeError(f"{os.fspath(path)}: more than {most:,} bytes")
            pieces.append(piece)
    return b"".join(pieces)


def read_json(path: Name, *, what: str = "", budget: int = JSON_BUDGET, pipe: bool = False) -> Any:
    """The value of a JSON file, as parse_json(). ValueError names the file, and ``what`` it is
    not."""
    head = f"{os.fspath(path)}: not {what}: " if what else f"{os.fspath(path)}: "
    with open_regular(path, pipe=pipe) as file:
        try:
            return load_json(file, budget=budget)
        except TooLargeError as error:
            raise TooLargeError(f"{os.fspath(path)}: {error}") from None
        except ValueError as error:
            raise ValueError(head + str(error)) from None


def load_json(file: IO[bytes], *, budget: int = JSON_BUDGET) -> Any:
    """The same from a file that is open; messages name no file."""
    data = file.read(budget // 2 + 1)
    if len(data) > budget // 2:
        raise TooLargeError(f"more than {budget >> 21} MiB of JSON, which is not read")
    text = _text(data, budget)
    del data
    return _parsed(text)


@contextmanager
def seekable(file: IO[bytes], most: int) -> Iterator[IO[bytes]]:
    """What a pipe brings, as a file that can be read twice. TooLargeError above ``most`` bytes."""
    with tempfile.SpooledTemporaryFile(_PIECE) as copy:
        left = most
        while piece := file.read(min(_PIECE, left + 1)):
            left -= len(piece)
            if left < 0:
                raise TooLargeError(f"more than {most:,} bytes")
            copy.write(piece)
        copy.seek(0)
        yield copy  # type: ignore[misc,unused-ignore]


def parse_json(data: bytes, *, budget: int = JSON_BUDGET) -> Any:
    """The value of JSON text. ValueError for anything that is none, for NaN and infinities, for
    numbers that no double and no sensible integer holds, and for nesting that Python refuses;
    TooLargeError when text and values together would take more than ``budget`` bytes."""
    return _parsed(_text(data, budget))


def _weight(data: bytes) -> int:
    """What the values in a piece of JSON may take of memory, without its letters."""
    # Upper bounds: an empty list or dict, a place in either, a string, a number, each as CPython
    # has it. Letters that only look like structure stand in strings, which are counted besides.
    weight = 96 * data.count(b"[") + 240 * data.count(b"{") + 104 * data.count(b":")
    return weight + 44 * data.count(b",") + 28 * data.count(b'"')


def _width(data: bytes) -> int:
    """What a byte of the text takes: the text, and its strings once more; a character outside
    Latin-1 widens the whole string."""
    return 8 if b"\\u" in data or not data.isascii() else 2


def weight_of_text(text: str) -> int:
    """What JSON text and its values take of memory, at most."""
    data = text.encode("utf-8", "surrogatepass")
    return _weight(data) + _width(data) * len(data)


def weight_of_json(file: IO[bytes], most: int, mark: bytes) -> tuple[int, bool]:
    """What the text and the values of a JSON file would take of memory, and whether ``mark``
    stands in it. Reads no further than ``most`` bytes of memory."""
    weight, size, width, marked, kept = 0, 0, 2, False, b""
    while weight + width * size <= most and (piece := file.read(_PIECE)):
        joined = kept + piece  # a mark, or an escape, may lie across two pieces
        marked = marked or mark in joined
        width = max(width, _width(joined))
        kept = piece[-len(mark) :]
        weight += _weight(piece)
        size += len(piece)
    return weight + width * size, marked


def _text(data: bytes, budget: int) -> str:
    """Decoded, once it is known that the text and its values fit."""
    if (weight := _weight(data) + _width(data) * len(data)) > budget:
        needed, given = weight >> 20, budget >> 20
        raise TooLargeError(
            f"its values would take about {needed} MiB of memory; up to {given} are taken"
        )
    try:
        return data.decode(json.detect_encoding(data))
    except UnicodeDecodeError as error:
        raise ValueError(f"no JSON: byte {error.start:,} is no {error.encoding} text") from None


def _finite(text: str) -> float:
    value = float(text)
    if value - value != 0:
        raise ValueError(f"the number {text:.40} is too large")
    return value


def _whole(text: str) -> int:
    if len(text) > 40:
        raise ValueError(f"the number {text:.40}... is too large")
    return int(text)


def _refused(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def json_decoder() -> json.JSONDecoder:
    """A decoder that refuses the numbers that parse_json() refuses."""
    return json.JSONDecoder(parse_float=_finite, parse_int=_whole, parse_constant=_refused)


def _parsed(text: str) -> Any:
    try:
        return json_decoder().decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"no JSON: {error.msg}, line {error.lineno} column {error.colno}"
        ) from None
    except RecursionError:
        raise ValueError("no JSON that is read: nested too deeply") from None


# ---- writing ------------------------------------------------------------------------------------


def check_target(path: Name) -> None:
    """Refuse, before any work, what ``replacing`` would refuse. OSError with words."""
    target = Path(path)
    _look(target)
    if not target.parent.is_dir():
        raise OSError(errno.ENOENT, f"there is no directory {target.parent}", os.fspath(path))
    effective = os.access in os.supports_effective_ids
    if not os.access(target.parent, os.W_OK | os.X_OK, effective_ids=effective):
        raise OSError(errno.EACCES, "its directory may not be written to", os.fspath(path))


def _look(target: Path) -> None:
    if not target.name or str(target).endswith(os.sep):
        raise OSError(errno.EISDIR, "no name of a file", os.fspath(target))
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        code = errno.EISDIR if stat.S_ISDIR(mode) else errno.EEXIST
        raise OSError(
            code, f"it is {_kind(mode)}; only a new or a regular file is written", os.fspath(target)
        )


@contextmanager
def replacing(path: Name, *, mode: int = 0o600) -> Iterator[IO[bytes]]:
    """A new file to write to that takes the name ``path`` when the block ends well.

    Nobody else may open it before, and with mode 0600 nobody else may read it afterwards.

    The file appears whole or not at all. OSError, naming ``path``, where something else than a
    regular file has that name already, and as open() does.
    """
    target = Path(path)
    _look(target)
    partial = target.with_name(f".{secrets.token_hex(12)}.dmi-part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    try:
        number = os.open(partial, flags, 0o600)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None
    try:
        with os.fdopen(number, "wb") as file:
            yield file
        if mode != 0o600:
            partial.chmod(mode)
        _look(target)
        partial.replace(target)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise


def write_bytes(path: Name, data: bytes) -> None:
    """``data`` as the whole of a file, as ``replacing`` makes it."""
    with replacing(path) as file:
        file.write(data)


def write_text(path: Name, text: str, *, mode: int = 0o600) -> None:
    """``text``, in UTF-8, as the whole of a file, as ``replacing`` makes it."""
    with replacing(path, mode=mode) as file:
        file.write(text.encode("utf-8", "surrogateescape"))
