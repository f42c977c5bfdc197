"""What `!heap` prints of single heaps and blocks, and what UMDH prints, line by line."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from ._facts import BlockList, HeapFacts, SizeRow, SizeTable, Trace, TraceTable, Unread
from ._heap_text import cells, handle_number, is_handle, segment_row

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["BlockReader", "address_of"]

_STAT_HEAP: Final = re.compile(r"\W*(?:_HEAP|heap) @ (?:0x)?([0-9a-fA-F`]{5,17})\s*$")
_STAT_HEAD: Final = re.compile(r"\W*size\s+#blocks\s+total\b")
_STAT_ROW: Final = re.compile(
    r"\W*([0-9a-fA-F]{1,16})\s+([0-9a-fA-F]{1,16})\s*-\s*([0-9a-fA-F]{1,16})\s+"
    r"\(\s*([0-9]{1,3}[.,][0-9]{1,2})\s*\)(?:\s.*)?$"
)
# Scripts and newer tools print the share with a percent sign, and numbers with 0x.
_STAT_SHARE: Final = re.compile(
    r"\W*(?:0x)?([0-9a-fA-F]{1,16})\s+(?:0x)?([0-9a-fA-F]{1,16})\s+(?:-\s*)?(?:0x)?([0-9a-fA-F]{1,16})"
    r"\s+\(?\s*([0-9]{1,3}(?:[.,][0-9]{1,2})?)\s?%\s*\)?\s*$"
)
_STAT_LIKE: Final = re.compile(
    r"\W*[0-9a-fA-F]{1,16}\s+[0-9a-fA-F]{1,16}\s*-\s*[0-9a-fA-F]{1,16}\b"
)
_STAT_LIKELY: Final = re.compile(r"\s*(?:(?:0x)?[0-9a-fA-F]{1,16}\s+){2}(?:0x)?[0-9a-fA-F]{1,16}\b")
"""Below the header of such a table; elsewhere it may be anything."""

_DETAIL_HEAP: Final = re.compile(
    r"\W*(?:[0-9]{1,4}:\s*)?(?:Heap (?:at )?|_HEAP )(?:0x)?([0-9a-fA-F`]{7,17})\s*$"
)
_INDEX: Final = re.compile(r"\s*([0-9]{1,4}):\s+(?:0x)?([0-9a-fA-F`]{6,17})\s*$")
_TYPED: Final = re.compile(r"\s*(?:0x)?([0-9a-fA-F`]{6,17})\s+(NT|Segment) Heap\s*$")
_SEGMENT: Final = re.compile(
    r"\W*Segment(?:[0-9]+)? at ([0-9a-fA-F`]{5,17}) to ([0-9a-fA-F`]{5,17})"
    r"\s*\(([0-9a-fA-F]{1,16}) bytes committed\)"
)
_KIB: Final = r"([0-9][0-9,.]{0,18})"
_DETAILS: Final[tuple[tuple[re.Pattern[str], str, int], ...]] = tuple(
    (re.compile(pattern, re.IGNORECASE), name, unit)
    for pattern, name, unit in (
        (rf"\W*Reserved memory in segments\s+{_KIB} \(k\)", "reserved", 1024),
        (rf"\W*Commit+ed memory in segments\s+{_KIB} \(k\)", "committed", 1024),
        (rf"\W*Virtual bytes.{{0,60}}?\s{_KIB} \(k\)", "virtual", 1024),
        (rf"\W*Free space\s+{_KIB} \(k\)", "free", 1024),
        (r"\W*Free space\s+[0-9,.]+ \(k\) \(([0-9]{1,16}) blocks\)", "list_length", 1),
        (r"\W*External fragmentation.*\(([0-9]{1,16}) free blocks\)", "list_length", 1),
        (
            r"\W*Virtual address fragmentation.*\(([0-9]{1,16}) uncommitt?ed",
            "uncommitted_ranges",
            1,
        ),
        (r"\W*Virtual blocks\s+([0-9]{1,16})\b", "virtual_blocks", 1),
        (rf"\W*Virtual blocks\s+[0-9]+ - total {_KIB} KBytes", "virtual_bytes", 1024),
        (r"\W*Lock contention:?\s+([0-9]{1,16})\s*$", "lock_contention", 1),
        (rf"\W*Reserved\s+[0-9a-f`]{{1,17}}\s+\({_KIB} KB\)", "reserved", 1024),
        (rf"\W*Committed\s+[0-9a-f`]{{1,17}}\s+\({_KIB} KB\)", "committed", 1024),
        (rf"\W*Free\s+[0-9a-f`]{{1,17}}\s+\({_KIB} KB\)\s*$", "free", 1024),
    )
)
_HEX_DETAILS: Final = tuple(
    (re.compile(rf"\W*{words}\s+([0-9a-fA-F`]{{1,17}})\s*$"), name)
    for words, name in (
        ("Reserved +bytes", "reserved"),
        ("Committed +bytes", "committed"),
        ("VirtAllocBlocks", "virtual_blocks"),
        ("VirtAlloc +bytes", "virtual_bytes"),
    )
)
"""Of `!heap -stat` without -h, as debuggers before Windows 10 print it."""
_FLAGS: Final = re.compile(r"\W*Flags:?\s+([0-9a-fA-F]{1,8})\b")
_GRANULARITY: Final = re.compile(r"\W*Granularity:\s+([0-9]{1,3}) bytes")
_TOTAL_FREE: Final = re.compile(r"\W*Total Free Size:\s+([0-9a-fA-F]{1,16})\s*$")

_ENTRY: Final = re.compile(
    r"\W*([0-9a-fA-F`]{6,17})\s+[0-9a-fA-F]{4,16}\s+[0-9a-fA-F]{4,16}\s+\[[0-9a-fA-F]{2,4}\]\s+"
    r"[0-9a-fA-F`]{6,17}\s+([0-9a-fA-F]{1,16})\s+-\s+\((busy|free)"
)
_ENTRY_COLONS: Final = re.compile(
    r"\W*([0-9a-fA-F`]{6,17}):\s+[0-9a-fA-F]{4,16}\s+:\s+[0-9a-fA-F]{4,16}\s+\[[0-9a-fA-F]{2,4}\]"
    r"\s+-\s+[0-9a-fA-F`]{6,17}\s+\(([0-9a-fA-F]{1,16})\)\s+-\s+\((busy|free)"
)
"""As debuggers before 6.10 wrote an entry, and as `!heap -srch` still does."""
_ENTRY_LIKE: Final = re.compile(
    r"\W*[0-9a-fA-F`]{6,17}:?\s+\S{1,16}\s+.{0,40}\[[0-9a-fA-F]{1,4}\].{0,60}\((?:busy|free)"
)
_ENTRY_HEAD: Final = re.compile(r"\W*(?:in )?HEAP_?ENTRY:? +Size\b.*\bUserPtr\b")
_HOLDS: Final = re.compile(r"\s+(\w[\w.]{0,60}!\S.{0,120})$")
_MOST_CLASSES: Final = 1_000
_LFH_ENTRY: Final = re.compile(
    r"\s+[0-9a-fA-F`]{6,17}: ([0-9a-fA-F]{5,8}) - (busy|free)(?: \([0-9a-fA-F]{1,8}\))?\s*$"
)
_ENTRY_OLD: Final = re.compile(
    r"\W*([0-9a-fA-F`]{6,17}): [0-9a-fA-F]{5,8} \. ([0-9a-fA-F]{5,8}) \[[0-9a-fA-F]{2,4}\]"
    r" - (busy|free)"
)
_PAGE_BLOCK: Final = re.compile(
    r"\s*[0-9a-fA-F`]{5,17}:\s+[0-9a-fA-F`]{5,17}\s+([0-9a-fA-F]{1,16})\s+[-\u2013\u2014]\s+"
    r"[0-9a-fA-F`]{5,17}\s+[0-9a-fA-F]{1,16}\s*$"
)
"""A busy block of a page heap, as `!heap -p -a` prints it: what was asked for, and its pages."""
_LEAK_HEAD: Final = re.compile(
    r"\W*Entry\s+User\s+Heap\s+Segment\s+Size\s+PrevSize\s+(?:Unused\s+)?Flags"
)
_LEAK_ROW: Final = re.compile(
    r"\W*(?:[0-9a-fA-F`]{6,17}\s+){2}([0-9a-fA-F`]{6,17})\s+[0-9a-fA-F`]{6,17}\s+"
    r"([0-9a-fA-F]{1,16})\s+(?:[0-9a-fA-F]{1,16}|-)\s+(?:[0-9a-fA-F]{1,16}\s+)?(?:[A-Z]{2,8};)?"
    r"(busy|free)"
)
_LEAK_COUNT: Final = re.compile(
    r"\W*([0-9][0-9,]{0,15}) (?:potential unreachable blocks were|leaks) detected"
)

_UMDH: Final = re.compile(
    r"\s*([+-])\s*([0-9a-fA-F,]{1,20})\s+\(\s*([0-9a-fA-F,]{1,20})\s*-\s*([0-9a-fA-F,]{1,20})\s*\)"
    r"\s*([0-9a-fA-F,]{1,16}) allocs\s+(BackTrace\w{1,20})"
)
_UMDH_LIKE: Final = re.compile(r"\s*[+-]\s*[0-9a-fA-F,]{1,20}\s+\(.{0,60}BackTrace")
_UMDH_COUNT: Final = re.compile(
    r"\s*[+-]\s*[0-9a-fA-F,]+\s+\(.{0,60}\)\s*BackTrace\w+\s+allocations"
)
_UMDH_TOTAL: Final = re.compile(r"\W*Total (increase|decrease)\s*=+\s*([0-9a-fA-F,]{1,20})")
_FRAME: Final = re.compile(r"\s*([\w.$?@-]{1,80}!\S.{0,300})$")
_MOST_FRAMES: Final = 64


def _whole(digits: str) -> int:
    return int("".join(c for c in digits if c in "0123456789"))


def address_of(digits: str) -> int:
    """As the debugger writes it."""
    return int(digits.replace("`", "") or "0", 16)


@dataclass(slots=True)
class _Stack:
    gained: int
    new: int
    old: int
    allocations: int
    name: str
    stack: list[str] = field(default_factory=list)


@dataclass(slots=True)
class BlockReader:
    """Collects whatever of these a text holds."""

    count_row: Callable[[int], None]
    facts: list[HeapFacts] = field(default_factory=list)
    sizes: list[SizeTable] = field(default_factory=list)
    blocks: list[BlockList] = field(default_factory=list)
    traces: list[TraceTable] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)

    _detail: dict[str, int] = field(default_factory=dict)
    _detail_line: int = 0
    _segments: int | None = None
    _free_units: int | None = None
    _granularity: int | None = None
    _size_heap: int | None = None
    _size_line: int = 0
    _size_of_blocks: bool = False
    _size_headed: bool = False
    _size_rows: list[SizeRow] = field(default_factory=list)
    _entries: dict[str, list[int]] = field(default_factory=dict)
    _entries_line: int = 0
    _stated: int | None = None
    _listed_heap: int | None = None
    _leaking: set[int | None] = field(default_factory=set)
    """Heaps whose blocks `!heap -l` lists: one list has those of all heaps."""
    _in_leaks: str = ""
    _in_entries: bool = False
    """The header of a list of entries has been seen: what stands below an entry tells of it."""
    _holds: Counter[str] = field(default_factory=Counter)
    _last_busy: bool = False
    _searched: str = ""
    """The command whose blocks stand last in the list."""
    _in_segments: bool = False
    _wrapped: tuple[str, int] | None = None
    """A row of a segment heap that the next line may continue."""
    _stacks: list[_Stack] = field(default_factory=list)
    _stacks_line: int = 0
    _total: int | None = None
    label: str = ""
    command: str = ""
    """The command whose output this is, where the text shows it."""

    # -- the end of something -----------------------------------------------------------------

    def close(self) -> None:
        """What was open ends here."""
        self._close_detail()
        self._close_sizes()
        self._close_entries()
        self._close_stacks()
        self._in_segments = False
        self._wrapped = None

    def _close_detail(self) -> None:
        values, self._detail = self._detail, {}
        handle = values.pop("handle", None)
        segments, self._segments = self._segments, None
        units, self._free_units = self._free_units, None
        granularity, self._granularity = self._granularity, None
        if handle is None:
            return
        if segments is not None:
            free = None if units is None or granularity is None else units * granularity
            values.setdefault("committed", segments)
            if free is not None and free <= segments:
                values.setdefault("free", free)
            self.facts.append(HeapFacts(handle, "segments", **values, line=self._detail_line))
        elif values.keys() - {"flags"}:
            self.facts.append(HeapFacts(handle, "detail", **values, line=self._detail_line))
        else:
            self.facts.append(HeapFacts(handle, "listing", **values, line=self._detail_line))

    def _close_sizes(self) -> None:
        if self._size_heap is not None and self._size_rows:
            rows = tuple(self._size_rows)
            self.sizes.append(SizeTable(self._size_heap, rows, self.label, self._size_line))
        self._size_heap, self._size_rows, self._size_of_blocks = None, [], False
        self._size_headed = False

    def _close_entries(self) -> None:
        for command, sizes in self._entries.items():
            kind = {"l": "leaked", "flt": "flt", "srch": "found"}.get(command, "entries")
            stated = self._stated if command == "l" else None
            several = command == "l" and len(self._leaking) > 1
            self._list(
                BlockList(
                    kind,  # type: ignore[arg-type]
                    None if several else self._listed_heap, len(sizes), sum(sizes), stated,
                    self._entries_line,
                    tuple(self._holds.most_common(_MOST_CLASSES))
                    if command in ("flt", "srch") else (),
                )
            )  # fmt: skip
        if self._stated is not None and "l" not in self._entries:
            self.blocks.append(BlockList("leaked", None, 0, None, self._stated, self._entries_line))
        self._entries, self._stated, self._listed_heap, self._in_leaks = {}, None, None, ""
        self._leaking, self._in_entries, self._holds = set(), False, Counter()

    def _list(self, listed: BlockList) -> None:
        """`!heap -srch` names its heap anew before each block that it found."""
        last = self.blocks[-1] if self.blocks else None
        if (
            last is not None
            and listed.command == last.command == "found"
            and listed.handle == last.handle
            and self._searched == self.command
        ):
            holds = Counter(dict(last.holds)) + Counter(dict(listed.holds))
            self.blocks[-1] = replace(
                last, blocks=last.blocks + listed.blocks,
                bytes=(last.bytes or 0) + (listed.bytes or 0), holds=tuple(holds.most_common()),
            )  # fmt: skip
        else:
            self.blocks.append(listed)
        self._searched = self.command

    def _close_stacks(self) -> None:
        if self._stacks:
            traces = tuple(
                Trace(s.gained, s.new, s.old, s.allocations, s.name, tuple(s.stack))
                for s in self._stacks
            )
            self.traces.append(TraceTable(traces, self._total, self.label, self._stacks_line))
        self._stacks, self._total = [], None

    # -- one line -----------------------------------------------------------------------------

    def feed(self, number: int, text: str) -> bool:
        """Read a line; False when it is of none of these kinds."""
        return (
            self._sizes_line(number, text)
            or self._segment_heap(number, text)
            or self._detail_text(number, text)
            or self._entry(number, text)
            or self._umdh(number, text)
        )

    def begin_segment_heaps(self) -> None:
        """The header of a table of segment heaps has been seen."""
        self.close()
        self._in_segments = True

    def _segment_heap(self, number: int, text: str) -> bool:
        if not self._in_segments:
            return False
        if self._wrapped is not None:
            begun, line = self._wrapped
            self._wrapped = None
            for way in (begun + text.lstrip(), f"{begun} {text}"):
                row = segment_row(cells(way), line)
                if row is not None:
                    if self.facts and self.facts[-1].line == line:
                        self.facts.pop()
                    if self.unread and self.unread[-1].line == line:
                        self.unread.pop()
                    self.facts.append(row)
                    return True
        tokens = cells(text)
        row = segment_row(tokens, number)
        if row is not None:
            self.count_row(number)
            self.facts.append(row)
            # A wrap may have parted the digits of its last number.
            self._wrapped = (text, number) if text[-1:].isdigit() else None
            return True
        if tokens and tokens[0].lower() in ("heap", "index", "global"):
            return True
        if tokens and is_handle(tokens[0], digits=7):
            self._wrapped = (text, number)
            self.unread.append(
                Unread(number, "no row of a segment heap", text.strip()[:80],
                       handle_number(tokens[0]))
            )  # fmt: skip
            return True
        return False

    def _sizes_line(self, number: int, text: str) -> bool:
        found = _STAT_HEAP.match(text)
        if found:
            self.close()
            self._size_heap, self._size_line = address_of(found[1]), number
            self._listed_heap = self._size_heap
            return True
        if self._size_heap is None:
            return False
        if _STAT_HEAD.match(text) or text.lstrip().startswith("group-by:"):
            # -grp B prints what share of all blocks a row has, not of their bytes.
            self._size_of_blocks = self._size_of_blocks or "blocks)" in text
            self._size_headed = True
            return True
        row = _STAT_ROW.match(text) or _STAT_SHARE.match(text)
        if row:
            self.count_row(number)
            size, count, total = (int(row[n], 16) for n in (1, 2, 3))
            share = None if self._size_of_blocks else row[4].replace(",", ".")
            self._size_rows.append(SizeRow(size, count, total, share))
            return True
        if _STAT_LIKE.match(text) or (self._size_headed and _STAT_LIKELY.match(text)):
            self.unread.append(
                Unread(number, "no row of -stat", text.strip()[:80], self._size_heap)
            )
            return True
        return False

    def _detail_text(self, number: int, text: str) -> bool:
        heap = _DETAIL_HEAP.match(text)
        index = _INDEX.match(text)
        typed = _TYPED.match(text)
        if heap or index or typed:
            self.close()
            digits = heap[1] if heap else index[2] if index else typed[1] if typed else ""
            self._detail, self._detail_line = {"handle": address_of(digits)}, number
            return True
        if not self._detail:
            return False
        segment = _SEGMENT.match(text)
        if segment:
            self._segments = (self._segments or 0) + int(segment[3], 16)
            return True
        for pattern, target in ((_TOTAL_FREE, "free"), (_GRANULARITY, "unit")):
            found = pattern.match(text)
            if found and target == "free":
                self._free_units = int(found[1], 16)
            elif found:
                self._granularity = int(found[1])
            if found:
                return True
        for pattern, name in _HEX_DETAILS:
            found = pattern.match(text)
            if found:
                self._detail.setdefault(name, address_of(found[1]))
                return True
        flags = _FLAGS.match(text)
        if flags:
            self._detail.setdefault("flags", int(flags[1], 16))
            return True
        seen = False
        for pattern, name, unit in _DETAILS:
            found = pattern.match(text)
            if found:
                self._detail.setdefault(name, _whole(found[1]) * unit)
                seen = True
        return seen

    def _entry(self, number: int, text: str) -> bool:
        if _LEAK_HEAD.match(text):
            # `!heap -x` prints the same columns of a block that was asked for.
            self._in_leaks = "l" if not self.command or " -l" in self.command else "h"
            return True
        stated = _LEAK_COUNT.match(text)
        if stated:
            self._stated = _whole(stated[1])
            self._entries_line = self._entries_line or number
            return True
        leak = _LEAK_ROW.match(text) if self._in_leaks else None
        if leak:
            self._listed(number, self._in_leaks, int(leak[2], 16), address_of(leak[1]))
            return True
        if _ENTRY_HEAD.match(text):
            self._in_entries, self._last_busy = True, False
            return True
        entry = _ENTRY.match(text) or _ENTRY_COLONS.match(text)
        if entry:
            self._last_busy = entry[3] == "busy"
            if self._last_busy:
                command = "srch" if "-srch" in self.command.lower() else "flt"
                self._listed(number, command, int(entry[2], 16), self._listed_heap)
            return True
        if self._in_entries and self._last_busy and (holds := _HOLDS.match(text)):
            # Only the first line below an entry tells of it.
            self._last_busy = False
            if len(self._holds) < _MOST_CLASSES or holds[1] in self._holds:
                self._holds[holds[1].strip()] += 1
            return True
        if _ENTRY_LIKE.match(text):
            self.unread.append(Unread(number, "no entry of a heap", text.strip()[:80]))
            return True
        low = _LFH_ENTRY.match(text) if self._detail or "h" in self._entries else None
        if low:
            if low[2] == "busy":
                self._listed(number, "h", int(low[1], 16), self._detail.get("handle"))
            return True
        page = _PAGE_BLOCK.match(text)
        if page:
            self._listed(number, "h", int(page[1], 16), None)
            return True
        old = _ENTRY_OLD.match(text)
        if old:
            if old[3] == "busy":
                self._listed(number, "h", int(old[2], 16), self._detail.get("handle"))
            return True
        return False

    def _listed(self, number: int, command: str, size: int, heap: int | None) -> None:
        self.count_row(number)
        if not self._entries:
            self._entries_line = number
        self._entries.setdefault(command, []).append(size)
        if command == "l":
            self._leaking.add(heap)
        self._listed_heap = heap if self._listed_heap is None else self._listed_heap

    def _umdh(self, number: int, text: str) -> bool:
        found = _UMDH.match(text)
        if found:
            self.count_row(number)
            sign = -1 if found[1] == "-" else 1
            numbers = [digits.replace(",", "") for digits in found.group(2, 3, 4, 5)]
            base = _base(*numbers[:3])
            if not self._stacks:
                self._stacks_line = number
            try:
                gained, new, old, count = (int(digits, base) for digits in numbers)
            except ValueError:
                self.unread.append(Unread(number, "no line of UMDH", text.strip()[:80]))
                return True
            self._stacks.append(_Stack(sign * gained, new, old, count, found[6]))
            return True
        total = _UMDH_TOTAL.match(text)
        if total and self._stacks:
            digits = total[2].replace(",", "")
            wanted = sum(s.gained for s in self._stacks)
            base = 16 if _same(digits, 16, abs(wanted)) else 10
            with_sign = -1 if total[1] == "decrease" else 1
            try:
                self._total = with_sign * int(digits, base)
            except ValueError:
                self.unread.append(Unread(number, "no total of UMDH", text.strip()[:80]))
            return True
        if _UMDH_COUNT.match(text):
            return True
        if _UMDH_LIKE.match(text):
            self.unread.append(Unread(number, "no line of UMDH", text.strip()[:80]))
            return True
        frame = _FRAME.match(text) if self._stacks else None
        if frame:
            stack = self._stacks[-1].stack
            if len(stack) < _MOST_FRAMES:
                stack.append(frame[1].strip())
            return True
        return False


def _same(digits: str, base: int, value: int) -> bool:
    try:
        return int(digits, base) == value
    except ValueError:
        return False


def _base(gained: str, new: str, old: str) -> int:
    """UMDH prints hexadecimal numbers, or decimal ones with -d: the difference tells which."""
    try:
        if abs(int(new, 10) - int(old, 10)) == int(gained, 10):
            return 10
    except ValueError:
        return 16
    return 16
