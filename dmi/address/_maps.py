"""What the kernel says about a process: its mappings, its threads' stack pointers, its memory.

``Source`` is the seam: the attribution asks nothing else, so tests can hand it any process.
"""

from __future__ import annotations

import os
import re
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from dmi import _names
from dmi._files import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

__all__ = ["Mapping", "ProcSource", "Source", "elf_span", "parse_maps"]

_HEADER: Final = re.compile(
    r"([0-9a-f]{1,16})-([0-9a-f]{1,16}) ([r-][w-][x-][ps]) ([0-9a-f]+) "
    r"([0-9a-f]+:[0-9a-f]+) ([0-9]+)(?:\s+(\S.*))?\s*$"
)
_PAGE_PRESENT: Final = 1 << 63
_PT_LOAD: Final = 1
_MAX_HEADERS: Final = 256


# Files that lie in memory: their pages cannot go back to a disk.
_POOL_OF_HUGE_PAGES: Final = "/anon_hugepage"
NO_DISK = ("/memfd:", "/dev/shm/", "/dev/zero", "/SYSV", "/anon_hugepage", "/run/shm/")


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of /proc/PID/maps, with what smaps adds to it. Sizes in bytes."""

    start: int
    end: int
    perms: str
    offset: int = 0
    inode: int = 0
    name: str = ""
    resident: int | None = None
    swapped: int | None = None
    flags: frozenset[str] = frozenset()
    anonymous: int | None = None
    """What of resident is no clean copy of a file."""
    lazy: int | None = None
    """What of resident was freed lazily: the kernel takes it when it wants to."""
    clean: int | None = None
    """What of resident the kernel can drop: it stands in a file as it is."""
    huge: int | None = None
    """What of resident lies on huge pages."""
    pss: int | None = None
    """What of resident is its own, with its part of what it shares."""
    hugetlb: int | None = None
    """Pages from the pool of huge pages, which resident does not count."""

    @property
    def size(self) -> int:
        return self.end - self.start

    @property
    def inaccessible(self) -> bool:
        """PROT_NONE: reserved address space."""
        return self.perms.startswith("---")

    @property
    def shared(self) -> bool:
        return self.perms[3] == "s"

    @property
    def has_file(self) -> bool:
        # Memory from the pool of huge pages looks like a file that was deleted.
        named = self.inode != 0 or self.name.startswith("/")
        return named and not self.name.startswith(_POOL_OF_HUGE_PAGES)

    @property
    def memory(self) -> int | None:
        """Bytes that the mapping costs: resident and swapped, without what was freed lazily and
        without clean pages of files; None where the source does not tell."""
        held = self.resident
        if self.has_file and not self.name.startswith(NO_DISK):
            held = self.anonymous
        if held is None:
            return None
        return max(0, held - (self.lazy or 0)) + (self.swapped or 0)

    @property
    def plain(self) -> bool:
        """Private anonymous memory that can be written and that the kernel has no name for, or one
        that glibc gave it, which does not say whose heap or stack it is."""
        named = self.name and not self.name.startswith(("[anon: glibc:", _POOL_OF_HUGE_PAGES))
        return self.perms[:2] == "rw" and not (self.shared or self.has_file or named)


_SIZES: Final = {
    "Rss": "resident",
    "Swap": "swapped",
    "Anonymous": "anonymous",
    "LazyFree": "lazy",
    "Shared_Clean": "clean",
    "Private_Clean": "clean",
    "AnonHugePages": "huge",
    "ShmemPmdMapped": "huge",
    "FilePmdMapped": "huge",
    "Pss": "pss",
    "Shared_Hugetlb": "hugetlb",
    "Private_Hugetlb": "hugetlb",
}
"""What smaps calls it, and what it is here; those of one name are added up."""


def parse_maps(text: str) -> list[Mapping]:
    """Mappings of a maps or smaps text, in its order; lines of neither kind are skipped."""
    found: list[Mapping] = []
    header: re.Match[str] | None = None
    sizes: dict[str, int] = {}
    flags: frozenset[str] = frozenset()

    def flush() -> None:
        if header is not None:
            if header[7] and header[7][0] != "[":
                _names.note(header[7])
            found.append(
                Mapping(
                    int(header[1], 16), int(header[2], 16), header[3], int(header[4], 16),
                    int(header[6]), header[7] or "", flags=flags, **sizes,
                )
            )  # fmt: skip

    for line in _lines(text):
        key, _, value = line.partition(":")
        name = _SIZES.get(key)
        if name is not None:
            size = _kib(value)
            if size is not None:
                sizes[name] = sizes.get(name, 0) + size
        elif key == "VmFlags":
            flags = frozenset(value.split())
        elif "-" in key:
            match = _HEADER.match(line)
            if match:
                flush()
                header, flags, sizes = match, frozenset(), {}
    flush()
    return found


def _lines(text: str) -> Iterator[str]:
    """One after the other: that of a process with very many mappings is long."""
    at = 0
    while (end := text.find("\n", at)) >= 0:
        yield text[at:end]
        at = end + 1
    yield text[at:]


def _kib(value: str) -> int | None:
    number = value.split()[:1]
    return int(number[0]) * 1024 if number and number[0].isascii() and number[0].isdigit() else None


def elf_span(path: str, page: int) -> int | None:
    """Bytes from the first to the last loaded byte of a 64-bit ELF file, whole pages, zero-filled
    part included; None when it is not such a file or cannot be read."""
    with suppress(OSError, struct.error), open_regular(path) as file:
        head = file.read(64)
        if head[:6] != b"\x7fELF\x02\x01":
            return None
        table, entry, count = (
            *struct.unpack_from("<Q", head, 32),
            *struct.unpack_from("<HH", head, 54),
        )
        if entry < 56 or count > _MAX_HEADERS:
            return None
        file.seek(table)
        headers = file.read(entry * count)
        spans: list[tuple[int, int]] = [
            (address, address + size)
            for kind, address, size in (
                (*struct.unpack_from("<I", headers, i), *struct.unpack_from("<Q", headers, i + 16),
                 *struct.unpack_from("<Q", headers, i + 40))
                for i in range(0, entry * count, entry)
            )
            if kind == _PT_LOAD
        ]  # fmt: skip
        if spans:
            first = min(start for start, _ in spans) // page * page
            last = -(-max(end for _, end in spans) // page) * page
            return last - first
    return None


class Source(Protocol):
    """A process as the attribution sees it."""

    page: int
    """Page size in bytes."""

    def maps(self) -> str:
        """Text of smaps, or of maps where smaps may not be read."""

    def read(self, address: int, size: int) -> bytes | None:
        """``size`` bytes at ``address``; None when they cannot be read."""

    def present(self, address: int, pages: int) -> Sequence[bool] | None:
        """Which of ``pages`` pages are in physical memory; None when that is unknown."""

    def stack_pointers(self) -> list[int]:
        """Of the threads that are not running just now."""

    def elf_span(self, path: str) -> int | None:
        """As the function of that name, in the process's file system."""


