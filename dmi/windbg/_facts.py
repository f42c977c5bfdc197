"""What debuggers say of heaps beside the rows of the NT heap: segment heaps, single heaps, blocks
by size, leaks, comparisons of UMDH; and what stands around it: notices, marks, lines not read.

Sizes are in bytes. None means that the text does not say, which is not the same as 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "SMALLEST_VIRTUAL_BLOCK",
    "AskedBlock",
    "BlockList",
    "HeapFacts",
    "Mark",
    "Notice",
    "SizeRow",
    "SizeTable",
    "Told",
    "Trace",
    "TraceTable",
    "Unread",
]

SMALLEST_VIRTUAL_BLOCK: Final = {32: 508 << 10, 64: 1020 << 10}
"""Bytes that a block has at least before an NT heap maps it on its own, by bits of the process: the
documented limit of a heap of fixed size (slightly less than 512 KB and 1,024 KB)."""


@dataclass(frozen=True, slots=True)
class HeapFacts:
    """A heap outside a `!heap -s` table of NT heaps, as far as the text tells of it."""

    handle: int
    source: Literal["segment", "detail", "segments", "regions", "listing"]
    """A table of segment heaps, `!heap -s ADDRESS`, the segments that -h, -f, -a and -v list, the
    regions of `!address` that name their heap, or a list of heaps without figures."""
    flags: int | None = None
    reserved: int | None = None
    committed: int | None = None
    virtual: int | None = None
    free: int | None = None
    list_length: int | None = None
    uncommitted_ranges: int | None = None
    virtual_blocks: int | None = None
    virtual_bytes: int | None = None
    lock_contention: int | None = None
    line: int = field(default=0, compare=False)

    @property
    def busy(self) -> int | None:
        """Committed - free, where both are known."""
        if self.committed is None or self.free is None or self.free > self.committed:
            return None
        return self.committed - self.free

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: getattr(self, name) for name in self.__slots__} | {"busy": self.busy}


@dataclass(frozen=True, slots=True)
class SizeRow:
    """Blocks of one size."""

    size: int
    count: int
    total: int
    percent: str | None = None
    """Of all busy bytes, as the text printed it."""


@dataclass(frozen=True, slots=True)
class SizeTable:
    """`!heap -stat -h`: the sizes that hold most. Only as many as the debugger was asked for."""

    handle: int
    rows: tuple[SizeRow, ...]
    label: str = ""
    line: int = field(default=0, compare=False)

    @property
    def busy(self) -> int | None:
        """All busy bytes, worked out from the row that holds most; None where it says nothing."""
        best = max(self.rows, key=lambda row: row.total, default=None)
        if best is None or best.percent is None or float(best.percent) < 1:
            return None
        return round(100 * best.total / float(best.percent))


@dataclass(frozen=True, slots=True)
class BlockList:
    """Single blocks: of `!heap -flt`, of -srch, of -h, -hl, -a and -x, or of -l, which thinks them
    leaked."""

    command: Literal["flt", "found", "entries", "leaked"]
    handle: int | None
    blocks: int
    bytes: int | None
    """Of the blocks that are listed; None where their sizes are not."""
    stated: int | None = None
    """How many there are by the debugger's own count, which may be more than it listed."""
    line: int = field(default=0, compare=False)
    holds: tuple[tuple[str, int], ...] = ()
    """What the debugger recognised in the blocks, a class by its table of functions, and in how
    many of them; the most frequent first."""


@dataclass(frozen=True, slots=True)
class AskedBlock:
    """A block that `!heap -p -a` or `!heap -i` was asked for."""

    address: int
    handle: int | None = None
    size: int | None = None
    """What was asked for when it was allocated; None where the text does not say."""
    state: str = ""
    """busy, free, or empty where the text does not say."""
    stack: tuple[str, ...] = ()
    """Who allocated or freed it last, where the debugger knew."""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Told:
    """Bytes by name as another tool tells them: `!eeheap`, `!dumpheap -stat` and `!maddress` of
    SOS, VMMap, `!poolused` and `!vm` of a kernel debugger, a log of UMDH."""

    source: str
    rows: Mapping[str, int]
    totals: Mapping[str, int]
    """Bytes in all, by what was counted, the best figure first: not every version of a tool prints
    each. Empty: the text does not say."""
    label: str = ""
    line: int = field(default=0, compare=False)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Trace:
    """A stack of a UMDH comparison and what its blocks gained, in bytes."""

    gained: int
    new: int | None
    old: int | None
    allocations: int | None
    name: str
    stack: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TraceTable:
    """A comparison by UMDH: two moments in one table."""

    traces: tuple[Trace, ...]
    total: int | None = None
    """Total increase, as printed; None when the text has none."""
    label: str = ""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that the debugger or the program says is wrong, or a setting worth to know."""

    kind: Literal["corruption", "leaks", "alarm", "setting", "note", "command"]
    """alarm: what the kernel says that it ran short of; command: one whose output is not read."""
    text: str
    line: int = 0


@dataclass(frozen=True, slots=True)
class Mark:
    """A line that says which moment, process or run what follows is of."""

    kind: Literal["run", "dump", "time", "uptime", "system", "prompt", "reference", "key"]
    value: str
    line: int
    number: float | None = None
    """Seconds: since 1970 for time, since the start of the process for uptime."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A line that looks as if it held figures and could not be read."""

    line: int
    why: str
    text: str
    handle: int | None = None

    def __str__(self) -> str:
        said = f": {self.text!r}" if self.text else ""
        return f"line {self.line}: {self.why}{said}"
