"""Core files made by hand: what glibc of any version leaves in memory, struct by struct.

Written from the public declarations of each version. The builder knows what it put where, so that
tests know what must be found.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

LIBC = 0x7F0000100000
HEAP = 0x555555000000
ARENA_HEAP = 0x7F0008000000
HEAP_MAX = 64 << 20
KEY = 0x1234567890ABCDEF


@dataclass(frozen=True)
class Glibc:
    """How one version lays out what a reader needs. minor: of 2.x."""

    minor: int

    @property
    def fastbins(self) -> bool:
        return self.minor < 43

    @property
    def prefix(self) -> int:
        """From the arena to its bins."""
        if not self.fastbins:
            return 24
        return 112 if self.minor >= 27 else 104

    @property
    def cache(self) -> tuple[int, int, int]:
        """(chunk size, bins, bytes of a count) of a thread's cache."""
        if self.minor >= 42:
            return 0x300, 76, 2
        return (0x290, 64, 2) if self.minor >= 30 else (0x250, 64, 1)

    @property
    def heap_info(self) -> int:
        return 48 if self.minor >= 35 else 32

    def link(self, at: int, to: int) -> int:
        """A link of a fastbin or a cache as it is kept."""
        return to ^ (at >> 12) if self.minor >= 32 else to


@dataclass
class Image:
    """Segments of memory: address, bytes, file name."""

    segments: dict[int, tuple[bytearray, str]] = field(default_factory=dict)
    programs: set[int] = field(default_factory=set)
    """Those that can be executed, and not written."""

    def add(self, address: int, size: int, name: str = "", *, program: bool = False) -> None:
        self.segments[address] = (bytearray(size), name)
        if program:
            self.programs.add(address)

    def put(self, address: int, *words: int) -> None:
        for base, (data, _) in self.segments.items():
            if base <= address < base + len(data):
                struct.pack_into(f"<{len(words)}Q", data, address - base, *words)
                return
        raise AssertionError(hex(address))

    def put_bytes(self, address: int, raw: bytes) -> None:
        for base, (data, _) in self.segments.items():
            if base <= address < base + len(data):
                data[address - base : address - base + len(raw)] = raw
                return
        raise AssertionError(hex(address))

    def save(self, path: Path) -> Path:
        """As a core file of x86-64."""
        path.write_bytes(self.core())
        return path

    def core(self) -> bytes:
        files = [
            (base, base + len(data), name) for base, (data, name) in self.segments.items() if name
        ]
        body = struct.pack("<QQ", len(files), 4096)
        body += b"".join(struct.pack("<QQQ", start, end, 0) for start, end, _ in files)
        body += b"".join(name.encode() + b"\0" for _, _, name in files)
        notes = _note(0x46494C45, body) + _note(6, struct.pack("<4Q", 6, 4096, 0, 0))
        status = bytearray(336)
        struct.pack_into("<I", status, 32, 4711)
        notes += _note(1, bytes(status))
        count = len(self.segments) + 1
        offset = -(-(64 + 56 * count + len(notes)) // 4096) * 4096
        head = b"\x7fELF\x02\x01\x01" + bytes(9)
        head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, count, 64, 0, 0)
        table = struct.pack("<IIQQQQQQ", 4, 0, 64 + 56 * count, 0, 0, len(notes), 0, 4)
        bodies = b""
        for base, (data, _) in sorted(self.segments.items()):
            flags = 5 if base in self.programs else 6
            table += struct.pack(
                "<IIQQQQQQ", 1, flags, offset + len(bodies), base, 0, len(data), len(data), 4096
            )
            bodies += bytes(data)
        whole = head + table + notes
        return whole + bytes(offset - len(whole)) + bodies


def _note(kind: int, body: bytes) -> bytes:
    return struct.pack("<III", 5, len(body), kind) + b"CORE\0\0\0\0" + body + bytes(-len(body) % 4)


@dataclass
class Expected:
    """What was put into one arena, bytes of chunks."""

    busy: int = 0
    binned: int = 0
    fast: int = 0
    tcache: int = 0
    top: int = 0
    trim: int = 0


