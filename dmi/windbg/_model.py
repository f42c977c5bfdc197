"""What WinDbg's ``!heap -s`` and ``!address -summary`` say, as data.

Every derived figure is recomputed from the columns, never taken from the text; what the text
printed is kept beside it, so that the two can be compared. All classes are immutable and safe to
share between threads.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from dmi._tables import frame, html_table

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import pandas

    from ._facts import (
        AskedBlock,
        BlockList,
        HeapFacts,
        Mark,
        Notice,
        SizeTable,
        Told,
        TraceTable,
        Unread,
    )

__all__ = [
    "CUT_OFFS",
    "FREE_STATE",
    "FREE_TYPE",
    "FREE_USAGE",
    "AddressSummary",
    "CutOffs",
    "HeapRow",
    "HeapTable",
    "Log",
    "ParseError",
    "PrintedLine",
    "PrintedPercent",
    "Region",
    "percent",
]

# How the three tables of `!address -summary` spell free address space.
FREE_USAGE: Final = "Free"
FREE_TYPE: Final = "<free>"
FREE_STATE: Final = "MEM_FREE"

DerivedKind = Literal["external", "virtual", "contention"]


class ParseError(ValueError):
    """A text that cannot be read without losing data. ``line`` counts from 1; 0 means the whole."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(f"line {line}: {message}" if line else message)
        self.line = line


def percent(part: int, whole: int) -> str:
    """``part`` of ``whole`` as `!address` prints it: two decimals, rounded half up, at least five
    characters (``05.63``). A whole of 0 gives ``00.00``."""
    hundredths = (20_000 * part + whole) // (2 * whole) if whole > 0 else 0
    return f"{hundredths // 100:02d}.{hundredths % 100:02d}"


@dataclass(frozen=True, slots=True)
class CutOffs:
    """When `!heap -s` prints its derived lines. Each is a strict lower limit.

    All are inferred from public dumps, and the samples this project tests agree. For lock
    contention a public dump shows no line at 0x34 and others show one in the millions; the value in
    between is this project's choice. External fragmentation is printed from 1,264 KB of commit on,
    and is not at 144, 616 and 832.
    """

    percent_over: int = 10
    list_length_over: int = 10
    uncommitted_ranges_over: int = 32
    lock_contention_over: int = 1000
    committed_kib_over: int = 1024
    """For external fragmentation."""


CUT_OFFS: Final = CutOffs()


