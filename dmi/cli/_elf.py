"""Whether a library can be preloaded into a program: what its file says of its loader."""

from __future__ import annotations

import os
import shutil
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dmi import _files

_LOADED_BY_NAME = 3  # PT_INTERP
_MAX_PARTS = 256
_MAX_NAME = 4096
_SHEBANG_BYTES = 256
_MAX_SCRIPTS = 5
# Of the header behind the identification, and of a part: type, offset, size in the file.
_SHAPES = {
    1: ("HHIIIIIHHHHHH", "IIIIIIII", (0, 1, 4)),
    2: ("HHIQQQIHHHHHH", "IIQQQQQQ", (0, 2, 5)),
}


@dataclass(frozen=True, slots=True)
class Elf:
    """What the file of a program says."""

    path: str
    bits: int
    loader: str | None
    """The dynamic loader it asks for; None when it is linked statically."""

    @property
    def is_musl(self) -> bool:
        """Whether its C library is musl, into which nothing made for glibc can be loaded."""
        return self.loader is not None and "musl" in Path(self.loader).name

    @property
    def is_static(self) -> bool:
        """Whether no loader is asked for, and the file is none itself."""
        return self.loader is None and not Path(self.path).name.startswith("ld")


def read(path: str) -> Elf | None:
    """The file's own words; None for what is no program of ELF, or a damaged one."""
    try:
        with _files.open_regular(path) as file:
            head = file.read(64)
            if head[:4] != b"\x7fELF" or len(head) < 52 or head[4] not in _SHAPES:
                return None
            order = ">" if head[5] == 2 else "<"
            header, part, (kind, offset, size) = _SHAPES[head[4]]
            fields = struct.unpack_from(order + header, head, 16)
            at, each, count = fields[4], fields[8], fields[9]
            form = struct.Struct(order + part)
            if each < form.size or count > _MAX_PARTS:
                return None
            file.seek(at)
            table = file.read(each * count)
            loader = None
            for number in range(len(table) // each):
                found = form.unpack_from(table, number * each)
                if found[kind] == _LOADED_BY_NAME:
                    file.seek(found[offset])
                    loader = os.fsdecode(file.read(min(found[size], _MAX_NAME)).rstrip(b"\0"))
            return Elf(path, 32 * head[4], loader)
    except (OSError, OverflowError, struct.error):
        return None


def chain(program: str) -> list[str]:
    """The files that run: the program, and for a script what its first line names."""
    found = [program]
    while len(found) < _MAX_SCRIPTS:
        words = _first_line(found[-1])
        if not words:
            break
        found.append(words[0])
        if Path(words[0]).name == "env":
            named = next((word for word in words[1:] if word[0] != "-" and "=" not in word), None)
            path = shutil.which(named) if named else None
            if path is None:
                break
            found.append(path)
    return found


def _first_line(path: str) -> list[str]:
    with suppress(OSError), _files.open_regular(path) as file:
        line = file.read(_SHEBANG_BYTES).partition(b"\n")[0]
        if line.startswith(b"#!"):
            return os.fsdecode(line[2:]).split()
    return []
