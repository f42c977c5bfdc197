"""Reads what debuggers print of heaps and address spaces, among any other lines.

One pass over the lines, each looked at a bounded number of times, so that time is linear in the
text and memory is bounded by the caps below. A line that looks as if it held figures and cannot be
read is kept as Unread: what it said is missing, and nothing takes its place.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Final

from . import _heap_text as rows
from ._address_text import AddressReader, Title, looks_like_block, region_of_block, title_of
from ._aside_text import AsideReader
from ._asked_text import AskedReader
from ._block_text import BlockReader
from ._clothes import MAX_LINE, Line, LongText, plain_lines
from ._facts import HeapFacts, Mark, Notice, Unread
from ._model import AddressSummary, HeapRow, HeapTable, Log, ParseError, PrintedLine
from ._told_text import UNREAD_COMMANDS, ToldReader

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["MAX_LINE", "MAX_ROWS", "MAX_TABLES", "parse"]

MAX_ROWS: Final = 200_000
"""Rows of all tables together."""
MAX_TABLES: Final = 10_000
_MAX_NOTES: Final = 1_000
_MAX_LABEL: Final = 80
_AHEAD: Final = 5
"""Lines behind a row that may belong to it."""

_NO_ROW: Final = "the row of the heap that this belongs to is not there"
_EMPTY: Final = "a table of heaps without a row"
_ELISIONS: Final = frozenset({"[...]", "[\u2026]", "...", "\u2026", "(...)", "<snip>", "[snip]"})
_DASHES: Final = frozenset("-\u2013\u2014=+|:")

_PROMPT: Final = re.compile(
    r"[\s\-\u2013\u2014]*((?:\|\|[0-9]{1,3}:|[0-9]{1,2}:(?=[0-9]{1,3}:[0-9]{3}))?(?:[0-9]{1,3}:[0-9]{1,5}(?::\w{1,8})?"
    r"|(?:[0-9]{1,3}: ?)?l?kd(?::\w{1,8})?))>\s*(.*)"
)
_LEAD: Final = re.compile(r"^[\s\-\u2013\u2014*#/;>]+")
_COMMAND: Final = re.compile(
    r"[\s>]*(!(?:(?:exts?\.)?(?:heap|address)|(?:sos\.)?(?:eeheap|dumpheap|gcroot|dumpobj)|maddress"
    r"|poolused)\b.*"
    r"|(?:dumpheap|eeheap|gcheapstat|gchandles|maddress|gcroot|dumpobj|finalizequeue)"
    r"(?: +-[a-z]\w*(?: +[\w.`<>+]+)?)+ *$"
    r"|(?:gcheapstat|eeheap|maddress|finalizequeue) *$)"
)
"""A command without a prompt: dotnet-dump's prompt is `> `, as a quotation begins."""
_READ_COMMANDS: Final = frozenset(
    {
        "!heap",
        "!mheap",
        "!address",
        "!eeheap",
        "!dumpheap",
        "!maddress",
        "!heapstat",
        "!gcheapstat",
        "!vm",
        "!poolused",
        "!umdh",
    }
)
_COMMENT: Final = re.compile(r"(?:\.echo\s+|\*+\s*|\$\$\s*)(\S.*)")
_GOES_ON: Final = re.compile(
    r"(?:g[chnu]?|p[aht]?|t[ab]?|~\*?g|\.restart|sx[edin]?\s.*;\s*g)(?:\s.*)?$"
)
_KEY_DIGITS: Final = (8, 16)
_LFH_KEY: Final = re.compile(r"[\s\W]*LFH Key\s*:\s*(?:0x)?([0-9a-fA-F]{1,16})\s*$")
_BANNER_TITLES: Final = re.compile(
    r"NtGlobalFlag|Affinity manager|.*search path|Machine Name|.*dependent usage|WARNING|Warning"
    r"|Error|\*\*\* |Symbol|Executable|Loading|.*debugging aids|Virtual block|Product|Built by"
    r"|\S+![^\s]*:?$|.*\\|Built|Kernel|Response|[A-Za-z]:$|generation [0-9]|Statistics:"
    r"|HandleTable|Stack trace",
)
_WRONG: Final = re.compile(
    r"\b(?:error|unable to|could not|cannot|can't|failed|invalid|corrupt|unreadable)\b|\?{4}",
    re.IGNORECASE,
)
_CORRUPT: Final = re.compile(
    r"invalid signature|heap corruption|HEAP_CORRUPTION|corrupted heap|heap .{0,20}is corrupt"
    r"|modified at .{0,40} past requested size|does not match (?:previous|actual)|c0000374"
    r"|c0000409.*heap|HEAP ERROR DETECTED|HEAP_FAILURE_\w{3}|^\W*Heap address:\s+[0-9a-f`]{8}",
    re.IGNORECASE,
)
_CRT_BLOCK: Final = re.compile(
    r"\{[0-9]{1,10}\} (?:normal|client|crt|free) block at 0x[0-9a-fA-F]{1,16}, ([0-9]{1,15}) bytes"
)
_SETTING: Final = re.compile(
    r"\W*(stack back traces|tail checking|free checking|validate parameters|heap call tracing)\s*$"
)
_TIME: Final = re.compile(
    r"\W*Debug session time:\s+\w{3} (\w{3}) +([0-9]{1,2}) ([0-9]{2}):([0-9]{2}):([0-9]{2})"
    r"(?:\.([0-9]{1,3}))? ([0-9]{4})(?: \(UTC ?([+-]) ?([0-9]{1,2}):([0-9]{2})\))?"
)
_MONTHS: Final = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip
_UPTIME: Final = re.compile(
    r"\W*Process Uptime:\s+([0-9]{1,5}) days? ([0-9]{1,2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]{1,3}))?"
)
_DUMP: Final = re.compile(r"\W*Loading Dump File \[(.{1,300})\]")
_BREAK_IN: Final = re.compile(r"\(([0-9a-f]{1,8})\.([0-9a-f]{1,8})\): Break instruction exception")
_VIRTUAL_BLOCK: Final = re.compile(
    r"\W*Virtual block:\s*[0-9a-fA-F`]{5,17}\s*-\s*[0-9a-fA-F`]{5,17}"
)


