"""A profile: which stacks hold the marked pages of a process at one moment."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dmi import _files
from dmi.profile import _read
from dmi.profile._parts import (
    KIND,
    VERSION,
    Allocated,
    Block,
    Frame,
    Large,
    Mapped,
    MarkedPage,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

__all__ = ["Profile"]


@dataclass(frozen=True, slots=True)
class Profile:
    """One moment, as docs/profile-format.md describes its file. Addresses have no names yet."""

    one_in: int
    pid: int
    time: float
    page_bytes: int
    program: str
    mappings: tuple[Mapped, ...]
    frames: tuple[Frame, ...]
    stacks: tuple[tuple[int, ...], ...]
    marks: tuple[MarkedPage, ...]
    large: tuple[Large, ...]
    allocated: tuple[Allocated, ...]
    lost_stacks: int = 0
    lost_marks: int = 0
    memory: int | None = None
    """Bytes that the sampler took; None: not told."""

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Profile:
        """Read a profile, or that of a snapshot. ValueError, naming the file and the first fault,
        for anything else."""
        return cls(**_read.read_profile(path))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Profile:
        """The inverse of as_dict(). ValueError names the first fault."""
        return cls(**_read.checked(values))

    def as_dict(self) -> dict[str, Any]:
        """For JSON: docs/profile-format.md."""
        return {
            "kind": KIND,
            "version": VERSION,
            "one_in": self.one_in,
            "pid": self.pid,
            "time": self.time,
            "page_bytes": self.page_bytes,
            "program": self.program,
            "mappings": [each._asdict() for each in self.mappings],
            "frames": [
                {"address": frame.address}
                if frame.address is not None
                else {"file": frame.file, "function": frame.function, "line": frame.line}
                for frame in self.frames
            ],
            "stacks": [list(stack) for stack in self.stacks],
            "marks": [_mark(each) for each in self.marks],
            "large": [each._asdict() for each in self.large],
            "allocated": [list(each) for each in self.allocated],
            "lost": {"stacks": self.lost_stacks, "marks": self.lost_marks},
            **({} if self.memory is None else {"memory": self.memory}),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file: a new one, mode 0600, which appears whole. OSError as usual."""
        _files.write_text(path, json.dumps(self.as_dict(), separators=(",", ":")) + "\n")

    def __repr__(self) -> str:
        return (
            f"<dmi.profile.Profile of process {self.pid}: {len(self.marks)} marked pages, one in "
            f"{self.one_in}>"
        )


def _told(block: Block) -> tuple[object, ...]:
    if block.times != 1:
        return block
    return block[:3] if block.type is None else block[:4]


def _mark(each: MarkedPage) -> dict[str, Any]:
    values: dict[str, Any] = {
        "heap": each.heap,
        "weight": each.weight,
        "bytes": each.bytes,
        "free": each.free,
        "fate": each.fate,
        "blocks": [list(_told(block)) for block in each.blocks],
    }
    if each.page is not None:
        values["page"] = each.page
    return values
