"""The threads of a process and whose stack a mapping is.

The kernel tells the stack pointer of a thread that waits; a core file tells it of all. Of one that
runs glibc tells: its control block, at the end of the stack, holds the thread's number.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from dmi._names import note
from dmi.address._attribute import control_block

if TYPE_CHECKING:
    from collections.abc import Iterable

    from dmi.address._maps import Mapping, Source

__all__ = ["Stacks", "Thread", "threads_of"]

_TID: Final = 0x2D0
"""From the control block to the thread's number, in glibc on x86-64."""
_NAMED: Final = re.compile(r"\[anon: glibc: pthread(?: user)? stack: ([0-9]+)\]$")


class Thread(NamedTuple):
    """A thread: its number, its name, its stack pointer or 0."""

    number: int
    name: str
    pointer: int


class Stacks:
    """Whose stack each is."""

    def __init__(self, source: Source, main: int, threads: Iterable[Thread]) -> None:
        self._source = source
        self._main = main
        self._names = {thread.number: thread.name for thread in threads}
        self._pointers = sorted((t.pointer, t.number) for t in threads if t.pointer)

    def owner(self, mapping: Mapping, start: int, end: int) -> str:
        """A name for the stack in [start, end)."""
        if mapping.name.startswith("[stack"):
            return self._title(self._main)
        named = _NAMED.match(mapping.name)
        if named:
            return self._title(int(named[1]))
        index = bisect_right(self._pointers, (start, -1))
        if index < len(self._pointers) and self._pointers[index][0] < end:
            return self._title(self._pointers[index][1])
        block = 0 if mapping.inaccessible else control_block(self._source, start, end)
        data = self._source.read(block + _TID, 4) if block else None
        number = struct.unpack("<i", data)[0] if data else 0
        return self._title(number) if number in self._names else "stacks of ended threads"

    def _title(self, number: int) -> str:
        name = self._names.get(number, "")
        return f"stack of thread {number}" + (f" ({name})" if name else "")


def threads_of(source: Source) -> list[Thread]:
    """The threads of a live process, or of a core file."""
    known: list[tuple[int, int]] | None = getattr(source, "threads", None)
    if known is not None:
        return [Thread(number, "", pointer) for number, pointer in known]
    found: list[Thread] = []
    number = getattr(source, "pid", 0)
    with suppress(OSError):
        for task in Path(f"/proc/{number}/task").iterdir():
            name, pointer = "", 0
            with suppress(OSError, ValueError):
                name = (task / "comm").read_bytes().decode("utf-8", "replace").rstrip("\n")
                note(name)
                fields = (task / "syscall").read_text().split()
                pointer = int(fields[-2], 16) if len(fields) >= 3 else 0
            with suppress(ValueError):
                found.append(Thread(int(task.name), name, pointer))
    return found