@dataclass(slots=True)
class _Heap:
    line: int
    label: str
    lfh_key: int | None
    headed: bool = True
    rows: list[HeapRow] = field(default_factory=list)
    printed: list[PrintedLine] = field(default_factory=list)
    closed: bool = False
    left_out: bool = False
    said_empty: bool = False
    spoiled: bool = False
    wide: bool = False


class _Reader:
    """The state of one pass: the open table, the last title, and what was read so far."""

    def __init__(self) -> None:
        self.heaps: list[HeapTable] = []
        self.addresses: list[AddressSummary] = []
        self.notices: list[Notice] = []
        self.marks: list[Mark] = []
        self.unread: list[Unread] = []
        self.heap: _Heap | None = None
        self.address: AddressReader | None = None
        self.blocks = BlockReader(self._count_row)
        self.asked = AskedReader()
        self.aside = AsideReader()
        self.told = ToldReader(self._count_row)
        self.label = ""
        self.lfh_key: int | None = None
        self.expects_heaps = False
        """`!heap -s` was asked, or its banner seen, and no table has come yet."""
        self.in_command = False
        """Between a command and its table stand banners, which are no titles."""
        self.rows = 0
        self.crt: list[int] = []
        self.crt_line = 0

    # -- bookkeeping --------------------------------------------------------------------------

    def _count_row(self, line: int) -> None:
        self.rows += 1
        if self.rows > MAX_ROWS:
            raise ParseError(f"more than {MAX_ROWS} rows", line)

    def _count_table(self, line: int) -> None:
        if len(self.heaps) + len(self.addresses) >= MAX_TABLES:
            raise ParseError(f"more than {MAX_TABLES} tables", line)

    def _note(self, kind: str, text: str, line: int) -> None:
        if len(self.notices) < _MAX_NOTES:
            self.notices.append(Notice(kind, text.strip(" \t*")[:160], line))  # type: ignore[arg-type]

    def _mark(self, kind: str, value: str, line: int, number: float | None = None) -> None:
        if len(self.marks) < MAX_TABLES:
            self.marks.append(Mark(kind, value[:300], line, number))  # type: ignore[arg-type]

    def _miss(self, line: int, why: str, text: str, handle: int | None = None) -> None:
        if len(self.unread) < _MAX_NOTES:
            self.unread.append(Unread(line, why, text.strip()[:80], handle))

    def close(self) -> None:
        """End whatever table is open."""
        heap, self.heap = self.heap, None
        if heap is not None and not (heap.rows or heap.said_empty or heap.spoiled):
            self._miss(heap.line, _EMPTY, "Heap Flags Reserv Commit Virt Free ...")
        if heap is not None and (heap.rows or heap.said_empty or heap.spoiled or heap.printed):
            whole = heap.headed and heap.closed and not heap.left_out and not heap.spoiled
            bits = None if not heap.rows else 64 if heap.wide else 32
            self.heaps.append(
                HeapTable(
                    tuple(heap.rows), tuple(heap.printed), heap.lfh_key, heap.label, heap.line,
                    bits, whole, heap.headed,
                )
            )  # fmt: skip
        address, self.address = self.address, None
        if address is not None:
            for _ in range(address.rows):
                self._count_row(address.line)
            summary = address.summary()
            if summary is not None:
                self.addresses.append(summary)
                self.blocks.facts += [
                    HeapFacts(handle, "regions", committed=size, line=address.line)
                    for handle, size in address.handles.items()
                ]
            self.unread += address.unread[: max(0, _MAX_NOTES - len(self.unread))]
        self.blocks.close()
        self.asked.close()
        self.aside.close()
        self.told.close()

    def finish(self) -> Log:
        """Everything that was read."""
        self.close()
        if self.crt:
            total = sum(self.crt)
            text = f"the C runtime lists {len(self.crt)} leaked blocks of {total} bytes"
            self._note("leaks", text, self.crt_line)
        unread = sorted(
            [*self.unread, *self.blocks.unread, *self.told.unread], key=lambda each: each.line
        )
        return Log(
            tuple(self.heaps), tuple(self.addresses), tuple(self.blocks.facts),
            tuple(self.blocks.sizes), tuple(self.blocks.blocks), tuple(self.blocks.traces),
            tuple(sorted([*self.notices, *self.aside.notices], key=lambda each: each.line)),
            _comparable(self.marks), tuple(unread), tuple(self.asked.asked),
            tuple(self.told.told),
        )  # fmt: skip

    # -- one line -----------------------------------------------------------------------------

    def feed(self, line: Line, following: Sequence[Line]) -> int:
        """Read a line; returns how many of the lines behind it were read with it."""
        number, text, cut = line
        stripped = text.strip()
        if stripped in _ELISIONS:
            if self.heap is not None and not self.heap.closed:
                self.heap.left_out = True
            return 0
        prompt = _PROMPT.match(text)
        command = _COMMAND.match(text)
        if prompt:
            self._command(number, prompt[1], prompt[2].strip())
            return 0
        if command:
            self._command(number, "", command[1].strip())
            return 0
        wrapped = _wrapped_key(stripped, following)
        if self._milestone(number, stripped + wrapped):
            return bool(wrapped)
        title = title_of(text)
        if title is not None:
            self._address_title(number, title)
            return 0
        if looks_like_block(text):
            return self._region_block(line, following)
        found = rows.cells(text)
        if self._header(number, stripped, found):
            return 0
        if self.heap is not None:
            taken = self._heap_line(line, found, following)
            if taken is not None:
                return taken
        if self.address is not None:
            after = [each.text for each in following[:2]]
            taken = self.address.feed(number, text, after, cut=cut)
            if taken is not None:
                return taken
        if (
            self.asked.feed(number, text)
            or self.blocks.feed(number, text)
            or self.told.feed(number, text)
            or self.aside.feed(number, text)
        ):
            return 0
        if self._headless(line, found):
            return 0
        if rows.derived_line(text, (), whole=False) is not None:
            self._miss(number, _NO_ROW, stripped)
            return 0
        self._other(number, stripped, cut=cut)
        return 0

    def _command(self, number: int, prompt: str, command: str) -> None:
        self.close()
        self.lfh_key = None
        self.in_command = False
        self.expects_heaps = False
        self.blocks.command = command[:80]
        if prompt:
            self._mark("prompt", prompt, number)
            if prompt.startswith("||"):
                self._mark("system", prompt.split(":")[0], number)
        comment = _COMMENT.match(command)
        if comment:
            self._name(comment[1])
        elif _GOES_ON.match(command):
            self._mark("run", command, number)
        elif command:
            self.in_command = True
            words = command.lower().replace("\u2013", "-").split()
            self._not_read(number, words[0], command)
            self.told.asked(number, command)
            self.expects_heaps = words[0].endswith("heap") and "-s" in words[1:3]

    def _not_read(self, number: int, word: str, command: str) -> None:
        """A command whose output nobody here reads is named."""
        bare = word.rpartition(".")[2].lstrip("!")
        bang = word[:1] == "!" or f"!{bare}" in UNREAD_COMMANDS or f"!{bare}" in _READ_COMMANDS
        name = f"!{bare}" if bang else word
        if name in UNREAD_COMMANDS:
            what = UNREAD_COMMANDS[name]
            self._note("note", f"line {number}: `{command[:60]}` ({what}) is not read", number)
        elif name not in _READ_COMMANDS:
            self._note("command", f"`{command[:60]}`: its output is not read", number)

    def _name(self, title: str) -> None:
        self.label = title.strip().strip("\"'")[:_MAX_LABEL].rstrip(": ")
        self.blocks.label = self.told.label = self.label

    def _milestone(self, number: int, text: str) -> bool:
        """Lines that tell which process and which moment the text is of."""
        key = _LFH_KEY.match(text)
        if key:
            self.close()
            self.lfh_key = int(key[1], 16)
            self._mark("key", key[1], number)
            self.expects_heaps = True
            return True
        time = _TIME.match(text)
        if time:
            self._mark("time", text, number, _seconds(time))
            return True
        uptime = _UPTIME.match(text)
        if uptime:
            days, hours, minutes, seconds = (int(uptime[n]) for n in (1, 2, 3, 4))
            self._mark("uptime", text, number, ((days * 24 + hours) * 60 + minutes) * 60 + seconds)
            return True
        dump = _DUMP.match(text)
        if dump:
            self.close()
            self._mark("dump", dump[1], number)
            self.label = ""
            return True
        broken = _BREAK_IN.match(text)
        if broken:
            self.close()
            self._mark("run", broken[1], number)
            return True
        if "NT HEAP STATS BELOW" in text:
            self.close()
            self.expects_heaps = True
            return True
        return False

    def _header(self, number: int, stripped: str, found: list[str]) -> bool:
        if rows.is_header(_LEAD.sub("", stripped).split(maxsplit=12)):
            self.close()
            self._count_table(number)
            self.heap = _Heap(number, self.label, self.lfh_key)
            self.label, self.lfh_key = "", None
            self.in_command = self.expects_heaps = False
            return True
        lower = stripped.lower()
        if lower.split()[:2] == ["heap", "address"] and "signature" in lower:
            self.close()
            self.blocks.begin_segment_heaps()
            return True
        return False

    def _address_title(self, number: int, title: Title) -> None:
        if self.address is not None and self.address.blocks and title.section != "regions":
            self.address = None  # the tables that end such a list hold all of it
        if self.address is None or not self.address.takes(title):
            self.close()
            self._count_table(number)
            self.address = AddressReader(number, self.label, title.old)
            self.label = ""
        self.in_command = False
        self.address.open(title.section)

    def _region_block(self, line: Line, following: Sequence[Line]) -> int:
        """A region as debuggers before 6.10 told it, in lines of their own."""
        number, text, _ = line
        found = region_of_block(text, [each.text for each in following])
        if found is None:
            self._miss(number, "no region of the list", text.strip())
            return 0
        if self.address is None or not self.address.blocks:
            self._address_title(number, Title("regions", old=False))
        assert self.address is not None
        self.address.blocks = True
        if self.address.section != "regions":
            self.address.open("regions")
        self.address.feed(number, found[0], (), cut=False)
        return found[1]

    # -- `!heap -s` ---------------------------------------------------------------------------

    def _heap_line(self, line: Line, found: list[str], following: Sequence[Line]) -> int | None:
        heap = self.heap
        assert heap is not None
        number, text, _ = line
        stripped = text.strip()
        if set(stripped) <= _DASHES:
            heap.closed = heap.closed or bool(heap.rows) or heap.said_empty
            return 0
        if not heap.rows and rows.is_rest_of_header(stripped.split()):
            return 0
        if _VIRTUAL_BLOCK.match(text):
            return 0
        if stripped == "No heaps to display.":
            heap.said_empty = True
            return 0
        derived = rows.derived_line(text, heap.rows, whole=not (heap.spoiled or heap.left_out))
        if derived is not None:
            if derived.handle < 0:
                # The row above was cut out of the log: the line says so, and no more.
                if not heap.spoiled:
                    self._miss(number, _NO_ROW, stripped)
                heap.spoiled = True
            elif derived not in heap.printed[-3:]:
                heap.printed.append(derived)
            return 0
        if found and rows.is_handle(found[0]) and not stripped.split()[0].endswith(":"):
            return self._row(heap, line, found, following)
        if not heap.closed and (
            _WRONG.search(stripped) or (found and rows.is_handle(found[0].rstrip(":")))
        ):
            heap.spoiled = True
            self._miss(number, "no row of a heap", stripped, rows.handle_in(stripped))
            if _CORRUPT.search(stripped):
                self._note("corruption", stripped, number)
            return 0
        return None

    def _row(
        self, heap: _Heap, line: Line, found: list[str], following: Sequence[Line]
    ) -> int | None:
        number, text, cut = line
        try:
            if cut:
                raise ParseError(f"a row of more than {MAX_LINE} characters", number)
            row, taken = rows.joined_row(text, [each.text for each in following], number)
        except ParseError as error:
            if heap.closed and not rows.begins_row(found):
                return None  # the table had ended: this is some other output
            why = str(error).partition(": ")[2]
            self._miss(number, why, text, _handle(found))
            heap.spoiled = heap.spoiled or not heap.closed
            return 0
        if heap.closed:
            self._mark("reference", text.strip()[:160], number)
            self._miss(number, "a row of a heap behind the end of its table", text, row.handle)
            return taken
        self._count_row(number)
        heap.rows.append(row)
        heap.wide = heap.wide or row.handle >> 32 > 0 or _digits(found[0]) > 8
        return taken

    def _headless(self, line: Line, found: list[str]) -> bool:
        """A row without a table: read where `!heap -s` was asked, else named."""
        number, text, cut = line
        asked = self.expects_heaps and len(found) > 2
        if not rows.begins_row(found) or not (asked or (len(found) > 8 and _mostly_numbers(found))):
            return False
        if all(len(cell) == len(found[1]) for cell in found[1:9]):
            return False  # words of memory, as `dw` and `dd` show them
        try:
            if cut:
                raise ParseError(f"a row of more than {MAX_LINE} characters", number)
            row = rows.heap_row(found, number)
        except ParseError as error:
            self._miss(number, str(error).partition(": ")[2], text, _handle(found))
            return True
        if not self.expects_heaps or row.free_kib > row.committed_kib:
            self._miss(number, "a row of a heap outside any table", text, row.handle)
            return True
        self.close()
        self._count_table(number)
        self.heap = _Heap(number, self.label, self.lfh_key, headed=False)
        self.label, self.lfh_key, self.expects_heaps = "", None, False
        self._note("note", f"line {number}: no header above the rows of heaps; their columns were "
                   "taken in the debugger's order", number)  # fmt: skip
        self._count_row(number)
        self.heap.rows.append(row)
        self.heap.wide = row.handle >> 32 > 0 or _digits(found[0]) > 8
        return True

    # -- words --------------------------------------------------------------------------------

    def _other(self, number: int, stripped: str, *, cut: bool) -> None:
        if _CORRUPT.search(stripped):
            self._note("corruption", stripped, number)
        elif crt := _CRT_BLOCK.search(stripped):
            self.crt.append(int(crt[1]))
            self.crt_line = self.crt_line or number
        elif setting := _SETTING.match(stripped):
            self._note("setting", setting[1], number)
        elif stripped == "No heaps to display.":
            self._note("note", stripped, number)
        if cut or len(stripped) > _MAX_LABEL:
            if not self.in_command:
                self.label = ""
            return
        title = stripped.strip("#*_ \t")
        heading = stripped.startswith("#") and title and not self.in_command
        if (title.endswith(":") and not self.in_command and not _BANNER_TITLES.match(title)) or (
            heading
        ):
            self.close()
            self._name(title)


