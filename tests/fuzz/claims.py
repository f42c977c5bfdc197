"""Small core files whose headers claim anything: sizes, places, names, threads."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

__all__ = ["Claims"]

_NAMES = (
    "/usr/lib/x86_64-linux-gnu/libc.so.6", "/usr/lib/libjemalloc.so.2", "/usr/bin/python3.12",
    "/usr/lib/libpython3.8.so.1.0", "/usr/bin/node", "/lib/ld-musl-x86_64.so.1", "/opt/envoy",
    "/tmp/a\x1b[2J\n", "/memfd:java_heap", "/dev/shm/x", "/anon_hugepage", "/usr/lib/libdmi.so",
    "relative", "",
)  # fmt: skip
_MARKS = (
    b"<jemalloc>: ", b"mimalloc: ", b"tcmalloc.pageheap_unmapped_bytes", b"\xff Go buildinf:",
    b"GCRTS", b"\0No error information\0", b"xdebugpy",
)  # fmt: skip
_PAGE = 4096


class Claims:
    """A file in memory that is written anew each time."""

    def __init__(self, bodies: Sequence[bytes]) -> None:
        self.bodies = bodies
        self.file = os.memfd_create("dmi-claims", os.MFD_CLOEXEC)

    @property
    def path(self) -> Path:
        """A name that opens it."""
        return Path(f"/proc/self/fd/{self.file}")

    def write(self, chance: random.Random) -> None:
        """Another one."""
        # A file of thousands takes as long as twenty others.
        count = 3000 if chance.random() < 0.04 else chance.choice((1, 3, 10, 40, 40, 400))
        spans = [self._span(chance) for _ in range(count)]
        notes = self._notes(chance, spans)
        first = -(-(64 + 56 * (count + 1) + len(notes)) // _PAGE) * _PAGE
        body = self._body(chance)
        size = first + len(body)
        table = struct.pack("<IIQQQQQQ", 4, 0, 64 + 56 * (count + 1), 0, 0, len(notes), 0, 4)
        for start, end in spans:
            length = end - start
            filled = chance.choice((0, length, min(length, _PAGE), min(length, len(body))))
            offset = chance.choice((first, chance.randrange(first, size) & -_PAGE, size - 100))
            flags = chance.choice((4, 5, 6, 6, 6, 6, 7, 0))
            table += struct.pack("<IIQQQQQQ", 1, flags, offset, start, 0, filled, length, _PAGE)
        head = struct.pack(
            "<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 4, chance.choice((62, 62, 62, 183)), 1,
            0, 64, 0, 0, 64, 56, count + 1, 64, 0, 0,
        )  # fmt: skip
        os.truncate(self.file, 0)
        os.pwrite(self.file, head + table + notes, 0)
        os.pwrite(self.file, body, first)
        if chance.random() < 0.2:
            # A hole that nobody wrote, as the kernel leaves for pages of zeros.
            os.truncate(self.file, size + chance.choice((1 << 20, 1 << 33, 1 << 40)))

    def _span(self, chance: random.Random) -> tuple[int, int]:
        start = chance.getrandbits(chance.choice((20, 32, 44, 47, 47, 47, 64))) & -_PAGE
        if chance.random() < 0.2:
            start &= -1 << 26
        length = (chance.getrandbits(chance.choice((14, 20, 24, 31, 36, 46))) & -_PAGE) + _PAGE
        return start, min(start + length, (1 << 64) - _PAGE)

    def _body(self, chance: random.Random) -> bytes:
        whole = chance.choice(self.bodies)
        at = chance.randrange(max(1, len(whole) - (64 << 10))) & -_PAGE
        body = bytearray(whole[at : at + (64 << 10)])
        for _ in range(chance.choice((0, 1, 4))):
            mark = chance.choice(_MARKS)
            where = chance.randrange(len(body) - len(mark))
            body[where : where + len(mark)] = mark
        return bytes(body)

    def _notes(self, chance: random.Random, spans: Sequence[tuple[int, int]]) -> bytes:
        named = [chance.choice(spans) for _ in range(min(len(spans), chance.choice((0, 2, 30))))]
        told = struct.pack("<2Q", len(named), _PAGE)
        told += b"".join(struct.pack("<3Q", *span, chance.choice((0, 0, 1))) for span in named)
        told += b"".join(chance.choice(_NAMES).encode() + b"\0" for _ in named)
        where = [*(start for start, _ in spans), 0, chance.getrandbits(64)]
        vector = (6, chance.choice((4096, 65536, 1, 0)), 9, chance.choice(where),
                  25, chance.choice(where), 33, chance.choice(where), 0, 0)  # fmt: skip
        parts = [_note(0x46494C45, told), _note(6, struct.pack("<10Q", *vector))]
        for number in range(chance.choice((0, 1, 8, 300))):
            status = bytearray(336)
            struct.pack_into("<I", status, 32, number)
            struct.pack_into("<Q", status, 112 + 19 * 8, chance.choice(where) + 8)
            parts.append(_note(1, bytes(status)))
        chance.shuffle(parts)
        return b"".join(parts)


def _note(kind: int, body: bytes) -> bytes:
    return struct.pack("<III8s", 5, len(body), kind, b"CORE") + body + bytes(-len(body) % 4)
