"""One `!address -summary` as it is written: the older format, the newer one, and the list of
regions that `!address` alone prints, which is added up to the same tables."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from ._facts import Unread
from ._model import FREE_STATE, FREE_TYPE, FREE_USAGE, AddressSummary, PrintedPercent

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["AddressReader", "Title", "looks_like_block", "region_of_block", "title_of"]

UNKNOWN_USAGE: Final = "<unknown>"

_HEX: Final = r"(?:0[xX])?([0-9a-fA-F]{1,8}[`'][0-9a-fA-F]{1,8}|[0-9a-fA-F]{1,16})"
_PERCENT: Final = r"([0-9]{1,3}[.,][0-9]{2})\s?%"
_WHOLE: Final = r"([0-9](?:[0-9,.']{0,20}[0-9])?)"
_LEAD: Final = re.compile(r"[\s\-\u2013\u2014*#/;]*(?=[0-9a-fA-F<A-Z])")
_OLD_START: Final = re.compile(r"\s*(?:0[xX])?[0-9a-fA-F`']{1,20}\s*\(\s*[0-9]")
_OLD_ROW: Final = re.compile(
    rf"\s*{_HEX}\s*\(\s*{_WHOLE}(?:\s*KB)?\s*\)\s*:\s*{_PERCENT}(?:\s+{_PERCENT})?\s*:\s*(.*)"
)
_LARGEST_FREE: Final = re.compile(
    rf"[-\u2013\u2014\s]*Largest free region:\s*Base\s+{_HEX}\s*[-\u2013\u2014]\s*Size\s+{_HEX}"
)
_TOTALS: Final = re.compile(
    rf"\s*Tot:\s*{_HEX}\s*\(\s*{_WHOLE}\s*KB\)\s*Busy:\s*{_HEX}\s*\(\s*{_WHOLE}\s*KB\)"
)
_NAME_ONLY: Final = re.compile(r"\s*(RegionUsage\w{1,60}|MEM_[A-Z]{1,20}|<free>)\s*$")
_NEW_SIZE: Final = r"(?:0[xX])?([0-9a-fA-F]{1,8}(?:[`'][0-9a-fA-F]{1,8})?|[0-9a-fA-F]{9,16})"
# For lines whose runs of blanks were made one.
_NEW_HUMAN: Final = r"\( ?[0-9]{1,3}(?:[,.']?[0-9]{3})*(?:[.,][0-9]{1,3})? ?[kKMGTP]?[bB]? ?\)"
_NEW_ROW: Final = re.compile(
    r"(?:(\S.{0,60}?) )?([0-9]{1,10}|[0-9]{1,3}(?:[,.'][0-9]{3}){1,3}) " + _NEW_SIZE + " ?"
    + _NEW_HUMAN + rf"(?: {_PERCENT})?(?: {_PERCENT})?$"
)  # fmt: skip
_NEW_LARGEST: Final = re.compile(
    r"(?:(\S.{0,60}?) )?" + _NEW_SIZE + " " + _NEW_SIZE + " ?" + _NEW_HUMAN + "$"
)
_NEW_LIKE: Final = re.compile(r"[^(]{0,100} [0-9a-fA-F`']{1,24} ?\( ?[0-9]")
_REGION: Final = re.compile(
    rf"[+|\s-]*{_HEX} {_HEX} {_HEX}(?: (MEM_IMAGE|MEM_MAPPED|MEM_PRIVATE))?"
    r" (MEM_COMMIT|MEM_RESERVE|MEM_FREE)(?: (PAGE_[A-Z_]+(?: ?\| ?PAGE_?[A-Z_]*)*))?"
    r"(?: (.{0,200}))?$"
)
_HANDLE: Final = re.compile(r"\bHandle: (?:0x)?([0-9a-fA-F`]{5,17})")
_MOST_HANDLES: Final = 10_000
# A region of debuggers before 6.10: allocation, start and size, then a line for each property.
_PLACE: Final = r"([0-9a-fA-F]{8}[`']?(?:[0-9a-fA-F]{8})?)"
_BLOCK: Final = re.compile(rf"[*+]? ?{_PLACE} ?: {_PLACE} ?- {_PLACE}$")
_PROPERTY: Final = re.compile(
    r"\s*(Type|Protect|State|Usage|FullPath|Pid\.Tid|Handle|Heap|Thread|Module|Allocation\w*)\b"
    r"\s*(?:[0-9a-fA-F]{8}\b)?\s*(.{0,300})"
)
_TITLE: Final = re.compile(
    r"\W{0,200}?(Usage|Type|State|Protect) (SUMMARY|Summary)\b(.*)"
    r"|\W{0,200}?(Largest Region by Usage)\b(.*)"
    r"|\W{0,200}?(BaseAddress) +EndAddress\S* +RegionSize.*"
)
_OTHER_TITLE: Final = re.compile(r"[-\u2013\u2014]{3,} [A-Z]")
_RULE: Final = re.compile(r"[\s\-\u2013\u2014=+|:]*$")
_HEADINGS: Final = re.compile(r"\W*(?:TotSize\b|RgnCount\b|%of(?:Busy|Total)\b|Pct\(|Base Address)")
_GAP: Final = 3
"""Lines that are no rows and may stand in a table before it counts as ended."""

Section = Literal["usage", "type", "state", "protect", "largest", "regions"]


@dataclass(frozen=True, slots=True)
class Title:
    """The title of a table of a summary."""

    section: Section
    old: bool


def title_of(text: str) -> Title | None:
    """The table whose title this line is."""
    found = _TITLE.match(" ".join(text.split()))
    if found is None:
        return None
    if found[6]:
        return Title("regions", old=False)
    if found[4]:
        return Title("largest", old=False) if _framed(text, found[5]) else None
    if not _framed(text, found[3]):
        return None
    section: Section = found[1].lower()  # type: ignore[assignment]
    return Title(section, old=found[2] == "SUMMARY")


def region_of_block(text: str, following: Sequence[str]) -> tuple[str, int] | None:
    """A region that is told in a block of lines, as the line that newer debuggers print for it, and
    how many of the lines behind it belong to it. None: this is no such block, or a broken one."""
    found = _BLOCK.match(" ".join(text.split()))
    if found is None:
        return None
    told: dict[str, str] = {}
    taken = 0
    for line in following:
        property_ = _PROPERTY.match(line)
        if property_ is None:
            break
        told.setdefault(property_[1], " ".join(property_[2].split()))
        taken += 1
    if not told.get("State"):
        return None
    start, size = _number(found[2]), _number(found[3])
    usage = told.get("Usage", "").removeprefix("RegionUsage")
    words = (f"{start:x}", f"{start + size:x}", f"{size:x}", told.get("Type", ""), told["State"],
             told.get("Protect", ""), usage)  # fmt: skip
    return " ".join(word for word in words if word), taken


def looks_like_block(text: str) -> bool:
    """The first line of such a block, whether it is whole or not."""
    return _BLOCK.match(" ".join(text.split())) is not None


def _framed(text: str, rest: str) -> bool:
    """A title stands between dashes, or before the headings of its columns."""
    return text.strip()[0] in "-\u2013\u2014" or "RgnCount" in rest or "Address" in rest


def _number(digits: str) -> int:
    """A number with a tick: the part behind it counts 32 bits, however it is padded."""
    for tick in "`'":
        if tick in digits:
            high, _, low = digits.partition(tick)
            return (int(high or "0", 16) << 32) | int(low or "0", 16)
    return int(digits, 16)


def _whole(digits: str) -> int:
    return int("".join(c for c in digits if c in "0123456789"))


def _point(text: str | None) -> str | None:
    return None if text is None else text.replace(",", ".")


@dataclass(slots=True)
class AddressReader:
    """The tables of one summary while they are read."""

    line: int
    label: str
    old: bool
    section: Section | None = None
    tables: dict[str, dict[str, int]] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    largest: dict[str, tuple[int, int]] = field(default_factory=dict)
    printed: list[PrintedPercent] = field(default_factory=list)
    unread: list[Unread] = field(default_factory=list)
    total: int | None = None
    busy: int | None = None
    rows: int = 0
    nameless: tuple[int, PrintedPercent] | None = None
    listed: int = 0
    """Where the list of regions has come to."""
    gap: int = 0
    handles: dict[int, int] = field(default_factory=dict)
    """Committed bytes of the regions that name the heap that they are of."""
    blocks: bool = False
    """The regions come in blocks of lines: of one alone it is not known that it is a list."""

    def takes(self, title: Title) -> bool:
        """A table of this title may belong to this summary."""
        if title.section == "regions":
            return False
        if self.section == "regions" or self.old != title.old or title.section == "usage":
            return False
        return title.section not in self.tables and not (
            title.section == "largest" and self.largest
        )

    def open(self, section: Section) -> None:
        """Begin a table."""
        self.close_section()
        self.section = section
        self.gap = 0
        if section not in ("largest", "regions"):
            self.tables.setdefault(section, {})

    def close_section(self) -> None:
        """Settle the row that came without its name, then leave the table."""
        if self.nameless is not None:
            line, row = self.nameless
            self.nameless = None
            # Copies through HTML lose `<free>` and `<unknown>`, which look like tags.
            name = FREE_TYPE if row.table == "type" else ""
            self._add(line, _renamed(row, name), "")
        self.section = None

    def feed(self, number: int, text: str, following: Sequence[str], *, cut: bool) -> int | None:
        """Read a line, joined with those behind it where it was wrapped: how many of them were
        taken, None when the line does not belong to a table."""
        if self.section is None:
            return None
        if _RULE.match(text) or _HEADINGS.match(text):
            return 0
        # A row that was wrapped is whole with the next line or the one after.
        best: tuple[int, str] | None = None
        ways = [text]
        for taken in range(3):
            for way in ways:
                if self._fits(way):
                    best = (taken, way)
                    break
            if taken == 2 or taken >= len(following) or not _continues(following[taken]):
                break
            if best is not None and not re.fullmatch(r"[0-9.,%\s]{1,20}", following[taken]):
                break
            ways = [w + blank + following[taken] for w in ways for blank in ("", " ")]
        if best is not None and not cut:
            self.gap = 0
            self._take(number, best[1], text)
            return best[0]
        if self._looks_like_row(text):
            self.unread.append(Unread(number, f"no {self.section} row", text.strip()[:80]))
            self.gap = 0
            return 0
        self.gap += 1
        if self.gap > _GAP or _OTHER_TITLE.match(text.lstrip()):
            self.close_section()
        return None

    # -- one line -----------------------------------------------------------------------------

    def _bare(self, text: str) -> str:
        lead = _LEAD.match(text)
        return text[lead.end() :] if lead else text

    def _fits(self, text: str) -> bool:
        if self.section == "regions":
            return _REGION.match(" ".join(text.split())) is not None
        if self.old:
            text = self._bare(text)
            if (
                _TOTALS.match(text)
                or _LARGEST_FREE.search(text)
                or (self.nameless is not None and _NAME_ONLY.match(text))
            ):
                return True
            found = _OLD_ROW.match(text)
            return found is not None and (found[4] is None or self.section == "usage")
        return self._newer(text) is not None

    def _newer(self, text: str) -> re.Match[str] | None:
        text = " ".join(text.split())
        pattern = _NEW_LARGEST if self.section == "largest" else _NEW_ROW
        return pattern.match(text) or pattern.match(self._bare(text))

    def _looks_like_row(self, text: str) -> bool:
        if self.section == "regions":
            return re.match(rf"[+|\s-]*{_HEX} +{_HEX} +{_HEX} ", text) is not None
        if self.old:
            return _OLD_START.match(self._bare(text)) is not None
        squeezed = " ".join(text.split())
        return (_NEW_LIKE.match(squeezed) is not None and "Largest free" not in text) or re.match(
            r"(?:MEM|PAGE)_[A-Z|_]+ [0-9]", squeezed
        ) is not None

    def _take(self, number: int, text: str, raw: str) -> None:
        if self.section == "regions":
            self._region(number, " ".join(text.split()))
        elif self.old:
            self._older(number, self._bare(text), raw)
        else:
            self._new(number, text, raw)

    def _add(self, number: int, row: PrintedPercent, raw: str, count: int | None = None) -> None:
        table = self.tables.setdefault(row.table, {})
        if row.name in table:
            if table[row.name] != row.size:
                why = f"{row.name or 'no name'} stands twice in one table"
                self.unread.append(Unread(number, why, raw.strip()[:80]))
            return
        self.rows += 1
        table[row.name] = row.size
        if count is not None:
            self.counts.setdefault(row.table, {})[row.name] = count
        self.printed.append(row)

    def _older(self, number: int, text: str, raw: str) -> None:
        name = _NAME_ONLY.match(text)
        if name and self.nameless is not None:
            line, row = self.nameless
            self.nameless = None
            self._add(line, _renamed(row, name[1].removeprefix("RegionUsage")), raw)
            return
        largest = _LARGEST_FREE.search(text)
        if largest:
            self.largest[FREE_USAGE] = (_number(largest[1]), _number(largest[2]))
            text = text[: largest.start()]
        totals = _TOTALS.match(text)
        if totals:
            self.total, self.busy = _number(totals[1]), _number(totals[3])
            return
        match = _OLD_ROW.match(text)
        if match is None:
            return
        section = self.section
        assert section is not None
        if self.nameless is not None:
            self.close_section()
            self.section = section
        row = PrintedPercent(
            section, match[5].strip().removeprefix("RegionUsage")[:80], _number(match[1]),
            _point(match[3]), _point(match[4]), _whole(match[2]),
        )  # fmt: skip
        if row.name:
            self._add(number, row, raw)
        else:
            self.nameless = (number, row)

    def _new(self, number: int, text: str, raw: str) -> None:
        match = self._newer(text)
        section = self.section
        assert match is not None
        assert section is not None
        # Only one name of a usage is written as a tag is, and is lost where it was taken for one.
        name = (match[1] or "").removeprefix("RegionUsage").rstrip(" |")
        if section == "largest":
            self.rows += 1
            self.largest.setdefault(name or UNKNOWN_USAGE, (_number(match[2]), _number(match[3])))
            return
        if not name and section == "usage":
            name = UNKNOWN_USAGE
        # With one percentage it is that of the total: free space has none of busy.
        of_busy, of_total = (match[4], match[5]) if match[5] else (None, match[4])
        row = PrintedPercent(section, name, _number(match[3]), _point(of_total), _point(of_busy))
        self._add(number, row, raw, _whole(match[2]))

    def _region(self, number: int, text: str) -> None:
        """A region of the list, added to the tables."""
        match = _REGION.match(text)
        assert match is not None
        start, end, size = (_number(match[n]) for n in (1, 2, 3))
        if size == 0 or end - start not in (size, size - 1) or start < self.listed:
            self.unread.append(Unread(number, "no region of the list", text[:80]))
            return
        self.listed = start + size
        self.rows += 1
        kind, state, protect = match[4], match[5], match[6]
        usage = re.sub(r"\s*\[.*", "", match[7] or "").strip().removeprefix("RegionUsage")
        free = state == FREE_STATE
        name = FREE_USAGE if free else (usage or UNKNOWN_USAGE)[:60]
        kind = FREE_TYPE if free else kind
        for table, key in (
            ("usage", name),
            ("type", kind),
            ("state", state),
            ("protect", None if state != "MEM_COMMIT" else protect),
        ):
            if key:
                held = self.tables.setdefault(table, {})
                held[key] = held.get(key, 0) + size
                counts = self.counts.setdefault(table, {})
                counts[key] = counts.get(key, 0) + 1
        if state == "MEM_COMMIT" and (owner := _HANDLE.search(match[7] or "")):
            handle = _number(owner[1])
            if handle in self.handles or len(self.handles) < _MOST_HANDLES:
                self.handles[handle] = self.handles.get(handle, 0) + size
        if size > self.largest.get(name, (0, 0))[1]:
            self.largest[name] = (start, size)

    # -- the end ------------------------------------------------------------------------------

    def summary(self) -> AddressSummary | None:
        """What was read; None when there was no row."""
        self.close_section()
        usage = self.tables.get("usage", {})
        types = self.tables.get("type", {})
        state = self.tables.get("state", {})
        if not (usage or types or state or self.largest) or (self.blocks and self.rows < 2):
            return None
        total = self.total
        if total is None:
            total = max(sum(usage.values()), sum(state.values())) or sum(types.values())
        free = usage.get(FREE_USAGE, state.get(FREE_STATE))
        if types and not self.old and free is not None and FREE_TYPE not in types:
            # The newer Type table is for busy regions; with the free ones it sums to the total.
            types = {FREE_TYPE: free, **types}
        return AddressSummary(
            usage, types, state, total, self.tables.get("protect", {}), self.counts, self.largest,
            self.label, printed=tuple(self.printed), printed_busy=self.busy, line=self.line,
        )  # fmt: skip


def _renamed(row: PrintedPercent, name: str) -> PrintedPercent:
    return PrintedPercent(row.table, name, row.size, row.of_total, row.of_busy, row.kib)


def _continues(text: str) -> bool:
    """It may be the rest of a row: no title, no prompt, no beginning of a row."""
    stripped = text.strip()
    return (
        len(stripped) < 80
        and title_of(text) is None
        and not _RULE.match(text)
        and not re.match(r"[0-9]+:[0-9]+>", stripped)
        and not _OLD_START.match(text)
        and not _TOTALS.match(stripped)
        and not _NEW_ROW.match(" ".join(stripped.split()))
    )
