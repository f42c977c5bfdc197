"""A file in memory that is damaged and mended in place: a look costs enough without copies."""

from __future__ import annotations

import mmap
import os
import struct
from array import array
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

__all__ = ["Sample"]

_PAGE = 4096
_HEADERS = 0x1000
"""Bytes in which the headers and notes of the samples lie."""


class Sample:
    """One sound file, and what of it is damaged now."""

    def __init__(self, whole: bytes, values: Sequence[int] = ()) -> None:
        self.whole = whole
        self.values = (0, 1, 16, 17, 33, 0xFF0, 1 << 40, (1 << 64) - 16, *values)
        self.file = os.memfd_create("dmi-core", os.MFD_CLOEXEC)
        os.truncate(self.file, len(whole))
        self.data = mmap.mmap(self.file, len(whole))
        self.data[:] = whole
        words = array("Q", whole[: len(whole) & ~7])
        self.places = array("Q", (8 * number for number, word in enumerate(words) if word))
        """Where something stands: most of a memory is zeros, and damage there shows nothing."""
        self.changed: list[tuple[int, int]] = []
        self.cut = len(whole)

    @property
    def path(self) -> Path:
        """A name that opens it."""
        return Path(f"/proc/self/fd/{self.file}")

    def damage(self, chance: random.Random) -> None:
        """A few words changed, most of them where structs lie; pages copied, rows of words moved
        by one, fields of headers; sometimes the file is cut off."""
        for _ in range(chance.choice((1, 1, 2, 5, 50))):
            kind = chance.random()
            if kind < 0.8:
                self._word(chance)
            elif kind < 0.93:
                self._field(chance)
            else:
                self._block(chance)
        if chance.random() < 0.05:
            self.cut = chance.randrange(len(self.whole))
            os.truncate(self.file, self.cut)

    def mend(self) -> None:
        """As it was."""
        size = len(self.whole)
        if self.cut < size:
            os.truncate(self.file, size)
            self.data[self.cut :] = self.whole[self.cut :]
            self.cut = size
        for at, length in self.changed:
            self.data[at : at + length] = self.whole[at : at + length]
        self.changed.clear()

    def _place(self, chance: random.Random) -> int:
        kind = chance.random()
        if kind < 0.75:
            return chance.choice(self.places)
        span = len(self.whole) - 8
        return chance.randrange(min(span, _HEADERS) // 8 if kind < 0.9 else span // 8) * 8

    def _word(self, chance: random.Random) -> None:
        at = self._place(chance)
        (word,) = struct.unpack_from("<Q", self.data, at)
        match chance.randrange(6):
            case 0:
                word = chance.choice(self.values)
            case 1:
                word = chance.getrandbits(chance.choice((8, 16, 32, 48, 64)))
            case 2:
                word ^= 1 << chance.randrange(64)
            case 3:
                word += chance.choice((-4096, -64, -16, -8, -1, 1, 8, 16, 48, 64, 4096, 1 << 20))
            case 4:
                # Another word of the same file: links that lead elsewhere, and in circles.
                (word,) = struct.unpack_from("<Q", self.whole, chance.choice(self.places))
            case _:
                word = word << 1 if chance.random() < 0.5 else word >> chance.randrange(1, 33)
        self._write(at, struct.pack("<Q", word & (1 << 64) - 1))

    def _field(self, chance: random.Random) -> None:
        size = chance.choice((1, 2, 4))
        span = _HEADERS if chance.random() < 0.7 else len(self.whole)
        at = chance.randrange(min(span, len(self.whole) - 8) // size) * size
        most = (1 << 8 * size) - 1
        value = chance.choice((0, 1, most, most >> 1, chance.randrange(most + 1)))
        self._write(at, value.to_bytes(size, "little"))

    def _block(self, chance: random.Random) -> None:
        """A page or a row of words from elsewhere, or the same moved by a word."""
        length = chance.choice((16, 48, 64, 512, _PAGE))
        last = len(self.whole) - _PAGE - 8
        to = min(self._place(chance), last)
        match chance.randrange(3):
            case 0:
                source = min(self._place(chance), last)
            case 1:
                source = to + 8
            case _:
                source = -1
        self._write(to, bytes(length) if source < 0 else self.whole[source : source + length])

    def _write(self, at: int, raw: bytes) -> None:
        self.data[at : at + len(raw)] = raw
        self.changed.append((at, len(raw)))