@dataclass(frozen=True, slots=True)
class HeapRow:
    """One row of `!heap -s`. Sizes are in KiB, as printed."""

    handle: int
    flags: int
    reserved_kib: int
    committed_kib: int
    virtual_kib: int
    free_kib: int
    list_length: int
    uncommitted_ranges: int
    virtual_blocks: int
    lock_contention: int | None
    """Contended acquisitions (hexadecimal in the column); None where WinDbg prints N/A."""
    fast_heap: str = ""
    """``L`` or ``LFH`` when the low-fragmentation heap is active, else empty."""

    @property
    def busy_kib(self) -> int:
        """Commit - Free."""
        return self.committed_kib - self.free_kib

    @property
    def busy(self) -> int:
        """Busy bytes."""
        return self.busy_kib * 1024

    @property
    def committed(self) -> int:
        """Committed bytes."""
        return self.committed_kib * 1024

    @property
    def mean_free_block(self) -> int | None:
        """Mean size of a free block in bytes, rounded down; None without free blocks."""
        return self.free_kib * 1024 // self.list_length if self.list_length else None

    @property
    def external_fragmentation(self) -> int:
        """floor(100 * Free / Commit), whether or not `!heap -s` would print it."""
        return 100 * self.free_kib // self.committed_kib if self.committed_kib else 0

    @property
    def virtual_address_fragmentation(self) -> int:
        """floor(100 * (Virt - Commit) / Virt), at least 0, whether or not it would be printed."""
        gap = max(0, self.virtual_kib - self.committed_kib)
        return 100 * gap // self.virtual_kib if self.virtual_kib else 0

    def derived(self, cut_offs: CutOffs = CUT_OFFS) -> tuple[PrintedLine, ...]:
        """The lines that `!heap -s` prints under this row, recomputed from the columns."""
        lines: list[PrintedLine] = []
        external, virtual = self.external_fragmentation, self.virtual_address_fragmentation
        if (
            external > cut_offs.percent_over
            and self.list_length > cut_offs.list_length_over
            and self.committed_kib > cut_offs.committed_kib_over
        ):
            lines.append(PrintedLine(self.handle, "external", external, self.list_length))
        if (
            virtual > cut_offs.percent_over
            and self.uncommitted_ranges > cut_offs.uncommitted_ranges_over
        ):
            lines.append(PrintedLine(self.handle, "virtual", virtual, self.uncommitted_ranges))
        if (
            self.lock_contention is not None
            and self.lock_contention > cut_offs.lock_contention_over
        ):
            lines.append(PrintedLine(self.handle, "contention", self.lock_contention))
        return tuple(lines)

    def as_dict(self) -> dict[str, Any]:
        """Columns and derived figures, byte values under the names of the statistics."""
        return {
            "handle": self.handle,
            "flags": self.flags,
            "reserved": self.reserved_kib * 1024,
            "committed": self.committed,
            "virtual": self.virtual_kib * 1024,
            "free": self.free_kib * 1024,
            "busy": self.busy,
            "list_length": self.list_length,
            "uncommitted_ranges": self.uncommitted_ranges,
            "virtual_blocks": self.virtual_blocks,
            "lock_contention": self.lock_contention,
            "fast_heap": self.fast_heap,
            "mean_free_block": self.mean_free_block,
            "external_fragmentation": self.external_fragmentation,
            "virtual_address_fragmentation": self.virtual_address_fragmentation,
        }


@dataclass(frozen=True, slots=True)
class PrintedLine:
    """A derived line under a row: per cent and blocks or ranges, or the lock contention."""

    handle: int
    kind: DerivedKind
    value: int
    count: int | None = None

    def __str__(self) -> str:
        if self.kind == "external":
            return f"External fragmentation {self.value} % ({self.count} free blocks)"
        if self.kind == "virtual":
            # The debugger's own spelling, kept in its format only.
            return f"Virtual address fragmentation {self.value} % ({self.count} uncommited ranges)"
        return f"Lock contention {self.value}"


