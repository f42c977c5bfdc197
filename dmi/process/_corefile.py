"""A core file, the kernel's or gcore's, read as a process.

Program headers say which addresses the file holds, its notes which files were mapped where and what
the registers were. Nothing that the file claims is believed before it is compared with the size of
the file.
"""

from __future__ import annotations

import os
import stat
import struct
from bisect import bisect_right
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from dmi import _names
from dmi._files import unpacks
from dmi.address._maps import elf_span
from dmi.errors import DmiError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

__all__ = ["CoreError", "CoreReader", "is_core", "packed"]

_ET_CORE: Final = 4
_PT_LOAD: Final = 1
_PT_NOTE: Final = 4
_PN_XNUM: Final = 0xFFFF
_NT_PRSTATUS: Final = 1
_NT_PRPSINFO: Final = 3
_NT_AUXV: Final = 6
_NT_FILE: Final = 0x46494C45
_READ: Final = (_NT_PRSTATUS, _NT_PRPSINFO, _NT_AUXV, _NT_FILE)
_AT_PAGESZ: Final = 6
_AT_ENTRY: Final = 9
_AT_RANDOM: Final = 25
_AT_SYSINFO_EHDR: Final = 33
_MOST_NAMED: Final = 6
"""So many of the mappings that are missing are named one by one."""
_MMAP_BASE: Final = 0x7000_0000_0000
"""x86-64 and aarch64 map libraries and stacks above this, and the brk heap lies below."""
_MACHINES: Final = {62: "x86-64", 183: "aarch64"}
# Where the stack pointer stands in the registers of NT_PRSTATUS.
_STACK_POINTER: Final = {62: 112 + 19 * 8, 183: 112 + 31 * 8}
_MAX_HEADERS: Final = 1 << 20
_MAX_NOTES: Final = 1 << 20
"""How many notes are looked at; each thread has up to seven."""
_MAX_NOTE: Final = 16 << 20
_MAX_SMALL_NOTE: Final = 1 << 16


class CoreError(DmiError, ValueError):
    """A file that is no core file which can be read."""


class Segment(NamedTuple):
    """Addresses, and where the file has their bytes. have: bytes that are really there."""

    start: int
    end: int
    offset: int
    have: int
    flags: int


def _head(path: str | os.PathLike[str]) -> bytes:
    # A pipe would wait for a writer.
    with suppress(OSError):
        if stat.S_ISREG(Path(path).stat().st_mode):
            with Path(path).open("rb") as file:
                return file.read(64)
    return b""


def is_core(path: str | os.PathLike[str]) -> bool:
    """Whether the file begins as a core file does."""
    head = _head(path)
    return (
        len(head) == 64
        and head[:4] == b"\x7fELF"
        and struct.unpack_from("<H", head, 16)[0] == _ET_CORE
    )


def packed(path: str | os.PathLike[str]) -> str:
    """The line that unpacks the file, where it is compressed as cores are; else empty."""
    return unpacks(os.fspath(path), _head(path))


