"""What a profile is made of: the records in it, and the words of its file."""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = [
    "CUT",
    "FATES",
    "KIND",
    "SNAPSHOT",
    "VERSION",
    "Allocated",
    "Block",
    "Frame",
    "Large",
    "Mapped",
    "MarkedPage",
]

KIND: Final = "dmi-profile"
SNAPSHOT: Final = "dmi-snapshot"
"""The format of a file that may carry one."""
VERSION: Final = 1
CUT: Final = "(cut)"
"""The function, without a file, that stands in the place of frames that are missing further out."""
FATES: Final = ("pinned", "goes_back", "empty")


class Mapped(NamedTuple):
    """A file that the process executes, from ``start`` up to ``end``, as of ``offset`` of it."""

    start: int
    end: int
    offset: int
    path: str


class Frame(NamedTuple):
    """A frame of a stack: a return address of native code, or a line of Python (address None)."""

    address: int | None
    file: str = ""
    function: str = ""
    line: int = 0

    @property
    def is_cut(self) -> bool:
        """Whether it stands for frames that are missing."""
        return self.address is None and self.function == CUT and not self.file


class Block(NamedTuple):
    """A busy block on a marked page. stack is a place in Profile.stacks, None where it is not
    known. times: how many blocks of its page it stands for where stacks matter; 0: chance left its
    stack out, and others stand for it."""

    address: int
    size: int
    stack: int | None
    type: str | None = None
    times: int = 1


class MarkedPage(NamedTuple):
    """A page that was chosen at random, and every busy block on it. It stands for ``weight``
    pages."""

    heap: str
    weight: float
    bytes: int
    free: int
    fate: str
    blocks: tuple[Block, ...]
    page: int | None = None
    """Where it begins, where that is told."""

    def on_page(self, block: Block) -> int:
        """The bytes of a block that lie on the page; all of them where the page's place is not
        known."""
        if self.page is None:
            return min(block.size, self.bytes)
        first = max(block.address, self.page)
        return max(0, min(block.address + block.size, self.page + self.bytes) - first)


class Large(NamedTuple):
    """A block that is recorded by itself; it stands for ``weight`` blocks."""

    address: int
    size: int
    retained: int
    weight: float
    stack: int | None


class Allocated(NamedTuple):
    """What one stack has allocated since the sampler began, already weighted."""

    stack: int | None
    bytes: float
    number: float
    samples: int