class ProcSource:
    """A process of this machine, through /proc. A context manager; not for use by two threads."""

    def __init__(self, pid: int | None) -> None:
        self.pid = os.getpid() if pid is None else pid
        self.own = self.pid == os.getpid()
        self.page = os.sysconf("SC_PAGE_SIZE")
        self._root = Path("/proc") / str(self.pid)
        self._memory = self._pagemap = -1

    def __enter__(self) -> ProcSource:
        with suppress(OSError):
            self._memory = os.open(self._root / "mem", os.O_RDONLY | os.O_CLOEXEC)
        with suppress(OSError):
            self._pagemap = os.open(self._root / "pagemap", os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for descriptor in (self._memory, self._pagemap):
            if descriptor >= 0:
                os.close(descriptor)
        self._memory = self._pagemap = -1

    def maps(self, *, details: bool = True) -> str:
        """Text of smaps; of maps where smaps may not be read, or without ``details``."""
        if not self._root.is_dir():
            raise ProcessLookupError(f"no process {self.pid}")
        try:
            text = self._text("smaps" if details else "maps")
        except OSError:
            text = self._text("maps")
        if not text:
            raise ProcessLookupError(
                f"process {self.pid} has no address space: it is ending, or a kernel thread"
            )
        return text

    def _text(self, name: str) -> str:
        return (self._root / name).read_bytes().decode("utf-8", "surrogateescape")

    def read(self, address: int, size: int) -> bytes | None:
        if self._memory < 0:
            return None
        try:
            data = os.pread(self._memory, size, address)
        except (OSError, OverflowError):
            return None
        return data if len(data) == size else None

    def marks(self, address: int, pages: int) -> bytes | None:
        """The kernel's word of 8 bytes on each page; None when that is unknown."""
        if self._pagemap < 0:
            return None
        try:
            data = os.pread(self._pagemap, 8 * pages, address // self.page * 8)
        except (OSError, OverflowError):
            return None
        return data if len(data) == 8 * pages else None

    def present(self, address: int, pages: int) -> Sequence[bool] | None:
        data = self.marks(address, pages)
        if data is None:
            return None
        return [bool(word & _PAGE_PRESENT) for (word,) in struct.iter_unpack("<Q", data)]

    def stack_pointers(self) -> list[int]:
        found: list[int] = []
        with suppress(OSError):
            for task in (self._root / "task").iterdir():
                with suppress(OSError, ValueError):
                    fields = (task / "syscall").read_text().split()
                    if len(fields) >= 3:
                        found.append(int(fields[-2], 16))
        return found

    def elf_span(self, path: str) -> int | None:
        return elf_span(path if self.own else f"{self._root}/root{path}", self.page)
