"""A process that runs on, read through /proc. Nothing is stopped and nothing is written."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Final

from dmi import _names
from dmi.address._maps import ProcSource

from ._rights import refused, status

__all__ = ["LiveReader"]

_BLOCKS: Final = 16 << 10
"""From so many bytes on it is what blocks lie in: pools, runs."""


class LiveReader(ProcSource):
    """What ProcSource reads, and the memory itself in pieces, with the kernel's word on which
    pages are there. The pid is in the namespace of the caller. A context manager; for one
    thread."""

    stands_still = False
    what = "process"

    def __init__(self, pid: int | None = None, *, swap_in: bool = False) -> None:
        super().__init__(pid)
        self.swap_in = swap_in
        self._left = False
        self.notes: list[str] = []
        self._denied = ""
        self.what = f"process {self.pid}"

    def __enter__(self) -> LiveReader:
        if not self._root.is_dir():
            raise ProcessLookupError(f"no process {self.pid}")
        super().__enter__()
        if self._memory < 0 or not self._may_read():
            self._denied = "its memory may not be read"
        _names.note(self.program)
        # Where nothing is in swap there is no need to ask of each page.
        self._left = not self.swap_in and status(self.pid).get("VmSwap", 1) > 0
        return self

    def close(self) -> None:
        """Let go of the files of /proc."""
        self.__exit__(None, None, None)

    def _may_read(self) -> bool:
        """A file of /proc may open and give nothing."""
        with suppress(OSError):
            for line in self.maps(details=False).split("\n"):
                span, _, rest = line.partition(" ")
                if rest[:1] == "r" and "[v" not in rest:
                    return self.read(int(span.partition("-")[0], 16), 8) is not None
        return False

    @property
    def denied(self) -> str:
        """Why its memory cannot be read; empty where it can."""
        return self._denied

    @property
    def namespace_pid(self) -> int:
        """The number that the process has in its own namespace."""
        with suppress(OSError, ValueError, IndexError):
            for line in (self._root / "status").read_text().split("\n"):
                if line.startswith("NSpid:"):
                    return int(line.split()[-1])
        return self.pid

    @property
    def program(self) -> str:
        """The name of the program, as the system has it."""
        with suppress(OSError):
            return (self._root / "comm").read_bytes().decode("utf-8", "replace").rstrip("\n")
        return ""

    def maps(self, *, details: bool = True) -> str:
        """As ProcSource. PermissionError names the right that is missing, and what is known."""
        try:
            return super().maps(details=details)
        except PermissionError:
            raise PermissionError(refused(self.pid)) from None

    def read(self, address: int, size: int) -> bytes | None:
        """As ProcSource. Blocks that are in swap are not read, unless that was asked for; the small
        structs that lead to them are, for nothing is found without."""
        if self._left and size >= _BLOCKS and self._in_swap(address, size):
            return None
        return super().read(address, size)

    def _in_swap(self, address: int, size: int) -> bool:
        first = address // self.page * self.page
        gone = self.gone_from_memory(first, -(-(address + size - first) // self.page))
        return bool(gone)

    def read_into(self, address: int, room: memoryview) -> int:
        """Fill room from address on; how many bytes were there, from the first one on."""
        if self._memory < 0:
            return 0
        try:
            return os.preadv(self._memory, [room], address)
        except (OSError, OverflowError):
            return 0

    def next_there(self, address: int) -> int:
        """Where memory that can be read may go on."""
        return address

    def pagemap(self, address: int, pages: int) -> bytes | None:
        """8 bytes a page, bit 63: in memory. None: unknown, and where swap is to be read."""
        if self._pagemap < 0 or self.swap_in:
            return None
        try:
            data = os.pread(self._pagemap, 8 * pages, address // self.page * 8)
        except (OSError, OverflowError):
            return None
        return data if len(data) == 8 * pages else None

    def gone_from_memory(self, address: int, pages: int) -> int | None:
        """Pages of the range that are in swap; None: unknown."""
        if self._pagemap < 0:
            return None
        try:
            data = os.pread(self._pagemap, 8 * pages, address // self.page * 8)
        except (OSError, OverflowError):
            return None
        return sum(byte >> 6 & 1 for byte in data[7::8])
