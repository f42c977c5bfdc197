"""What a debugger says beside its tables and that bears on memory: that it could not do what it was
asked, what the kernel raised alarm about, page heap, and single regions that were asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from ._facts import Notice

__all__ = ["AsideReader"]

_FAILED: Final = re.compile(
    r"\W{0,8}((?:HEAPEXT|SEGMENT HEAP ERROR|ERROR: SegmentHeap):? .{1,140}"
    r"|Unable to (?:find|get|read|walk).{0,60}\bheaps?\b.{0,60}"
    r"|.{0,40}\bdump (?:file )?(?:does not|doesn't) (?:contain|have) .{0,80}memory.{0,40})$"
)
_ALARM: Final = re.compile(
    r"\s*\*{3,}\s+((?:[0-9][0-9,]{0,18} .{1,80}\bhave failed\b.{0,40}?|Excessive .{1,40}?Usage"
    r"|High Number Of .{1,60}?|.{0,40}commit requests? .{0,60}?))\s*\*{3,}\s*$|\s*(Running out of "
    r"(?:physical memory|\w+ space))\s*$"
)
_PAGE_HEAP: Final = re.compile(r"\s*PageHeap enabled with options:\s*$")
_PROPERTY: Final = re.compile(
    r"\W{0,8}(Usage|Base ?Address|Region ?Size|State|Type|Protect):\s{1,40}(\S.{0,120})$"
)
_ADDRESS: Final = re.compile(r"(?:0x)?[0-9a-fA-F`]{4,17}$")
_CONSTANT: Final = re.compile(r"\b(?:MEM|PAGE)_[A-Z_]+(?: ?\| ?PAGE_[A-Z_]+)*")
_MOST: Final = 100


@dataclass(slots=True)
class AsideReader:
    """Collects them."""

    notices: list[Notice] = field(default_factory=list)
    _region: dict[str, str] = field(default_factory=dict)
    _line: int = 0
    _failures: set[str] = field(default_factory=set)

    def close(self) -> None:
        """What was open ends here."""
        told, self._region = self._region, {}
        base, size = told.get("BaseAddress", ""), told.get("RegionSize", "")
        if not _ADDRESS.match(base) or not _ADDRESS.match(size):
            return
        size_kib = int(size.removeprefix("0x").replace("`", ""), 16) >> 10
        words = [told[name] for name in ("Usage",) if name in told]
        names = ("State", "Type", "Protect")
        words += [found[0] for n in names if (found := _CONSTANT.search(told.get(n, "")))]
        said = f"the region at {base}, {size_kib:,} KB" + (f": {', '.join(words)}" if words else "")
        self._add("note", f"line {self._line}: {said}", self._line)

    def _add(self, kind: str, text: str, line: int) -> None:
        if len(self.notices) < _MOST:
            self.notices.append(Notice(kind, text[:200], line))  # type: ignore[arg-type]

    def feed(self, number: int, text: str) -> bool:
        """Read a line; False when it is of none of these kinds."""
        if failed := _FAILED.match(text):
            said = " ".join(failed[1].split())
            if said not in self._failures and len(self._failures) < _MOST:
                self._failures.add(said)
                self._add("note", f"line {number}: the debugger could not: {said}", number)
            return True
        if alarm := _ALARM.match(text):
            self._add("alarm", " ".join((alarm[1] or alarm[2]).split()), number)
            return True
        if _PAGE_HEAP.match(text):
            said = "page heap is on: each block takes pages of its own, so that figures of memory "
            self._add("note", f"line {number}: {said}are far above those without it", number)
            return True
        return self._of_region(number, text)

    def _of_region(self, number: int, text: str) -> bool:
        found = _PROPERTY.match(text)
        if found is None:
            return False
        name = found[1].replace(" ", "")
        if name in self._region or not self._region:
            if name not in ("Usage", "BaseAddress"):
                return bool(self._region)
            self.close()
            self._line = number
        self._region[name] = found[2].strip()
        return True
