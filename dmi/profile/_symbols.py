"""From the frames of a profile to places in source, at the time of the report."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final, NamedTuple

from dmi.profile._elf import ElfCode
from dmi.profile._own import (
    Owner,
    line_of,
    owner_of_file,
    owner_of_function,
    without_allocator,
)
from dmi.profile._parts import CUT

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from dmi.profile._model import Profile
    from dmi.profile._parts import Frame, Mapped

__all__ = ["NO_STACK", "Place", "Resolver", "printable"]

NO_STACK: Final = "(no stack)"


class Place(NamedTuple):
    """A frame with its names, as far as they are known. file is the source, module the file that
    was executed; offset is into the function, or into the module where no function is known."""

    function: str
    file: str
    line: int
    module: str
    offset: int
    owner: Owner
    is_python: bool

    @property
    def name(self) -> str:
        """As short as it can be said: file:line, else symbol + offset, else module + offset."""
        return printable(self._name())

    def _name(self) -> str:
        if self.file:
            where = f"{short(self.file)}:{self.line}" if self.line else short(self.file)
            return f"{where} {self.function}".rstrip()
        if self.function == CUT:
            return CUT
        module = short(self.module) or "?"
        if self.function:
            return f"{self.function}+{self.offset:#x} ({module})"
        return f"{module}+{self.offset:#x}"

    @property
    def function_name(self) -> str:
        """The function, and where it is from."""
        if self.function == CUT:
            return CUT
        if not self.function:
            return printable(f"({short(self.module) or '?'})")
        return printable(f"{self.function} ({short(self.file or self.module) or '?'})")


def printable(name: str) -> str:
    """A name of somebody's file, without what a terminal would obey."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in name)


def short(path: str) -> str:
    """A path's last part, of Python's packages the last two."""
    head, _, name = path.rpartition("/")
    if name in ("__init__.py", "__main__.py") and head:
        return f"{head.rpartition('/')[2]}/{name}"
    return name or path


class Resolver:
    """Names for one profile. Files are read when they are first needed and kept open till
    close()."""

    def __init__(self, profile: Profile, *, skip: Collection[str] = ()) -> None:
        self._profile = profile
        self._skip = frozenset(skip)
        self._mappings = sorted(profile.mappings)
        self._starts = [each.start for each in self._mappings]
        self._code: dict[str, ElfCode] = {}
        self._frames: dict[int, tuple[Place, ...]] = {}
        self._stacks: dict[int, tuple[Place, ...]] = {}
        self._lines: dict[int, Place | None] = {}

    def __enter__(self) -> Resolver:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        for code in self._code.values():
            code.close()

    def stack(self, number: int | None) -> Sequence[Place]:
        """The places of a stack, innermost first, without the allocator at its top; empty for
        None."""
        if number is None:
            return ()
        found = self._stacks.get(number)
        if found is None:
            whole = [
                place for frame in self._profile.stacks[number] for place in self.places(frame)
            ]
            found = self._stacks[number] = tuple(without_allocator(whole, self._skip))
        return found

    def line(self, number: int | None) -> Place | None:
        """The place that a stack counts for by line."""
        if number is None:
            return None
        if number not in self._lines:
            self._lines[number] = line_of(self.stack(number))
        return self._lines[number]

    def places(self, frame: int) -> tuple[Place, ...]:
        """The places of one frame: more than one where functions were inlined."""
        found = self._frames.get(frame)
        if found is None:
            found = self._frames[frame] = tuple(self._places(self._profile.frames[frame]))
        return found

    def mapping(self, address: int) -> Mapped | None:
        """The mapping that holds an address."""
        place = bisect_right(self._starts, address) - 1
        if place < 0 or address >= self._mappings[place].end:
            return None
        return self._mappings[place]

    def _places(self, frame: Frame) -> list[Place]:
        if frame.is_cut:
            return [Place(CUT, "", 0, "", 0, "runtime", False)]
        if frame.address is None:
            owner = owner_of_file(frame.file, python=True)
            return [Place(frame.function, frame.file, frame.line, "", 0, owner, True)]
        # A return address is behind the call; the call may be the last of its line.
        address = max(0, frame.address - 1)
        mapping = self.mapping(address)
        if mapping is None:
            return [Place("", "", 0, "", frame.address, "library", False)]
        owner = owner_of_file(mapping.path)
        if mapping.path and mapping.path == self._profile.program and owner == "library":
            owner = "program"
        offset = address - mapping.start + mapping.offset
        # Of the C library symbols are enough; its debugging information takes seconds to read.
        code = self._of_file(mapping.path, lines=owner not in ("runtime", "allocator")).at(offset)
        if not code:
            return [Place("", "", 0, mapping.path, offset, owner, False)]
        return [
            Place(
                each.function,
                each.file,
                each.line,
                mapping.path,
                each.offset,
                owner_of_function(each.function, each.file, owner),
                False,
            )
            for each in code
        ]

    def _of_file(self, path: str, *, lines: bool) -> ElfCode:
        found = self._code.get(path)
        if found is None:
            found = self._code[path] = ElfCode(path, lines=lines)
        return found