def _wrapped_key(text: str, following: Sequence[Line]) -> str:
    """The digits of an LFH key that a wrap put on the next line."""
    key = _LFH_KEY.match(text)
    rest = following[0].text.strip() if key and following else ""
    if key and re.fullmatch(r"[0-9a-fA-F]{1,15}", rest) and len(key[1]) not in _KEY_DIGITS:
        return rest if len(key[1]) + len(rest) in _KEY_DIGITS else ""
    return ""


def _handle(found: Sequence[str]) -> int | None:
    return rows.handle_number(found[0]) if found and rows.is_handle(found[0], digits=5) else None


def _digits(handle: str) -> int:
    return len(handle.lower().removeprefix("0x").replace("`", ""))


def _mostly_numbers(found: Sequence[str]) -> bool:
    return sum(cell.isdecimal() for cell in found[2:9]) > 5


def _comparable(marks: Sequence[Mark]) -> tuple[Mark, ...]:
    """Where some times tell their distance from UTC, one that does not may be hours away."""
    times = [mark for mark in marks if mark.kind == "time"]
    if not any("UTC" in mark.value for mark in times):
        return tuple(marks)
    return tuple(
        replace(mark, number=None) if mark.kind == "time" and "UTC" not in mark.value else mark
        for mark in marks
    )