class CoreReader:
    """The memory of a process as a core file holds it. A context manager; for one thread."""

    stands_still = True
    own = False
    swap_in = True
    namespace_pid = 0

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        self.what = f"core file {self.path}"
        self.page = 4096
        self.pid = 0
        self.program = ""
        self.denied = ""
        self.notes: list[str] = []
        self._notes_left = _MAX_NOTES
        self.threads: list[tuple[int, int]] = []
        self._file = -1
        self._segments: list[Segment] = []
        self._starts: list[int] = []
        self._files: list[tuple[int, int, int, str]] = []
        self._machine = 0
        self._auxv: dict[int, int] = {}
        self._names: dict[int, str] = {}

    def __enter__(self) -> CoreReader:
        # A pipe would wait for a writer, a terminal would become this process's.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        self._file = os.open(self.path, flags)
        try:
            self._open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    # ---- opening ---------------------------------------------------------------------------------

    def _open(self) -> None:
        if not is_core(self.path):
            command = packed(self.path)
            if command:
                raise CoreError(f"{self.path}: compressed; unpack it first: {command}")
            raise CoreError(f"{self.path}: not a core file")
        size = os.fstat(self._file).st_size
        head = os.pread(self._file, 64, 0)
        if head[4:6] != b"\x02\x01":
            raise CoreError(f"{self.path}: a core file of another kind than 64-bit little-endian")
        (self._machine,) = struct.unpack_from("<H", head, 18)
        if self._machine not in _MACHINES:
            raise CoreError(
                f"{self.path}: of machine type {self._machine}; x86-64 and aarch64 can be read"
            )
        table, sections = struct.unpack_from("<QQ", head, 32)
        entry, count, section_entry = struct.unpack_from("<HHH", head, 54)
        if count == _PN_XNUM and section_entry >= 64:
            first = os.pread(self._file, 64, sections) if sections < size else b""
            if len(first) == 64:
                (count,) = struct.unpack_from("<I", first, 44)
        if entry < 56 or table >= size or count > _MAX_HEADERS:
            raise CoreError(f"{self.path}: its table of program headers makes no sense")
        count = min(count, (size - table) // entry)
        headers = os.pread(self._file, entry * count, table)
        promised: dict[int, int] = {}
        for at in range(0, len(headers) - 55, entry):
            kind, flags, offset, start, _, filled, length, _ = struct.unpack_from(
                "<IIQQQQQQ", headers, at
            )
            if kind == _PT_LOAD and length and start + length <= 1 << 64:
                have = max(0, min(filled, length, size - offset))
                promised.setdefault(start, min(filled, length))
                self._segments.append(Segment(start, start + length, offset, have, flags))
            elif kind == _PT_NOTE and offset < size:
                self._read_notes(offset, min(offset + filled, size))
        self._segments.sort()
        # Of two that claim the same address the first holds.
        kept: list[Segment] = []
        for segment in self._segments:
            if not kept or segment.start >= kept[-1].end:
                kept.append(segment)
        self._segments = kept
        self._starts = [segment.start for segment in kept]
        self._name_mappings()
        self._say_what_is_missing(promised)

    def _say_what_is_missing(self, promised: dict[int, int]) -> None:
        """Pages of files that nobody wrote to are left out as a rule: their files have them."""
        cut, filtered = [], []
        for segment in self._segments:
            told = promised.get(segment.start, 0)
            if told > segment.have:
                cut.append((segment.start + segment.have, told - segment.have))
            elif not told and segment.flags & 2:
                filtered.append((segment.start, segment.end - segment.start))
        if cut:
            size = sum(each for _, each in cut) >> 10
            self.notes.append(
                f"the file is cut off: {size:,} KB of it are missing: {self._list(cut)}"
            )
        if filtered:
            size = sum(each for _, each in filtered) >> 10
            self.notes.append(
                f"{size:,} KB of writable memory were left out when it was written "
                f"(coredump_filter): {self._list(filtered)}"
            )

    def _list(self, spans: list[tuple[int, int]]) -> str:
        """Mappings by their names, the largest first."""
        named = []
        for start, size in sorted(spans, key=lambda each: -each[1])[:_MOST_NAMED]:
            name = self._name_of(start) or "anonymous"
            named.append(f"{start:x}-{start + size:x} {size >> 10:,} KB {name}")
        more = len(spans) - len(named)
        return ", ".join(named) + (f", and {more} more" if more else "")

    def _name_mappings(self) -> None:
        """Find the brk heap, the stack and the vdso, which a core file does not name: the heap is
        the first that nobody named behind the program, the others are where the kernel put words
        for it."""
        for key, name in ((_AT_RANDOM, "[stack]"), (_AT_SYSINFO_EHDR, "[vdso]")):
            index = bisect_right(self._starts, self._auxv.get(key, 0)) - 1
            if index >= 0 and self._auxv.get(key, 0) < self._segments[index].end:
                self._names[self._segments[index].start] = name
        entry = self._auxv.get(_AT_ENTRY, 0)
        program = next((f[3] for f in self._files if f[0] <= entry < f[1]), None)
        ends = [f[1] for f in self._files if f[3] == program]
        if program is None or not ends or max(ends) > _MMAP_BASE:
            return
        last = max(ends)
        for segment in self._segments:
            if segment.start < last or not segment.flags & 2:
                continue
            # What follows at once is the zero-filled data of the program.
            if segment.start == last:
                last = segment.end
                continue
            if segment.start < _MMAP_BASE and not any(
                f[0] <= segment.start < f[1] for f in self._files
            ):
                self._names[segment.start] = "[heap]"
            return

    def _name_of(self, address: int) -> str:
        for start, end, _, name in self._files:
            if start <= address < end:
                return name
        index = bisect_right(self._starts, address) - 1
        return self._names.get(self._segments[index].start, "") if index >= 0 else ""

    def _read_notes(self, at: int, limit: int) -> None:
        """One after the other, for most are of no use here, and what they claim may be a hole."""
        while at + 12 <= limit and self._notes_left:
            self._notes_left -= 1
            head = os.pread(self._file, 12 + 16, at)
            if len(head) < 12:
                return
            name_size, size, kind = struct.unpack_from("<III", head)
            start = at + 12 + (name_size + 3 & ~3)
            end = start + size
            if end > limit or not (name_size or size):
                return
            name = head[12 : 12 + min(name_size, 16)].rstrip(b"\0")
            most = _MAX_NOTE if kind == _NT_FILE else _MAX_SMALL_NOTE
            again = (kind == _NT_FILE and self._files) or (kind == _NT_AUXV and self._auxv)
            if name == b"CORE" and kind in _READ and size <= most and not again:
                self._read_note(kind, os.pread(self._file, size, start))
            at = start + (size + 3 & ~3)

    def _read_note(self, kind: int, data: bytes) -> None:
        pointer = _STACK_POINTER[self._machine]
        if kind == _NT_PRSTATUS and len(data) >= pointer + 8:
            (thread,) = struct.unpack_from("<I", data, 32)
            self.threads.append((thread, struct.unpack_from("<Q", data, pointer)[0]))
            self.pid = self.pid or thread
        elif kind == _NT_PRPSINFO and len(data) >= 56:
            (self.pid,) = struct.unpack_from("<I", data, 24)
            self.program = data[40:56].split(b"\0")[0].decode("utf-8", "replace")
            _names.note(self.program)
        elif kind == _NT_AUXV:
            for key, value in struct.iter_unpack("<QQ", data[: len(data) & ~15]):
                self._auxv.setdefault(key, value)
                if key == _AT_PAGESZ and value in (4096, 16384, 65536):
                    self.page = value
        elif kind == _NT_FILE and len(data) >= 16:
            count, unit = struct.unpack_from("<QQ", data)
            count = min(count, (len(data) - 16) // 24)
            names = data[16 + 24 * count :].split(b"\0")
            for i in range(count):
                start, end, offset = struct.unpack_from("<QQQ", data, 16 + 24 * i)
                if start < end and i < len(names):
                    name = names[i].decode("utf-8", "surrogateescape")
                    _names.note(name)
                    self._files.append((start, end, offset * unit, name))

    # ---- what the kernel would say ---------------------------------------------------------------

    def maps(self, *, details: bool = True) -> str:
        """The mappings as /proc/PID/maps has them, as far as the file tells."""
        return "".join(self._lines())

    def _lines(self) -> Iterator[str]:
        files = {start: (end, offset, name) for start, end, offset, name in self._files}
        # Files that were mapped and of which the file has no header are mappings all the same.
        spans = [(s.start, s.end, s.flags) for s in self._segments]
        # Those of a file whose data the process changed are a program or a library.
        changed = {name for start, _, _, name in self._files if self._changed(start)}
        spans += [
            (start, end, 5 if name in changed else 4)
            for start, end, _, name in self._files
            if not self._covered(start)
        ]
        ordered = sorted(self._files)
        starts = [each[0] for each in ordered]
        for start, end, flags in sorted(spans):
            perms = "".join(c if flags & bit else "-" for c, bit in (("r", 4), ("w", 2), ("x", 1)))
            found = files.get(start)
            index = bisect_right(starts, start) - 1
            if found is None and index >= 0 and start < ordered[index][1]:
                low, high, offset, name = ordered[index]
                found = (high, offset + start - low, name)
            _, offset, name = found or (0, 0, "")
            inode = 1 if name else 0
            name = name or self._names.get(start, "")
            shown = name.replace("\n", "\\012")
            yield f"{start:x}-{end:x} {perms}p {offset:08x} 00:00 {inode} {shown}\n"

    def _changed(self, address: int) -> bool:
        index = bisect_right(self._starts, address) - 1
        return (
            index >= 0
            and address < self._segments[index].end
            and bool(self._segments[index].flags & 2)
        )

    def _covered(self, address: int) -> bool:
        index = bisect_right(self._starts, address) - 1
        return index >= 0 and address < self._segments[index].end

    def stack_pointers(self) -> list[int]:
        """Of all threads."""
        return [pointer for _, pointer in self.threads]

    def elf_span(self, path: str) -> int | None:
        # The file of that name may be another one by now, but for what its first page says.
        return elf_span(path, self.page) if path.startswith("/") else None

    def present(self, address: int, pages: int) -> list[bool] | None:
        """Which pages the file has."""
        found = [False] * pages
        end = address + pages * self.page
        index = max(0, bisect_right(self._starts, address) - 1)
        for segment in self._segments[index:]:
            if segment.start >= end:
                break
            low = max(segment.start, address) - address
            high = min(segment.start + segment.have, end) - address
            if high > low:
                first, last = low // self.page, -(-high // self.page)
                found[first:last] = [True] * (last - first)
        return found

    # ---- memory ----------------------------------------------------------------------------------

    def read(self, address: int, size: int) -> bytes | None:
        """Bytes of the process; None when the file does not have all of them."""
        room = bytearray(size) if 0 <= size <= 1 << 30 else None
        if room is None or self.read_into(address, memoryview(room)) != size:
            return None
        return bytes(room)

    def read_into(self, address: int, room: memoryview) -> int:
        """Fill room from address on; how many bytes were there, from the first one on."""
        done = 0
        while done < len(room):
            index = bisect_right(self._starts, address + done) - 1
            if index < 0:
                break
            segment = self._segments[index]
            inside = address + done - segment.start
            size = min(segment.have - inside, len(room) - done)
            if size <= 0:
                break
            got = os.preadv(self._file, [room[done : done + size]], segment.offset + inside)
            if got <= 0:
                break
            done += got
        return done

    def next_there(self, address: int) -> int:
        """Where the file has bytes again: nothing lies between."""
        index = max(0, bisect_right(self._starts, address) - 1)
        for segment in self._segments[index:]:
            if address < segment.start + segment.have:
                return max(address, segment.start)
        return 1 << 63

    def pagemap(self, address: int, pages: int) -> bytes | None:
        """A core file does not say what was in memory."""
        return None
