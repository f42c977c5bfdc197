"""A core file, the kernel's or gcore's, read as a process.

Program headers say which addresses the file holds, its notes which files were mapped where and what
the registers were. Nothing that the file claims is believed before it is compared with the size of
the file.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from dmi import _names
from dmi._files import unpacks
from dmi.address._maps import elf_span
from dmi.errors import DmiError

from ._coretable import MOST_MAPPINGS, MappedFiles, Segment, Segments, Shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
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
_X86_64: Final = 62
_FS_BASE: Final = 112 + 21 * 8
"""Where x86-64 has the address of the thread's control block, in its status."""
_STACK_POINTER: Final = {62: 112 + 19 * 8, 183: 112 + 31 * 8}
_MAX_HEADERS: Final = 1 << 20
_MAX_NOTES: Final = 1 << 20
"""How many notes are looked at; each thread has up to seven."""
_MAX_NOTE: Final = 16 << 20
_MAX_SMALL_NOTE: Final = 1 << 16
_MOST_HOLES: Final = 64
_PIECE: Final = 1 << 20
"""Bytes of program headers that are read at once."""


class CoreError(DmiError, ValueError):
    """A file that is no core file which can be read."""


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
        self._unclaimed = 0
        """Bytes of the file that no program header has claimed: no two may have the same, else a
        small file were a memory without an end."""
        self._claimed_twice = 0
        self.threads: list[tuple[int, int]] = []
        self.control_blocks: dict[int, int] = {}
        """Of each thread by its stack pointer, as the registers say: what stands there may be
        missing in the file."""
        self._file = -1
        self._segments = Segments()
        self._files = MappedFiles()
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
        size = self._unclaimed = os.fstat(self._file).st_size
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
        step = max(1, _PIECE // entry)
        for number in range(0, count, step):
            size_here = entry * min(step, count - number)
            headers = os.pread(self._file, size_here, table + entry * number)
            for at in range(0, len(headers) - 55, entry):
                self._take(struct.unpack_from("<IIQQQQQQ", headers, at), size)
        self._segments.settle()
        self._files.settle()
        self._shown = Shown(self._segments, self._files)
        self._name_mappings()
        self._say_what_is_missing()

    def _take(self, header: tuple[int, ...], size: int) -> None:
        """One program header of a file of that size."""
        kind, flags, offset, start, _, filled, length, _ = header
        if kind == _PT_LOAD and length and start + length < 1 << 64:
            promised = min(filled, length)
            have = max(0, min(promised, size - offset))
            if have > self._unclaimed:
                self._claimed_twice += have - self._unclaimed
                have = promised = self._unclaimed
            self._unclaimed -= have
            self._segments.add(Segment(start, start + length, offset, have, promised, flags))
        elif kind == _PT_NOTE and offset < size:
            self._read_notes(offset, min(offset + filled, size))

    def _say_what_is_missing(self) -> None:
        """Pages of files that nobody wrote to are left out as a rule: their files have them."""
        if self._shown.left_out:
            self.notes.append(
                f"it has {self._shown.left_out + MOST_MAPPINGS:,} mappings, of which the "
                f"{MOST_MAPPINGS:,} largest are looked at; the others have "
                f"{self._shown.left_bytes >> 10:,} KB"
            )
        if self._claimed_twice:
            self.notes.append(
                f"its program headers claim bytes that others have: {self._claimed_twice >> 10:,} "
                "KB are not looked at"
            )
        said = self._list(
            (each.start + each.have, each.promised - each.have)
            for each in self._segments
            if each.promised > each.have
        )
        if said:
            self.notes.append(f"the file is cut off: {said[0]:,} KB of it are missing: {said[1]}")
        said = self._list(
            (each.start, each.end - each.start)
            for each in self._segments
            if not each.promised and each.flags & 2
        )
        if said:
            self.notes.append(
                f"{said[0]:,} KB of writable memory were left out when it was written "
                f"(coredump_filter): {said[1]}"
            )

    def _list(self, spans: Iterable[tuple[int, int]]) -> tuple[int, str] | None:
        """KB of the mappings in all, and their names, the largest first; None: there are none."""
        count = total = 0
        largest: list[tuple[int, int]] = []
        for start, size in spans:
            count += 1
            total += size
            if len(largest) < _MOST_NAMED or size > largest[-1][1]:
                largest = sorted([*largest, (start, size)], key=lambda each: -each[1])
                del largest[_MOST_NAMED:]
        named = []
        for start, size in largest:
            name = self._name_of(start) or "anonymous"
            named.append(f"{start:x}-{start + size:x} {size >> 10:,} KB {name}")
        more = count - len(named)
        text = ", ".join(named) + (f", and {more} more" if more else "")
        return (total >> 10, text) if count else None

    def _name_mappings(self) -> None:
        """Find the brk heap, the stack and the vdso, which a core file does not name: the heap is
        the first that nobody named behind the program, the others are where the kernel put words
        for it."""
        for key, name in ((_AT_RANDOM, "[stack]"), (_AT_SYSINFO_EHDR, "[vdso]")):
            found = self._segments.at(self._auxv.get(key, 0))
            if found is not None:
                self._names[found.start] = name
        program = self._files.at(self._auxv.get(_AT_ENTRY, 0))
        if program is None:
            return
        last = max(each.end for each in self._files if each.name == program.name)
        if last > _MMAP_BASE:
            return
        for segment in self._segments:
            if segment.start < last or not segment.flags & 2:
                continue
            # What follows at once is the zero-filled data of the program.
            if segment.start == last:
                last = segment.end
                continue
            if segment.start < _MMAP_BASE and self._files.at(segment.start) is None:
                self._names[segment.start] = "[heap]"
            return

    def _name_of(self, address: int) -> str:
        file = self._files.at(address)
        if file is not None:
            return file.name
        index = self._segments.before(address)
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
            again = (kind == _NT_FILE and len(self._files)) or (kind == _NT_AUXV and self._auxv)
            if name == b"CORE" and kind in _READ and size <= most and not again:
                self._read_note(kind, os.pread(self._file, size, start))
            at = start + (size + 3 & ~3)

    def _read_note(self, kind: int, data: bytes) -> None:
        pointer = _STACK_POINTER[self._machine]
        if kind == _NT_PRSTATUS and len(data) >= pointer + 8:
            (thread,) = struct.unpack_from("<I", data, 32)
            where = struct.unpack_from("<Q", data, pointer)[0]
            self.threads.append((thread, where))
            if self._machine == _X86_64 and len(data) >= _FS_BASE + 8:
                (self.control_blocks[where],) = struct.unpack_from("<Q", data, _FS_BASE)
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
            at = 16 + 24 * count
            for start, end, offset in struct.iter_unpack("<QQQ", data[16:at]):
                stop = data.find(b"\0", at)
                if stop < 0:
                    break
                if start < end:
                    name = data[at:stop].decode("utf-8", "surrogateescape")
                    _names.note(name)
                    self._files.add(start, end, offset * unit, name)
                at = stop + 1

    # ---- what the kernel would say ---------------------------------------------------------------

    def maps(self, *, details: bool = True) -> str:
        """The mappings as /proc/PID/maps has them, as far as the file tells."""
        return "".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for start, end, flags in self._shown:
            perms = "".join(c if flags & bit else "-" for c, bit in (("r", 4), ("w", 2), ("x", 1)))
            file = self._files.at(start)
            name = "" if file is None else file.name
            offset = 0 if file is None else file.offset + start - file.start
            inode = 1 if name else 0
            name = name or self._names.get(start, "")
            shown = name.replace("\n", "\\012")
            yield f"{start:x}-{end:x} {perms}p {offset:08x} 00:00 {inode} {shown}\n"

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
        for segment in self._segments.behind(max(0, self._segments.before(address))):
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
        if not self._has(address, size):
            return None
        room = bytearray(size)
        return bytes(room) if self.read_into(address, memoryview(room)) == size else None

    def _has(self, address: int, size: int) -> bool:
        """Whether the file has all of it: no room is taken for what it only claims."""
        if not 0 <= size <= 1 << 30:
            return False
        at, end = address, address + size
        while at < end:
            _, have = self._segments.place(at)
            if not have:
                return False
            at += have
        return True

    def read_into(self, address: int, room: memoryview) -> int:
        """Fill room from address on; how many bytes were there, from the first one on."""
        done = 0
        while done < len(room):
            offset, have = self._segments.place(address + done)
            size = min(have, len(room) - done)
            if size <= 0:
                break
            got = os.preadv(self._file, [room[done : done + size]], offset)
            if got <= 0:
                break
            done += got
        return done

    def next_there(self, address: int) -> int:
        """Where the file may have bytes again: between lies nothing, or zeros that are a hole in
        it."""
        looks = _MOST_HOLES
        for start, begin, have in self._segments.parts(max(0, self._segments.before(address))):
            at = max(address, start)
            if not looks:
                return at
            looks -= 1
            if at >= start + have:
                continue
            offset = begin + at - start
            try:
                at += os.lseek(self._file, offset, os.SEEK_DATA) - offset
            except OSError as error:
                if error.errno != errno.ENXIO:
                    return at
                continue
            if at < start + have:
                return at
        return 1 << 63

    def pagemap(self, address: int, pages: int) -> bytes | None:
        """A core file does not say what was in memory."""
        return None