@dataclass(frozen=True, slots=True)
class HeapTable:
    """One `!heap -s` output: rows, and the derived lines as the text printed them."""

    rows: tuple[HeapRow, ...]
    printed: tuple[PrintedLine, ...] = ()
    lfh_key: int | None = None
    label: str = ""
    """The title that stood before the table, without its colon; empty when there was none."""
    line: int = field(default=0, compare=False)
    """Where the table's header stands in the text, counted from 1."""
    bits: int | None = field(default=None, compare=False)
    """64 where handles are written with more than eight digits, else 32; None without rows."""
    whole: bool = field(default=True, compare=False)
    """The table has its header and its last rule, and nothing in it was left out or not read."""
    headed: bool = field(default=True, compare=False)
    """It has its header; without one the columns were taken in the debugger's order."""

    def derived(self, cut_offs: CutOffs = CUT_OFFS) -> tuple[PrintedLine, ...]:
        """All derived lines recomputed, in the order of the rows."""
        return tuple(line for row in self.rows for line in row.derived(cut_offs))

    def disagreements(self, cut_offs: CutOffs = CUT_OFFS) -> tuple[str, ...]:
        """How the printed lines differ from the recomputed ones; empty when they agree.

        The debugger divides bytes, of which the columns are whole KiB: a printed line may be a
        point off where the quotient is close to one. A text without any such line says nothing.
        """
        wanted, found = self.derived(cut_offs), self.printed
        rows = {row.handle: row for row in self.rows}
        near = [line for line in found if line not in wanted and self._near(rows, line, cut_offs)]
        same = {(line.handle, line.kind) for line in near}
        missing = tuple(
            f"not printed: {line}"
            for line in wanted
            if found and line not in found and (line.handle, line.kind) not in same
        )
        return missing + tuple(
            f"not recomputed: {line}" for line in found if line not in wanted and line not in near
        )

    @staticmethod
    def _near(rows: Mapping[int, HeapRow], line: PrintedLine, cut_offs: CutOffs) -> bool:
        row = rows.get(line.handle)
        if row is None or line.kind == "contention":
            return False
        if line.kind == "external":
            part, whole, count = row.free_kib, row.committed_kib, row.list_length
        else:
            part, whole = max(0, row.virtual_kib - row.committed_kib), row.virtual_kib
            count = row.uncommitted_ranges
        if not whole or count != line.count or line.value <= cut_offs.percent_over:
            return False
        tenths = 1000 * part // whole
        return line.value in (tenths // 10, (tenths + 1) // 10, (tenths - 1) // 10)


@dataclass(frozen=True, slots=True)
class Region:
    """A range of addresses of one process: what it is for, what backs it, and its state."""

    start: int
    size: int
    usage: str
    type: str
    protect: str
    committed: int
    """Bytes counted as MEM_COMMIT; the rest of ``size`` is MEM_RESERVE."""
    name: str = ""
    """Path or kernel name of the mapping, as the system reports it."""
    resident: int | None = None
    """Bytes in physical memory, scaled to the range where a mapping was split; None if unknown."""
    memory: int | None = None
    """Resident and swapped bytes without those freed lazily and without clean pages of files,
    scaled likewise; None if unknown."""

    @property
    def end(self) -> int:
        """First address behind the range."""
        return self.start + self.size

    @property
    def state(self) -> str:
        """MEM_COMMIT when any byte of it is, else MEM_RESERVE."""
        return "MEM_COMMIT" if self.committed else "MEM_RESERVE"


@dataclass(frozen=True, slots=True)
class PrintedPercent:
    """The figures of one `!address -summary` row as the text printed them."""

    table: str
    name: str
    size: int
    of_total: str | None = None
    of_busy: str | None = None
    kib: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class AddressSummary:
    """`!address -summary`: the address space by usage, by type and by state. All sizes in bytes.

    ``usage``, ``type`` and ``state`` each contain the free space (``Free``, ``<free>``,
    ``MEM_FREE``) and each sum to ``total``. Usage names stand without WinDbg's ``RegionUsage``.
    The mappings are plain dicts for the sake of JSON and pickle: treat them as read-only.
    """

    usage: Mapping[str, int]
    type: Mapping[str, int]
    state: Mapping[str, int]
    total: int
    protect: Mapping[str, int] = field(default_factory=dict)
    """Committed bytes by protection; newer format only, empty when not known."""
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Number of regions: table (usage, type, state, protect) -> name -> count."""
    largest: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Largest region by usage: name -> (base address, bytes)."""
    label: str = ""
    regions: tuple[Region, ...] = field(default=(), compare=False, repr=False)
    """The ranges themselves; empty for a summary that was read from text."""
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What could not be told, in plain words."""
    printed: tuple[PrintedPercent, ...] = field(default=(), compare=False, repr=False)
    printed_busy: int | None = field(default=None, compare=False)
    line: int = field(default=0, compare=False)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        label = f" {self.label!r}" if self.label else ""
        sizes = f"{self.busy:,} bytes not free, {self.committed:,} committed"
        return f"<dmi.AddressSummary{label}: {sizes}>"

    @property
    def free(self) -> int:
        """Address space that nothing has reserved."""
        return self.usage.get(FREE_USAGE, self.state.get(FREE_STATE, 0))

    @property
    def busy(self) -> int:
        """Total - free."""
        return self.total - self.free

    @property
    def committed(self) -> int:
        """MEM_COMMIT."""
        return self.state.get("MEM_COMMIT", 0)

    def _identities(self) -> Iterator[tuple[str, int, int]]:
        for name, table in (("usage", self.usage), ("type", self.type), ("state", self.state)):
            if table:
                yield f"sum of {name} = total", sum(table.values()), self.total
        if self.state:
            commit, reserve = self.committed, self.state.get("MEM_RESERVE", 0)
            yield "MEM_COMMIT + MEM_RESERVE = busy", commit + reserve, self.busy
        if self.type:
            kinds = sum(self.type.get(k, 0) for k in ("MEM_IMAGE", "MEM_MAPPED", "MEM_PRIVATE"))
            yield "MEM_IMAGE + MEM_MAPPED + MEM_PRIVATE = busy", kinds, self.busy
        if self.protect and self.state:
            yield "sum of protect = MEM_COMMIT", sum(self.protect.values()), self.committed
        if self.printed_busy is not None:
            yield "printed busy = total - free", self.printed_busy, self.busy

    def disagreements(self) -> tuple[str, ...]:
        """Identities that do not hold and printed figures that differ; empty when all is well."""
        wrong = [
            f"{what}: {left} and {right}"
            for what, left, right in self._identities()
            if left != right
        ]
        for row in self.printed:
            busy = 0 if row.name in (FREE_USAGE, FREE_TYPE, FREE_STATE) else row.size
            for printed, expected in (
                (row.of_total, percent(row.size, self.total)),
                (row.of_busy, percent(busy, self.busy)),
            ):
                if printed is not None and printed.zfill(5) != expected:
                    wrong.append(f"{row.table} {row.name}: printed {printed} %, is {expected} %")
            if row.kib is not None and row.kib != row.size // 1024:
                wrong.append(f"{row.table} {row.name}: printed {row.kib} KB, is {row.size // 1024}")
        return tuple(wrong)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: usage, type, state and protect (name -> bytes), total, busy, free, notes."""
        return {
            "total": self.total,
            "busy": self.busy,
            "free": self.free,
            "usage": dict(self.usage),
            "type": dict(self.type),
            "state": dict(self.state),
            "protect": dict(self.protect),
            "notes": list(self.notes),
        }

    def frame(self) -> pandas.DataFrame:
        """A row a region; of a summary that was read from text, which has none, a row a usage.
        ImportError without pandas."""
        if self.regions:
            return frame([asdict(region) for region in self.regions])
        return frame([{"usage": name, "size": size} for name, size in self.usage.items()])

    def _repr_html_(self) -> str:
        made = ""
        for name, table in (
            ("usage", self.usage),
            ("type", self.type),
            ("state", self.state),
            ("protect", self.protect),
        ):
            counts = self.counts.get(name, {})
            rows = [(key, counts.get(key), size) for key, size in table.items()]
            if rows:
                made += html_table(f"By {name}", ("", "regions", "bytes"), rows)
        return made


@dataclass(frozen=True, slots=True)
class Log:
    """What a debugger log holds, each kind in the order of the text."""

    heaps: tuple[HeapTable, ...] = ()
    addresses: tuple[AddressSummary, ...] = ()
    facts: tuple[HeapFacts, ...] = ()
    sizes: tuple[SizeTable, ...] = ()
    blocks: tuple[BlockList, ...] = ()
    traces: tuple[TraceTable, ...] = ()
    notices: tuple[Notice, ...] = field(default=(), compare=False)
    marks: tuple[Mark, ...] = field(default=(), compare=False)
    unread: tuple[Unread, ...] = field(default=(), compare=False)
    """Lines that look like figures and were not read; what they said is missing everywhere else."""
    asked: tuple[AskedBlock, ...] = ()
    told: tuple[Told, ...] = ()

    __hash__ = None  # type: ignore[assignment]