def glibc_image(version: Glibc) -> tuple[Image, list[Expected]]:
    """A process with a main arena and one of a thread; and what is in each."""
    image = Image()
    image.add(LIBC, 0x4000, "/usr/lib/x86_64-linux-gnu/libc.so.6")
    image.add(HEAP, 0x100000)
    image.add(ARENA_HEAP, 0x80000)
    main = LIBC + 0x800
    other = ARENA_HEAP + version.heap_info
    expected = [
        _arena(image, version, main, HEAP, HEAP + 0x100000, other, main=True),
        _arena(image, version, other, 0, ARENA_HEAP + 0x80000, main, main=False),
    ]
    image.put(ARENA_HEAP, other, 0, 0x80000, 0x80000)
    # malloc's parameters: the counts in two orders, three blocks of 600 KiB in all.
    counts = (3, 65536, 5, 0)
    at = LIBC + 0x200
    newer = struct.pack("<5i4x", 0, *counts)
    raw = newer if version.minor >= 35 else struct.pack("<4i", *counts)
    raw += struct.pack("<6Q", 600 << 10, 900 << 10, HEAP, 64, 1032, 7)
    image.put_bytes(at, raw)
    return image, expected


def _arena(
    image: Image, version: Glibc, arena: int, start: int, end: int, following: int, *, main: bool
) -> Expected:
    bins = arena + version.prefix
    head = bins - 16
    for number in range(127):
        image.put(bins + 16 * number, head + 16 * number, head + 16 * number)
    behind = bins + 127 * 16
    system = end - (start or arena & ~0xFFFF)
    image.put(behind + 16, following, 0, 1, system, system)
    found, flags = Expected(), 0 if main else 4
    at = start or -(-(behind + 56) // 16) * 16
    size, count, width = version.cache
    cache = at

    def chunk(length: int, before: int = 1) -> int:
        nonlocal at
        image.put(at + 8, length | flags | before)
        mine, at = at, at + length
        return mine

    chunk(size)
    found.busy += size
    # Blocks that the program has; then some of each kind, with busy ones between.
    binned: list[tuple[int, int]] = []
    before = 1
    for number in range(60):
        length = 48 + 16 * (number % 7)
        chunk(length, before)
        found.busy += length
        before = 1
        if number % 3 == 0:
            length = 160 + 512 * number
            mine = chunk(length)
            image.put(mine + 8, length | 1)
            binned.append((mine, length))
            image.put(at, length)
            found.binned += length
            low, high = -(-(mine + 48) // 4096) * 4096, (mine + length) // 4096 * 4096
            if length > 4095 + 48 and high > low:
                found.trim += high - low
            before = 0
    chunk(64, before)
    found.busy += 64
    cached = [chunk(80) for _ in range(5)]
    found.tcache += 400
    fast = [chunk(32) for _ in range(4)] if version.fastbins else []
    found.fast += 32 * len(fast)
    chunk(4096)
    found.busy += 4096
    # The bins: all in the first, which is the unsorted one.
    ring = [head, *(mine for mine, _ in binned)]
    for place, mine in enumerate(ring):
        image.put(mine + 16, ring[(place + 1) % len(ring)], ring[place - 1])
    # The thread's cache: five blocks of 64 bytes in its bin 3.
    counts = [0] * count
    if version.minor >= 42:
        counts = [16] * count
        counts[3] = 11
    else:
        counts[3] = 5
    raw = struct.pack(f"<{count}{'BH'[width - 1]}", *counts)
    entries = [0] * count
    entries[3] = cached[-1] + 16
    image.put_bytes(cache + 16, raw + struct.pack(f"<{count}Q", *entries))
    for place, mine in enumerate(cached):
        key = KEY if version.minor >= 34 else cache + 16 if version.minor >= 29 else 0
        below = cached[place - 1] + 16 if place else 0
        image.put(mine + 16, version.link(mine + 16, below), key)
    for place, mine in enumerate(fast):
        image.put(mine + 16, version.link(mine + 16, fast[place - 1] if place else 0))
    if fast:
        image.put(bins - 16 - 80, fast[-1])
    image.put(bins - 16, at)
    found.top = end - at
    image.put(at + 8, found.top | 1)
    if main:
        found.trim += (found.top - 33) // 4096 * 4096
    return found
