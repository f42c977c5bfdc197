"""Single blocks that the debugger was asked for: `!heap -p -a` with the stack that allocated them,
`!heap -i` with what their header says."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from ._block_text import address_of
from ._facts import AskedBlock

__all__ = ["AskedReader"]

_FOUND: Final = re.compile(r"\W*address ([0-9a-fA-F`]{5,17}) found in")
_HEAP: Final = re.compile(r"\W*(?:_HEAP|_DPH_HEAP_ROOT) @ ([0-9a-fA-F`]{4,17})")
_ENTRY: Final = re.compile(
    r"\W*[0-9a-fA-F`]{5,17}\s+[0-9a-fA-F]{4,16}\s+[0-9a-fA-F]{4,16}\s+\[[0-9a-fA-F]{2,4}\]\s+"
    r"[0-9a-fA-F`]{5,17}\s+([0-9a-fA-F]{1,16})\s+-\s+\((busy|free)"
)
# Debuggers before 6.10 wrote it so.
_OLD_ENTRY: Final = re.compile(
    r"\W*[0-9a-fA-F`]{5,17}:\s+[0-9a-fA-F]{4,16}\s+:\s+[0-9a-fA-F]{4,16}\s+\[[0-9a-fA-F]{2,4}\]"
    r"\s+-\s+[0-9a-fA-F`]{5,17}\s+\(([0-9a-fA-F]{1,16})\)\s+-\s+\((busy|free)"
)
_PAGES: Final = re.compile(r"\W*in (busy|free)(?:-ed)? allocation")
_PAGE_BLOCK: Final = re.compile(
    r"\W*[0-9a-fA-F`]{4,17}:\s+([0-9a-fA-F`]{4,17})\s+([0-9a-fA-F]{1,16})"
    r"(?:\s+[-\u2013\u2014]\s+[0-9a-fA-F`]{4,17}\s+[0-9a-fA-F]{1,16})?\s*$"
)
_DETAILED: Final = re.compile(
    r"\W*Detailed information for block entry (?:0x)?([0-9a-fA-F`]{5,17})"
)
_ASSUMED: Final = re.compile(r"\W*Assumed heap\s*:\s*(?:0x)?([0-9a-fA-F`]{5,17})")
_FLAGS: Final = re.compile(r"\W*Block flags\s*:\s*0x[0-9a-fA-F]{1,4}\s*\((busy|free)?")
_REQUESTED: Final = re.compile(r"\W*Requested size\s*:\s*0x([0-9a-fA-F]{1,16})")
_WHOLE: Final = re.compile(
    r"\W*Total block size\s*:\s*0x[0-9a-fA-F]{1,16} units \(0x([0-9a-fA-F]+)"
)
_REST: Final = re.compile(
    r"\W*(?:Header content|Owning segment|Previous block|Next block|Block CRC)\b.*:"
)
_CONTENT: Final = re.compile(r"`(?:vf|vb|local vf)table'")
_FRAME: Final = re.compile(
    r"\s*((?:[0-9a-fA-F]{1,3}\s+)?[0-9a-fA-F`]{6,17}:?\s+)?((?:[\w.$?@-]{1,80}!)\S.{0,300})$"
)
_MOST_FRAMES: Final = 64
_MOST_BLOCKS: Final = 10_000


@dataclass(slots=True)
class _Asked:
    address: int
    line: int
    handle: int | None = None
    size: int | None = None
    state: str = ""
    detailed: bool = False
    stack: list[str] = field(default_factory=list)


@dataclass(slots=True)
class AskedReader:
    """Collects them. Lines that others read too are looked at and left to those."""

    asked: list[AskedBlock] = field(default_factory=list)
    _open: _Asked | None = None

    def close(self) -> None:
        """What was open ends here."""
        one, self._open = self._open, None
        if one is None or len(self.asked) >= _MOST_BLOCKS:
            return
        self.asked.append(
            AskedBlock(one.address, one.handle, one.size, one.state, tuple(one.stack), one.line)
        )

    def feed(self, number: int, text: str) -> bool:
        """Read a line; False when it is of none of these kinds, or others need it too."""
        found = _FOUND.match(text) or _DETAILED.match(text)
        if found:
            self.close()
            self._open = _Asked(address_of(found[1]), number, detailed="etailed" in text)
            return True
        one = self._open
        if one is None:
            return False
        return self._of_header(one, text) if one.detailed else self._of_place(one, text)

    @staticmethod
    def _of_header(one: _Asked, text: str) -> bool:
        if found := _ASSUMED.match(text):
            one.handle = address_of(found[1])
        elif found := _FLAGS.match(text):
            one.state = found[1] or ""
        elif found := _REQUESTED.match(text):
            one.size = int(found[1], 16)
        elif found := _WHOLE.match(text):
            one.size = int(found[1], 16) if one.size is None else one.size
        else:
            return _REST.match(text) is not None
        return True

    @staticmethod
    def _of_place(one: _Asked, text: str) -> bool:
        if found := _HEAP.match(text):
            one.handle = address_of(found[1])
            return True
        if found := _ENTRY.match(text) or _OLD_ENTRY.match(text):
            one.size, one.state = int(found[1], 16), found[2]
            return True
        if found := _PAGES.match(text):
            one.state = found[1]
            return True
        if one.state and one.size is None and (found := _PAGE_BLOCK.match(text)):
            # A freed block's row has its pages only.
            one.size = int(found[2], 16) if one.state == "busy" else None
            return True
        frame = _FRAME.match(text)
        # What the block begins with is no frame: a class, or text.
        own = (
            frame is not None
            and not _CONTENT.search(text)
            and (frame[1] is not None or "+" in frame[2])
        )
        if frame and own and len(one.stack) < _MOST_FRAMES:
            one.stack.append(frame[2].strip())
        return own or "HEAP_ENTRY Size" in text or "in HEAP_ENTRY: Size" in text
