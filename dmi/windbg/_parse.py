"""Reads WinDbg console text: `!heap -s` tables and `!address -summary` outputs among other lines.

One pass over the lines, each looked at a bounded number of times, so that time is linear in the
text and memory is bounded by the caps below. Text outside tables is skipped. Inside a table, a line
that begins like a row and cannot be read as one is an error: skipping it would lose data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ._model import (
    FREE_TYPE,
    FREE_USAGE,
    AddressSummary,
    HeapRow,
    HeapTable,
    Log,
    ParseError,
    PrintedLine,
    PrintedPercent,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MAX_LINE", "MAX_ROWS", "MAX_TABLES", "parse"]

MAX_LINE: Final = 1024
"""Characters of a line that are looked at; a row that is longer is an error."""
MAX_ROWS: Final = 200_000
"""Rows of all tables together."""
MAX_TABLES: Final = 10_000

_MAX_LABEL: Final = 80
_HEADER: Final = [
    "Heap", "Flags", "Reserv", "Commit", "Virt", "Free", "List", "UCR", "Virt", "Lock", "Fast",
]  # fmt: skip
_NUMBERS: Final = ("Reserv", "Commit", "Virt", "Free", "List length", "UCR", "Virt blocks")
_ELISIONS: Final = frozenset({"[...]", "[…]", "...", "…"})
_DASHES: Final = "-\u2013\u2014"  # copies through a word processor turn them into long dashes

_PROMPT: Final = re.compile(r"\s*(?:[0-9]{1,3}:[0-9]{1,5}(?::\w{1,8})?|(?:[0-9]+: )?l?kd)>\s*(.*)")
_COMMENT: Final = re.compile(r"(?:\.echo\s+|\*+\s*|\$\$\s*)(\S.*)")
_LFH_KEY: Final = re.compile(r"\s*LFH Key\s*:\s*(?:0x)?([0-9a-fA-F]{1,16})\s*$")
_HEX_START: Final = re.compile(r"[0-9a-fA-F]{8,16}")
_FLAGS: Final = re.compile(r"[0-9a-fA-F]{1,8}")
_DECIMAL: Final = re.compile(r"[0-9]{1,16}")
_HEX: Final = re.compile(r"[0-9a-fA-F]{1,16}")
_FAST: Final = re.compile(r"[A-Za-z]{1,8}")
_EXTERNAL: Final = re.compile(
    r"\s*External fragmentation\s+([0-9]{1,20})\s*%\s*\(([0-9]{1,16}) free blocks\)\s*$"
)
_VIRTUAL: Final = re.compile(
    r"\s*Virtual address fragmentation\s+([0-9]{1,20})\s*%\s*"
    r"\(([0-9]{1,16}) uncommitt?ed ranges\)\s*$"
)
_CONTENTION: Final = re.compile(r"\s*Lock contention\s+([0-9]{1,20})\s*$")

_OLD_START: Final = re.compile(r"\s*[0-9a-fA-F]{1,20}\s*\(\s*[0-9]")
_OLD_ROW: Final = re.compile(
    r"\s*([0-9a-fA-F]{1,16})\s*\(\s*([0-9]{1,16})(?:\s*KB)?\s*\)\s*:"
    r"\s*([0-9]{1,3}\.[0-9]{2})%(?:\s+([0-9]{1,3}\.[0-9]{2})%)?\s*:\s*(.*)"
)
_LARGEST_FREE: Final = re.compile(
    r"Largest free region:\s*Base\s+([0-9a-fA-F]{1,16})\s*-\s*Size\s+([0-9a-fA-F]{1,16})"
)
_TOTALS: Final = re.compile(
    r"\s*Tot:\s*([0-9a-fA-F]{1,16})\s*\(\s*[0-9]{1,16}\s*KB\)"
    r"\s*Busy:\s*([0-9a-fA-F]{1,16})\s*\(\s*[0-9]{1,16}\s*KB\)"
)
_NAME_ONLY: Final = re.compile(r"\s*(RegionUsage\w{1,60}|MEM_[A-Z]{1,20}|<free>)\s*$")
_NEW_SIZE: Final = r"([0-9a-fA-F]{1,8}(?:[`'][0-9a-fA-F]{1,8})?|[0-9a-fA-F]{9,16})"
# For lines whose runs of blanks were made one.
_NEW_HUMAN: Final = r"\( ?[0-9]{1,6}(?:\.[0-9]{1,3})? ?[kKMGTP]?[bB]? ?\)"
_NEW_ROW: Final = re.compile(
    r"(?:(\S.{0,60}?) )?([0-9]{1,10}) " + _NEW_SIZE + " ?" + _NEW_HUMAN +
    r"(?: ([0-9]{1,3}\.[0-9]{2})%)?(?: ([0-9]{1,3}\.[0-9]{2})%)?$"
)  # fmt: skip
_NEW_LARGEST: Final = re.compile(
    r"(?:(\S.{0,60}?) )?" + _NEW_SIZE + " " + _NEW_SIZE + " ?" + _NEW_HUMAN + "$"
)
_NEW_LIKE: Final = re.compile(r"[^(]{0,100} [0-9a-fA-F`']{1,24} ?\( ?[0-9]")

_OLD_TITLES: Final = {"Usage SUMMARY": "usage", "Type SUMMARY": "type", "State SUMMARY": "state"}
_NEW_TITLES: Final = (
    ("Usage Summary ", "usage"),
    ("Type Summary (for busy) ", "type"),
    ("State Summary ", "state"),
    ("Protect Summary (for commit) ", "protect"),
    ("Largest Region by Usage ", "largest"),
)


@dataclass(slots=True)
class _Heap:
    line: int
    label: str
    lfh_key: int | None
    rows: list[HeapRow] = field(default_factory=list)
    printed: list[PrintedLine] = field(default_factory=list)
    closed: bool = False


@dataclass(slots=True)
class _Address:
    line: int
    label: str
    old: bool
    tables: dict[str, dict[str, int]] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    largest: dict[str, tuple[int, int]] = field(default_factory=dict)
    printed: list[PrintedPercent] = field(default_factory=list)
    total: int | None = None
    busy: int | None = None


def _lines(text: str) -> Iterator[tuple[int, str, bool]]:
    """Number, the first MAX_LINE characters, whether there were more; not of empty lines."""
    start, number, size = 0, 0, len(text)
    while start < size:
        end = text.find("\n", start)
        end = size if end < 0 else end
        number += 1
        if end > start:
            yield number, text[start : min(end, start + MAX_LINE)], end - start > MAX_LINE
        start = end + 1


def _split_hex(digits: str) -> int:
    """A 64-bit number with a tick: the part behind it counts 32 bits, however it is padded."""
    for tick in "`'":
        if tick in digits:
            high, low = digits.split(tick)
            return (int(high, 16) << 32) | int(low, 16)
    return int(digits, 16)


def _heap_row(tokens: list[str], line: int) -> HeapRow:
    if not 10 <= len(tokens) <= 11:
        raise ParseError(f"a heap row has 10 or 11 columns, not {len(tokens)}", line)
    if not _FLAGS.fullmatch(tokens[1]):
        raise ParseError(f"Flags is not hexadecimal: {tokens[1][:40]!r}", line)
    for name, token in zip(_NUMBERS, tokens[2:9], strict=True):
        if not _DECIMAL.fullmatch(token):
            raise ParseError(f"{name} is not a number: {token[:40]!r}", line)
    contention: int | None = None
    if tokens[9] != "N/A":
        if not _HEX.fullmatch(tokens[9]):
            raise ParseError(f"Lock cont. is not hexadecimal: {tokens[9][:40]!r}", line)
        contention = int(tokens[9], 16)
    fast = tokens[10] if len(tokens) == 11 else ""
    if fast and not _FAST.fullmatch(fast):
        raise ParseError(f"Fast heap is not a word: {fast[:40]!r}", line)
    reserved, committed, virtual, free, length, ranges, blocks = map(int, tokens[2:9])
    return HeapRow(
        int(tokens[0], 16), int(tokens[1], 16), reserved, committed, virtual, free, length, ranges,
        blocks, contention, fast,
    )  # fmt: skip


class _Reader:
    """The state of one pass: the open table, the last label, and what was read so far."""

    def __init__(self) -> None:
        self.heaps: list[HeapTable] = []
        self.addresses: list[AddressSummary] = []
        self.heap: _Heap | None = None
        self.address: _Address | None = None
        self.section = ""  # the open table of self.address
        self.nameless: tuple[int, PrintedPercent] | None = None
        self.label = ""
        self.lfh_key: int | None = None
        self.rows = 0

    # -- bookkeeping ------------------------------------------------------------------------------

    def _count_row(self, line: int) -> None:
        self.rows += 1
        if self.rows > MAX_ROWS:
            raise ParseError(f"more than {MAX_ROWS} rows", line)

    def _count_table(self, line: int) -> None:
        if len(self.heaps) + len(self.addresses) >= MAX_TABLES:
            raise ParseError(f"more than {MAX_TABLES} tables", line)

    def close(self) -> None:
        """End whatever table is open."""
        self._close_section()
        if self.heap is not None and self.heap.rows:
            heap = self.heap
            self.heaps.append(
                HeapTable(
                    tuple(heap.rows), tuple(heap.printed), heap.lfh_key, heap.label, heap.line
                )
            )
        if self.address is not None and self.address.tables:
            self.addresses.append(self._finish(self.address))
        self.heap = self.address = None

    @staticmethod
    def _finish(found: _Address) -> AddressSummary:
        usage = found.tables.get("usage", {})
        types = found.tables.get("type", {})
        state = found.tables.get("state", {})
        total = found.total
        if total is None:
            total = sum((usage or state or types).values())
        free = usage.get(FREE_USAGE, state.get("MEM_FREE"))
        if types and not found.old and free is not None:
            # The newer Type table is for busy regions; with the free ones it sums to the total.
            types = {FREE_TYPE: free, **types}
        return AddressSummary(
            usage, types, state, total, found.tables.get("protect", {}), found.counts,
            found.largest, found.label, printed=tuple(found.printed), printed_busy=found.busy,
            line=found.line,
        )  # fmt: skip

    # -- one line ---------------------------------------------------------------------------------

    def feed(self, number: int, text: str, cut: bool) -> None:
        stripped = text.strip()
        if not stripped or stripped in _ELISIONS:
            return
        prompt = _PROMPT.match(text)
        if prompt:
            self.close()
            comment = _COMMENT.match(prompt[1].rstrip())
            if comment:
                self.label = comment[1][:_MAX_LABEL].rstrip(": ")
            return
        if self._title(number, stripped):
            return
        tokens = stripped.split(maxsplit=12)
        if tokens[: len(_HEADER)] == _HEADER:
            self.close()
            self._count_table(number)
            self.heap = _Heap(number, self.label, self.lfh_key)
            self.label, self.lfh_key = "", None
            return
        key = _LFH_KEY.match(text)
        if key:
            self.close()
            self.lfh_key = int(key[1], 16)
            return
        if self.heap is not None and self._heap_line(number, text, tokens, cut):
            return
        if self.section and self._address_line(number, text, stripped, cut):
            return
        self._prose(stripped, cut)

    def _prose(self, stripped: str, cut: bool) -> None:
        if cut or len(stripped) > _MAX_LABEL:
            self.label = ""
            return
        title = stripped.strip("#*_ \t")
        if title.endswith(":") and not title.startswith("NtGlobalFlag"):
            self.close()
            self.label = title.rstrip(": \t")

    # -- `!heap -s` -------------------------------------------------------------------------------

    def _heap_line(self, number: int, text: str, tokens: list[str], cut: bool) -> bool:
        heap = self.heap
        assert heap is not None
        if tokens[0] == "(k)":
            return True
        if set(tokens[0]) <= set(_DASHES) and len(tokens) == 1:
            heap.closed = heap.closed or bool(heap.rows)
            return True
        if _HEX_START.fullmatch(tokens[0]):
            try:
                if cut:
                    raise ParseError(f"a row of more than {MAX_LINE} characters", number)
                row = _heap_row(tokens, number)
            except ParseError:
                if heap.closed:  # the table had ended: this is some other output
                    return False
                raise
            self._count_row(number)
            heap.rows.append(row)
            return True
        return self._derived(heap, text)

    @staticmethod
    def _derived(heap: _Heap, text: str) -> bool:
        external, virtual = _EXTERNAL.match(text), _VIRTUAL.match(text)
        contention = _CONTENTION.match(text)
        if not (external or virtual or contention):
            return False
        # Without a row above, the row was cut out of the log and the line says nothing.
        # At most one line of a kind belongs to a row: a repetition adds nothing.
        if heap.rows:
            handle = heap.rows[-1].handle
            if external:
                line = PrintedLine(handle, "external", int(external[1]), int(external[2]))
            elif virtual:
                line = PrintedLine(handle, "virtual", int(virtual[1]), int(virtual[2]))
            else:
                assert contention is not None
                line = PrintedLine(handle, "contention", int(contention[1]))
            if line not in heap.printed[-3:]:
                heap.printed.append(line)
        return True

    # -- `!address -summary` ----------------------------------------------------------------------

    def _title(self, number: int, stripped: str) -> bool:
        if stripped[0] not in _DASHES:
            return False
        inner = stripped.lstrip(_DASHES).strip()
        section = _OLD_TITLES.get(inner.rstrip(_DASHES).strip(), "")
        old = bool(section)
        if not section:
            section = next((name for start, name in _NEW_TITLES if inner.startswith(start)), "")
        if not section:
            return False
        self._close_section()
        address = self.address
        if (
            address is None
            or address.old != old
            or section == "usage"
            or section in address.tables
            or (section == "largest" and address.largest)
        ):
            self.close()
            self._count_table(number)
            self.address = _Address(number, self.label, old)
            self.label = ""
        self.section = section
        return True

    def _close_section(self) -> None:
        """Settle the row that came without its name, then leave the section."""
        if self.nameless is not None and self.address is not None:
            line, row = self.nameless
            self.nameless = None
            # Copies through HTML lose `<free>` and `<unknown>`, which look like tags.
            name = FREE_TYPE if row.table == "type" else ""
            self._add(line, PrintedPercent(row.table, name, row.size, row.of_total, row.of_busy,
                                           row.kib))  # fmt: skip
        self.section = ""

    def _add(self, number: int, row: PrintedPercent, count: int | None = None) -> None:
        address = self.address
        assert address is not None
        table = address.tables.setdefault(row.table, {})
        if row.name in table:
            raise ParseError(f"{row.name or 'no name'} stands twice in one table", number)
        self._count_row(number)
        table[row.name] = row.size
        if count is not None:
            address.counts.setdefault(row.table, {})[row.name] = count
        address.printed.append(row)

    def _address_line(self, number: int, text: str, stripped: str, cut: bool) -> bool:
        address = self.address
        assert address is not None
        if address.old:
            done = self._old_line(number, text, stripped, cut)
        else:
            done = self._new_line(number, text, cut)
        if not done:
            self._close_section()
        return done

    def _old_line(self, number: int, text: str, stripped: str, cut: bool) -> bool:
        address = self.address
        assert address is not None
        if stripped.startswith("TotSize"):
            return True
        name = _NAME_ONLY.match(text)
        if name and self.nameless is not None:
            line, row = self.nameless
            self.nameless = None
            self._add(line, PrintedPercent(row.table, name[1].removeprefix("RegionUsage"), row.size,
                                           row.of_total, row.of_busy, row.kib))  # fmt: skip
            return True
        largest = _LARGEST_FREE.search(text)
        if largest:
            address.largest[FREE_USAGE] = (int(largest[1], 16), int(largest[2], 16))
            text = text[: largest.start()]
            if not text.strip():
                return True
        totals = _TOTALS.match(text)
        if totals:
            address.total, address.busy = int(totals[1], 16), int(totals[2], 16)
            return True
        if not _OLD_START.match(text):
            return False
        match = _OLD_ROW.match(text)
        if match is None or cut or (match[4] is not None and self.section != "usage"):
            raise ParseError(f"cannot read this {self.section} row: {stripped[:80]!r}", number)
        if self.nameless is not None:
            section = self.section
            self._close_section()
            self.section = section
        row = PrintedPercent(
            self.section, match[5].strip().removeprefix("RegionUsage")[:80], int(match[1], 16),
            match[3], match[4], int(match[2]),
        )  # fmt: skip
        if row.name:
            self._add(number, row)
        else:
            self.nameless = (number, row)
        return True

    def _new_line(self, number: int, text: str, cut: bool) -> bool:
        address = self.address
        assert address is not None
        text = " ".join(text.split())
        if self.section == "largest":
            match = _NEW_LARGEST.match(text)
            if match and not cut:
                self._count_row(number)
                address.largest[match[1] or ""] = (_split_hex(match[2]), _split_hex(match[3]))
                return True
        else:
            match = _NEW_ROW.match(text)
            if match and not cut:
                # With one percentage it is that of the total: free space has none of busy.
                of_busy, of_total = (match[4], match[5]) if match[5] else (None, match[4])
                row = PrintedPercent(
                    self.section, (match[1] or "").removeprefix("RegionUsage"),
                    _split_hex(match[3]), of_total, of_busy,
                )  # fmt: skip
                self._add(number, row, int(match[2]))
                return True
        if _NEW_LIKE.match(text):
            raise ParseError(f"cannot read this {self.section} row: {text[:80]!r}", number)
        return False


def parse(text: str) -> Log:
    """Read every `!heap -s` table and `!address -summary` output in ``text``.

    Raises ParseError, with the line, when a row cannot be read, a table names a row twice or a cap
    is passed (MAX_LINE, MAX_ROWS, MAX_TABLES), and without a line when there is nothing to read.
    Time is linear in the length of the text. Thread-safe.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be str, not {type(text).__name__}")
    reader = _Reader()
    for number, line, cut in _lines(text):
        reader.feed(number, line, cut)
    reader.close()
    if not reader.heaps and not reader.addresses:
        raise ParseError("no !heap -s table and no !address -summary output in this text")
    return Log(tuple(reader.heaps), tuple(reader.addresses))
