"""Names and lines of the code in one ELF file: its symbols, and its DWARF where it has that.

The files are those that a profile names, so nothing in them is trusted either: what cannot be read
gives no names, and how much of the debugging information is looked at has a bound. What pyelftools
raises on a damaged file has no common base, so every exception counts as damage.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from dmi import _files
from dmi.profile._demangle import demangled
from dmi.profile._dwarf import Code, Dwarf

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Code", "ElfCode"]

_SYMBOL: Final = struct.Struct("<IBBHQQ")
_STT_FUNC: Final = (2, 10)
_MOST_SECTION: Final = 1 << 30
_MOST_SYMBOLS: Final = 4 << 20
_MOST_NAMES: Final = 256 << 20
_MOST_NAME: Final = 1 << 16
_MOST_NOTES: Final = 1 << 20
_DEBUG_FILES: Final = Path("/usr/lib/debug/.build-id")


def _elftools() -> Any:
    try:
        from elftools.elf import elffile
    except ImportError:
        raise ImportError(
            "names of native code need the extra 'blame': pip install 'dmi-heap[blame]'"
        ) from None
    return elffile


class ElfCode:
    """One file, with its lines or with its symbols alone. Never raises on what is in it."""

    def __init__(self, path: str, *, lines: bool = True) -> None:
        self._file: IO[bytes] | None = None
        self._elf: Any = None
        self._loads: list[tuple[int, int, int]] = []
        self._starts: list[int] = []
        self._symbols: list[tuple[int, int, str]] = []
        self._dwarf: Dwarf | None = None
        elffile = _elftools()
        try:
            self._file = _files.open_regular(path)
            self._elf = elffile.ELFFile(self._file)
            self._loads = [
                (segment["p_offset"], segment["p_filesz"], segment["p_vaddr"])
                for segment in self._elf.iter_segments("PT_LOAD")
            ]
        except Exception:  # see above
            self.close()
            return
        self._read_symbols(elffile)
        if lines:
            self._read_dwarf(elffile)

    def close(self) -> None:
        """Give the file back; what was read stays."""
        beside = self._dwarf.file if self._dwarf is not None else None
        for each in (self._file, beside):
            if each is not None:
                each.close()
        self._file = None

    @property
    def readable(self) -> bool:
        """Whether the file is there and an ELF file."""
        return bool(self._loads)

    @property
    def build_id(self) -> str:
        """In hexadecimal digits; empty without one."""
        return _build_id(self._elf) if self._elf is not None and self._file else ""

    def at(self, offset: int) -> list[Code]:
        """The code at an offset of the file, the innermost inlined function first; empty where
        nothing is known."""
        for first, size, address in self._loads:
            if first <= offset < first + size:
                return self._at(offset - first + address)
        return []

    def _at(self, address: int) -> list[Code]:
        name, into = self._symbol(address)
        if self._dwarf is not None:
            try:
                found = self._dwarf.at(address, name)
            except Exception:  # see above
                found = []
            if found:
                return found
        return [Code(name, offset=into)] if name else []

    def _symbol(self, address: int) -> tuple[str, int]:
        place = bisect_right(self._starts, address) - 1
        if place < 0:
            return "", 0
        start, size, name = self._symbols[place]
        if size and address >= start + size:
            return "", 0
        return demangled(name), address - start

    def _read_symbols(self, elffile: Any) -> None:
        found: dict[int, tuple[int, int, str]] = {}
        for elf in self._with_debug_file(elffile):
            try:
                for start, size, name in _functions(elf):
                    had = found.get(start)
                    # Of several names of one place the one with a size; then the plainest.
                    if had is None or (not had[1], had[2].startswith("_"), len(had[2])) > (
                        not size, name.startswith("_"), len(name)
                    ):  # fmt: skip
                        found[start] = (start, size, name)
            except Exception:  # see above
                continue
        self._symbols = [found[start] for start in sorted(found)]
        self._starts = [start for start, _, _ in self._symbols]

    def _with_debug_file(self, elffile: Any) -> Iterator[Any]:
        yield self._elf
        if (other := self._debug_file()) is not None:
            with other:
                try:
                    elf = elffile.ELFFile(other)
                except Exception:  # see above
                    return
                yield elf

    def _debug_file(self) -> IO[bytes] | None:
        """The file with the debugging information that a distribution packs apart."""
        name = _build_id(self._elf)
        if not re.fullmatch("[0-9a-f]{8,80}", name):
            return None
        try:
            return _files.open_regular(_DEBUG_FILES / name[:2] / f"{name[2:]}.debug")
        except OSError:
            return None

    def _read_dwarf(self, elffile: Any) -> None:
        elf, file = self._elf, None
        try:
            if not elf.has_dwarf_info(strict=True):
                file = self._debug_file()
                if file is None:
                    return
                elf = elffile.ELFFile(file)
            large = any(
                section.data_size > _MOST_SECTION
                for section in elf.iter_sections()
                if section.name.startswith((".debug", ".zdebug"))
            )
            if not large and elf.has_dwarf_info(strict=True):
                self._dwarf = Dwarf(elf.get_dwarf_info(relocate_dwarf_sections=False), file)
        except Exception:  # see above
            self._dwarf = None


def _build_id(elf: Any) -> str:
    try:
        for segment in elf.iter_segments("PT_NOTE"):
            if segment["p_filesz"] > _MOST_NOTES:
                continue
            for note in segment.iter_notes():
                if note["n_type"] == "NT_GNU_BUILD_ID":
                    return str(note["n_desc"])
    except Exception:  # see above
        pass
    return ""


def _functions(elf: Any) -> Iterator[tuple[int, int, str]]:
    """(address, size, name) of each function that a symbol table names."""
    for name in (".symtab", ".dynsym"):
        table = elf.get_section_by_name(name)
        if table is None or table["sh_size"] > _MOST_SYMBOLS * _SYMBOL.size:
            continue
        # What it claims may be a hole of a sparse file.
        strings = elf.get_section(table["sh_link"])
        if strings.data_size > _MOST_NAMES:
            continue
        if elf.elfclass != 64 or not elf.little_endian:
            for symbol in table.iter_symbols():
                if symbol["st_info"]["type"] == "STT_FUNC" and symbol["st_shndx"] != "SHN_UNDEF":
                    yield symbol["st_value"], symbol["st_size"], symbol.name
            continue
        # The same without an object for each of what may be 100,000.
        names = strings.data()
        data = table.data()
        left = 4 * len(names) + _MOST_NAME  # many symbols may share one long name
        whole = len(data) - len(data) % _SYMBOL.size
        for at, info, _other, section, value, size in _SYMBOL.iter_unpack(data[:whole]):
            if info & 15 in _STT_FUNC and section and value:
                end = names.find(b"\0", at, at + _MOST_NAME)
                left -= max(end - at, 0)
                if end < 0:
                    continue  # it has no end where one can be expected
                if left < 0:
                    break
                yield value, size, names[at:end].decode("utf-8", "replace")
