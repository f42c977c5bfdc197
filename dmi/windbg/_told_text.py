"""What other tools beside a debugger's heap commands tell of memory by name: SOS of .NET, VMMap,
the kernel's pools, the logs of UMDH. Each is read as a table of names and bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ._facts import Told, Unread
from ._frames import of_allocator

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["PART_OF_DUMPHEAP", "UNREAD_COMMANDS", "ToldReader"]

UNREAD_COMMANDS: Final = {
    "!vadump": "the ranges of the address space",
    "!memusage": "the machine's physical memory",
    "!process": "a process as the kernel sees it",
    "!vad": "the ranges of a process as the kernel sees them",
    "!pool": "a page of the kernel's pools",
    "!poolfind": "blocks of the kernel's pools",
    "!lfh": "the low-fragmentation heap of Windows XP",
    "!gchandles": "handles of .NET",
    "!objsize": "what an object of .NET holds",
    "!dumpobj": "an object of .NET",
    "!gcroot": "what holds an object of .NET",
    "!finalizequeue": "objects of .NET that wait for their finalizer",
    "!jsheap": "the heap of a script engine",
    "!avrf": "Application Verifier",
    "!mex.memory": "memory as MEX tells it",
    "!htrace": "handles and their stacks",
}
"""Commands that tell of memory and are named, not read: what each tells."""

_COUNT: Final = r"([0-9]{1,3}(?:[,.'\u00a0 ][0-9]{3}){1,6}|[0-9]{1,20})"
_EEHEAP: Final = re.compile(
    r"\W*(GC (?:Allocated |Committed )?Heap Size|Total LoaderHeap size|Total Committed Size"
    r"|Total Allocated Size):?\s+(?:Size:\s+)?"
    rf"0x[0-9a-fA-F]{{1,16}}\s?\({_COUNT}\)",
    re.IGNORECASE,
)
# A server has a heap for each processor, with sums of its own.
_GC_HEAPS: Final = re.compile(r"\W*Number of GC Heaps: ([0-9]{1,4})\b")
_GC_HEAP: Final = re.compile(
    rf"\W*(Allocated |Committed |)Heap Size:?\s+(?:Size:\s+)?0x[0-9a-fA-F]{{1,16}}\s?\({_COUNT}\)"
)
_EEHEAP_NAMES: Final = {
    "gc heap size": "GC heap, allocated",
    "gc allocated heap size": "GC heap, allocated",
    "gc committed heap size": "GC heap, committed",
    "total loaderheap size": "loader heaps",
}
_TOTALS: Final = {
    "!eeheap": (
        ("GC heap, committed", "committed"),
        ("GC heap, allocated", "allocated"),
        ("loader heaps", "in loader heaps"),
    ),
    "!vm": (("committed pages", "committed"),),
}
"""Of tools that print several figures: those that are a total, the best first."""
_HEAPSTAT_HEAD: Final = re.compile(r"\W*Heap\s+(Gen0\s+Gen1\s+Gen2\s+LOH(?:\s+[A-Z]{3})*)\s*$")
_HEAPSTAT_ROW: Final = re.compile(
    r"\s*(?:Heap([0-9]{1,4})|Total)((?:\s+[0-9][0-9,.]{0,26}){4,7})(?![0-9])"
)
_MADDRESS_HEAD: Final = re.compile(r"[\W_]*Memory (?:Type|Kind)\W+Count\W+Size\W+Size \(bytes\)")
_MADDRESS_ROW: Final = re.compile(
    r"[\s|+]*(\[TOTAL\]|[A-Za-z][\w ]{1,40}?)[\s|]+[0-9,.]{1,14}[\s|]+[0-9.,]{1,14}\s?[kmgt]?b"
    rf"[\s|]+{_COUNT}[\s|]*$"
)
_DUMPHEAP_HEAD: Final = re.compile(r"\W*MT\s+Count\s+TotalSize\s+Class Name", re.IGNORECASE)
_DUMPHEAP_ROW: Final = re.compile(
    rf"\s*(?:0x)?[0-9a-fA-F`]{{8,17}}\s+{_COUNT}\s+{_COUNT}\s+(\S.*)$"
)
_DUMPHEAP_TOTAL: Final = re.compile(rf"\W*Total {_COUNT} objects")
_DUMPHEAP_LIKE: Final = re.compile(
    r"\s*(?:0x)?[0-9a-fA-F`]{7,17}\b|.*\s[0-9,]{1,20}\s+[0-9,]{1,20}\s"
)
_MADDRESS_LIKE: Final = re.compile(r"[\s|+]*(?:\[TOTAL|[A-Za-z]).*[0-9]")
_POOL_LIKE: Final = re.compile(r"\s*\S{1,5}(?:\s+\w*[0-9]\w*){2}")
_VMMAP_TYPES: Final = (
    "Total", "Image", "Mapped File", "Shareable", "Heap", "Managed Heap", "Stack", "Private Data",
    "Page Table", "Unusable", "Free",
)  # fmt: skip
_VMMAP_HEAD: Final = re.compile(
    r"\W*Type\W+(?:Defined\W+)?Size\W+Committed\W+(?:Private\W+)?Total WS\b"
)
_VMMAP_ROW: Final = re.compile(rf'\W*({"|".join(_VMMAP_TYPES)})"?(?=[\s,;\t"])')
_VMMAP_CELL: Final = re.compile(
    r'"([^"]{0,24})"|([0-9]{1,3}(?:[,.\u00a0][0-9]{3})+|[0-9]+)|(?<=[,;\t])(?=[,;\t]|$)'
)
_POOL_HEAD: Final = re.compile(r"\W*Tag\s+Allocs\s+(?:Frees\s+Diff\s+)?Used\s+Allocs\s+")
_POOLMON_HEAD: Final = re.compile(r"\W*Tag\s+Type\s+Allocs\s+Frees\s+Diff\s+Bytes\b")
_POOLMON_ROW: Final = re.compile(
    r"\s*(\S.{3}|\S{1,4})\s+(?:Nonp|Paged)\s+[0-9]{1,15}(?:\s+\([^)]{0,16}\))?\s+[0-9]{1,15}"
    r"(?:\s+\([^)]{0,16}\))?\s+[0-9]{1,15}\s+([0-9]{1,18})\b"
)
_POOL_ROW: Final = re.compile(
    r"\s*(TOTAL|\S(?:.{0,2}\S)?)\s+([0-9]{1,15})\s+([0-9]{1,18})\s+([0-9]{1,15})\s+([0-9]{1,18})(?![0-9])"
)
_VM: Final = re.compile(
    r"\W*(Committed pages|NonPagedPool(?:Nx)? Usage|PagedPool Usage|CommitLimit):?\s+[0-9]{1,15}\s*"
    r"\(\s*([0-9]{1,15}) Kb\)",
    re.IGNORECASE,
)
_VM_PROCESS: Final = re.compile(
    r"\s{2,}([0-9a-fA-F]{2,8}) (\S.{0,40}?)\s+[0-9]{1,12}\s+\(\s*([0-9]{1,15}) Kb\)\s*$"
)
_UMDH_LOG: Final = re.compile(
    r"\s*([0-9a-fA-F]{1,16}) bytes (?:in 0x[0-9a-fA-F]{1,8} allocations|\+)\s?.{0,80}\bby:? "
    r"(BackTrace\w{1,20})"
)
_UMDH_HEAP: Final = re.compile(r"[\W]*Start of data for heap @ (?:0x)?([0-9a-fA-F`]{4,17})")
_UMDH_FRAME: Final = re.compile(
    r"\s*([\w.$?@-]{1,80}![^\s+]{1,120}(?: (?:new|delete)\b(?:\[\])?)?)"
)
_HEADS: Final = {
    "!maddress": _MADDRESS_HEAD,
    "!dumpheap": _DUMPHEAP_HEAD,
    "VMMap": _VMMAP_HEAD,
    "!poolused": _POOL_HEAD,
    "poolmon": _POOLMON_HEAD,
}
_MOST_UNREAD: Final = 1_000
PART_OF_DUMPHEAP: Final = "!dumpheap, a part"
_MOST_NAMES: Final = 20_000
_LONGEST_NAME: Final = 160


def _whole(digits: str) -> int:
    return int("".join(c for c in digits if c in "0123456789"))


@dataclass(slots=True)
class ToldReader:
    """Collects these tables, whichever a text holds."""

    count_row: Callable[[int], None]
    told: list[Told] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    label: str = ""

    _source: str = ""
    _line: int = 0
    _rows: dict[str, int] = field(default_factory=dict)
    _total: int | None = None
    _heaps: set[str] = field(default_factory=set)
    """Of a log of UMDH: one that comes again begins the next log."""
    _stack: str = ""
    _places: dict[str, str] = field(default_factory=dict)
    _objects: int = 0
    _filtered: bool = False
    """`!dumpheap` was asked for some of the objects only."""
    _generations: list[str] = field(default_factory=list)
    """The columns of `!heapstat`; empty below its table."""
    _of_free: str = ""
    _heap_rows: int = 0
    _gc_heaps: int = 0
    _gc_sums: dict[str, list[int]] = field(default_factory=dict)

    def close(self) -> None:
        """What was open ends here."""
        self._add_gc_heaps()
        if self._source and (self._rows or self._total is not None):
            rows = {
                f"{name} {self._places[name]}" if name in self._places else name: size
                for name, size in self._rows.items()
            }
            part = self._filtered and self._source == "!dumpheap"
            source = PART_OF_DUMPHEAP if part else self._source
            totals = {} if part else self._totals()
            self.told.append(Told(source, rows, totals, self.label, self._line))
        self._source, self._rows, self._total = "", {}, None
        self._heaps, self._stack, self._places, self._objects = set(), "", {}, 0
        self._generations, self._of_free, self._heap_rows = [], "", 0

    def _add_gc_heaps(self) -> None:
        """What the heaps of a server come to, where the text ends before their sum."""
        for word, sizes in self._gc_sums.items():
            if f"GC heap, {word}" in self._rows:
                continue
            whole = len(sizes) == self._gc_heaps
            self._rows[f"GC heap, {word}" if whole else f"GC heaps that are shown, {word}"] = sum(
                sizes
            )
            if not whole:
                shown = f"{len(sizes)} of {self._gc_heaps or 'an unknown number of'} heaps of .NET"
                self._miss(self._line, "", f"{shown} are shown, and no sum of what is {word}")
        self._gc_heaps, self._gc_sums = 0, {}

    def _totals(self) -> dict[str, int]:
        if self._source in _TOTALS:
            figures = _TOTALS[self._source]
            return {of: self._rows[name] for name, of in figures if name in self._rows}
        if self._source == "!heapstat":
            return {"total": sum(s for n, s in self._rows.items() if not n.startswith("free "))}
        return {"total": sum(self._rows.values()) if self._total is None else self._total}

    def asked(self, number: int, command: str) -> None:
        """A command whose rows may come without their header, or be of a part only."""
        word, *rest = command.lower().replace("\u2013", "-").split()
        if word.rpartition(".")[2].lstrip("!") != "dumpheap" or "-stat" not in rest:
            self._filtered = False
            return
        self._filtered = any(each != "-stat" for each in rest)
        self._open("!dumpheap", number)

    def _open(self, source: str, number: int) -> None:
        if self._source != source:
            self.close()
            self._source, self._line = source, number

    def _add(self, number: int, name: str, size: int) -> None:
        self.count_row(number)
        if len(self._rows) >= _MOST_NAMES and name not in self._rows:
            name = "(all other names)"
        self._rows[name] = self._rows.get(name, 0) + size

    def feed(self, number: int, text: str) -> bool:
        """Read a line; False when it is of none of these kinds."""
        return self._head(number, text) or self._inside(number, text) or self._alone(number, text)

    def _miss(self, number: int, text: str, why: str = "") -> bool:
        if len(self.unread) < _MOST_UNREAD:
            why = why or f"no row of {self._source}"
            self.unread.append(Unread(number, why, text.strip()[:80]))
        return True

    def _head(self, number: int, text: str) -> bool:
        for source, pattern in _HEADS.items():
            if pattern.match(text):
                self.close()
                self._open(source, number)
                return True
        return False

    def _inside(self, number: int, text: str) -> bool:
        """A row of the table whose header was seen."""
        if self._source == "!maddress":
            row = _MADDRESS_ROW.match(text)
            if row and row[1] == "[TOTAL]":
                self._total = _whole(row[2])
            elif row:
                self._add(number, row[1], _whole(row[2]))
            if row is None and _MADDRESS_LIKE.match(text):
                return self._miss(number, text)
            return row is not None
        if self._source == "!dumpheap":
            return self._dumpheap(number, text)
        if self._source == "!poolused":
            row = _POOL_ROW.match(text)
            size = int(row[3]) + int(row[5]) if row else 0
            if row and row[1] == "TOTAL":
                self._total = size
            elif row:
                self._add(number, f"pool tag {row[1]}", size)
            if row is None and _POOL_LIKE.match(text):
                return self._miss(number, text)
            return row is not None
        if self._source == "poolmon":
            row = _POOLMON_ROW.match(text)
            if row:
                self._add(number, f"pool tag {row[1].strip()}", int(row[2]))
            elif _POOL_LIKE.match(text):
                return self._miss(number, text)
            return row is not None
        return self._vmmap(number, text) if self._source == "VMMap" else False

    def _of_generations(self, number: int, text: str) -> bool:
        """`!heapstat` and `gcheapstat`: a row for each heap of .NET, their sum, then the same of
        what is free in them."""
        if "Gen0" in text and (head := _HEAPSTAT_HEAD.match(text)):
            if not self._of_free:
                self.close()
            self._open("!heapstat", number)
            self._generations, self._heap_rows = head[1].split(), 0
            return True
        if not self._generations:
            return False
        if text.strip().startswith("Free space:"):
            self._of_free, self._heap_rows = "free in ", 0
            return True
        row = _HEAPSTAT_ROW.match(text)
        if row is None:
            return False
        sizes = [_whole(cell) for cell in row[2].split()]
        if row[1] is None and self._heap_rows:
            return True  # the sum of the rows above
        self._heap_rows += 1
        for name, size in zip(self._generations, sizes, strict=False):
            self._add(number, f"{self._of_free}{name}", size)
        return True

    def _dumpheap(self, number: int, text: str) -> bool:
        row = _DUMPHEAP_ROW.match(text)
        if row:
            self._add(number, row[3].strip()[:_LONGEST_NAME], _whole(row[2]))
            self._objects += _whole(row[1])
            return True
        total = _DUMPHEAP_TOTAL.match(text)
        if total and _whole(total[1]) > self._objects:
            # -min, -max and -type leave types out, and so does a cut.
            return self._miss(number, text, f"the rows have {self._objects:,} objects")
        return total is not None or (
            _DUMPHEAP_LIKE.match(text) is not None and self._miss(number, text)
        )

    def _vmmap(self, number: int, text: str) -> bool:
        row = _VMMAP_ROW.match(text)
        if not row:
            return False
        cells = [m[1] if m[1] is not None else m[2] or ""
                 for m in _VMMAP_CELL.finditer(text, row.end())]  # fmt: skip
        if len(cells) < 2 or not any(c.isdigit() for c in cells[1]):
            # Free and unusable ranges have no commit.
            return row[1] in ("Free", "Unusable") or self._miss(number, text)
        size = _whole(cells[1]) << 10
        if row[1] == "Total":
            self._total = size
        elif row[1] not in ("Free", "Unusable"):
            self._add(number, row[1], size)
        return True

    def _alone(self, number: int, text: str) -> bool:
        """Lines that need no header above them."""
        if self._of_generations(number, text):
            return True
        if "GC Heaps:" in text and (found := _GC_HEAPS.match(text)):
            # Heaps of the loader stand above it.
            if self._gc_sums or self._rows.keys() - {"loader heaps"}:
                self.close()
            self._open("!eeheap", number)
            self._gc_heaps = int(found[1])
            return True
        if "Heap Size" in text and (found := _GC_HEAP.match(text)):
            self._open("!eeheap", number)
            self.count_row(number)
            word = found[1].strip().lower() or "allocated"
            self._gc_sums.setdefault(word, []).append(_whole(found[2]))
            return True
        if "ize" in text and (found := _EEHEAP.match(text)):
            name = _EEHEAP_NAMES.get(found[1].lower())
            self._open("!eeheap", number)
            if name is not None:
                self.count_row(number)
                self._rows[name] = _whole(found[2])
            return True
        if "eap Size" in text and text.strip()[:2] == "GC":
            return self._miss(number, text, "no line of !eeheap")
        if self._source == "!vm" and "Kb)" in text and (found := _VM_PROCESS.match(text)):
            self._add(number, f"process {found[2]} ({found[1]})", int(found[3]) << 10)
            return True
        if "Kb)" in text and (found := _VM.match(text)):
            self._open("!vm", number)
            self.count_row(number)
            self._rows[found[1].lower()] = int(found[2]) << 10
            return True
        if "heap @" in text and (found := _UMDH_HEAP.match(text)):
            if found[1] in self._heaps:
                self.close()
            self._open("UMDH", number)
            self._heaps.add(found[1])
            return True
        if "BackTrace" in text and (found := _UMDH_LOG.match(text)):
            self._open("UMDH", number)
            self._add(number, found[2], int(found[1], 16))
            self._stack = found[2]
            return True
        if self._stack and (found := _UMDH_FRAME.match(text)):
            # The first frame that is not the heap's own names the place.
            if not of_allocator(found[1]):
                self._places.setdefault(self._stack, found[1])
            return True
        return False