def _seconds(found: re.Match[str]) -> float | None:
    month, day, hour, minute, second, _, year, sign, hours, minutes = found.groups()
    if sign is None and "(" in found.string[found.end() :]:
        return None  # its distance from UTC was cut off, and others may be hours away
    try:
        offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0))
        moment = datetime(
            int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second),
            tzinfo=timezone(-offset if sign == "-" else offset),
        )  # fmt: skip
        return moment.timestamp()
    except (ValueError, OverflowError):
        return None


def _with_following(text: str | LongText) -> Iterator[tuple[Line, deque[Line]]]:
    """Each line with those behind it; what is taken from them does not come again."""
    source = plain_lines(text)
    ahead: deque[Line] = deque()
    while True:
        while len(ahead) <= _AHEAD:
            line = next(source, None)
            if line is None:
                break
            ahead.append(line)
        if not ahead:
            return
        yield ahead.popleft(), ahead


def parse(text: str | LongText, *, partial: bool = False) -> Log:
    """Read every table of heaps, blocks and address space in ``text``.

    Lines that look like figures and cannot be read are in the log's ``unread``. Raises ParseError
    with the line when a cap is passed (MAX_ROWS, MAX_TABLES), or when nothing but such lines was
    found, and without a line when there is nothing to read; with ``partial`` the log says so
    instead. Time is linear in the length of the text. Thread-safe.
    """
    if not isinstance(text, str | LongText):
        raise TypeError(f"text must be str, not {type(text).__name__}")
    reader = _Reader()
    for line, ahead in _with_following(text):
        following = []
        for each in ahead:
            # A prompt or an empty line ends a row.
            if _PROMPT.match(each.text):
                break
            following.append(each)
        for _ in range(reader.feed(line, following)):
            ahead.popleft()
    log = reader.finish()
    figures = any(table.rows for table in log.heaps) or log.addresses or log.facts
    if partial or figures or log.sizes or log.blocks or log.traces or log.asked or log.told:
        return log
    if unread := [each for each in log.unread if each.why != _EMPTY]:
        first = unread[0]
        raise ParseError(first.why, first.line)
    if any(table for table in log.heaps if table.whole or table.printed) or any(
        notice.kind != "command" for notice in log.notices
    ):
        return log
    raise ParseError("no !heap -s table and no !address -summary output in this text")
