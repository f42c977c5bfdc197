"""Core files made by hand of what lies beside glibc's arenas: pymalloc, jemalloc, mapped blocks.

Struct by struct from the public declarations, as in ``images``; what was put in is given back.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .images import HEAP, LIBC, Expected, Glibc, Image, glibc_image

PYTHON = 0x555554000000
ARENAS = 0x7F0004000000
OTHER = 0x7F0002000000
JEMALLOC = 0x7F0010000000
EXTENTS = 0x7F0020000000
MAPPED = 0x7F0000800000
SCATTERED = 0x7F0000900000
GO = 0xC000000000
MIMALLOC = 0x30000000000
LOADER = 0x7F00A0001000
STACKS = 0x7F0090000000
MAIN_BLOCK = 0x7F0098000000
_GIB = 30


@dataclass
class Objects:
    """What an interpreter has: bytes of busy blocks, of free ones in used pools, and its pools."""

    busy: int = 0
    free: int = 0
    used_pools: int = 0
    arenas: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Pymalloc:
    """How CPython 3.x lays out its pools."""

    minor: int

    @property
    def pool(self) -> int:
        return 16 << 10 if self.minor >= 10 else 4 << 10

    @property
    def arena(self) -> int:
        return 1 << 20 if self.minor >= 10 else 256 << 10


def pymalloc_image(version: Pymalloc) -> tuple[Image, list[Objects]]:
    """A Python with two arenas; from 3.13 on with a second interpreter that has one."""
    image = Image()
    size = version.arena
    image.add(PYTHON, 0x8000, f"/usr/bin/python3.{version.minor}")
    image.add(ARENAS, 2 * size)
    image.add(OTHER, size + 0x4000)
    vector = OTHER + size + 0x100
    table = PYTHON + 0x4000
    # The block of malloc's that the vector lies in.
    image.put(vector - 8, 48 * 16 + 16 | 1)
    found = [_objects(image, version, table, vector, [ARENAS, ARENAS + size])]
    if version.minor >= 12:
        image.put(table + 512, vector, 16)
    else:
        image.put(PYTHON + 0x5000, vector)
    if version.minor >= 13:
        second = OTHER + size + 0x2000
        found.append(_objects(image, version, second, second + 0x800, [OTHER]))
        image.put(second + 512, second + 0x800, 16)
        first, last, length = PYTHON + 0x1000, OTHER + size + 0x1000, 0x200
        image.put_bytes(PYTHON, b"xdebugpy")
        image.put(PYTHON + 8, 0x030D00F0, 0, 0x3000, 8, 0x300, length, 8, 0)
        image.put(PYTHON + 0x300, first)
        image.put(first, last, 0, table)
        image.put(last, 0, 1, second)
    return image, found


def _objects(
    image: Image, version: Pymalloc, table: int, vector: int, arenas: list[int]
) -> Objects:
    pool, found = version.pool, Objects(arenas=arenas)
    heads = {number: table + 16 * number - 16 for number in range(32)}
    for number, head in heads.items():
        image.put(table + 16 * number, head, head)
    # Those that are no arenas stand in a list.
    for index in range(len(arenas), 16):
        following = vector + 48 * (index + 1) if index < 15 else 0
        image.put(vector + 48 * index, 0, 0, 0, 0, following, 0)
    for index, address in enumerate(arenas):
        pools = version.arena // pool
        carved = min(pools, 24) - 3 - index
        image.put(vector + 48 * index, address, address + carved * pool)
        image.put(vector + 48 * index + 16, pools - carved | pools << 32)
        for number in range(carved):
            size_class = number * 5 % 32
            block = 16 * (size_class + 1)
            room = (pool - 48) // block
            at = address + number * pool
            busy = 1 + number * 7 % room
            following = min(48 + (busy + 2) * block, 48 + room * block)
            # The first blocks that were carved and are free again lead to each other.
            free = at + 48 + busy * block if busy < room else 0
            last = pool - block
            head = heads[size_class] if busy < room else 0
            image.put(at, busy, free, head, head)
            image.put(at + 32, index | size_class << 32, following | last << 32)
            if busy < room:
                image.put(table + 16 * size_class, at, at)
                if following > 48 + (busy + 1) * block:
                    image.put(free, free + block)
                    image.put(free + block, 0)
            found.busy += busy * block
            found.free += (room - busy) * block
            found.used_pools += 1
    return found


def jemalloc_image() -> tuple[Image, int]:
    """A jemalloc in a library, and the bytes of its extents: tree of two levels, and structs."""
    image = Image()
    table = 8 << 18
    name = "/opt/lib/libcarrier.so"
    image.add(JEMALLOC - 0x1000, 0x1000, name, program=True)
    image.add(JEMALLOC, table + 0x2000, name)
    image.add(EXTENTS, 0x400000)
    image.add(EXTENTS + 0x1000000, 0x200000)
    leaf, structs = EXTENTS, EXTENTS + table
    image.put(JEMALLOC + 0x1000 + 8 * (EXTENTS >> _GIB), leaf)
    total = 0
    for number in range(16):
        start = EXTENTS + 0x1000000 + number * 0x20000
        size = 0x20000
        at = structs + 128 * number
        image.put(at, 0, start | number, size | 1)
        for page in range(start, start + size, 4096):
            image.put(leaf + 8 * (page >> 12 & (1 << 18) - 1), at)
        total += size
    return image, total


def musl_image() -> Image:
    """A group of blocks of musl, and its struct in an array."""
    image = Image()
    image.add(PYTHON, 0x3000, "/opt/small", program=True)
    image.add(HEAP, 0x200000)
    where = HEAP + 0x1000 + 24 + 40 * 3
    image.put(HEAP, where)
    image.put(where, 0, 0, HEAP, 0, 9 << 6)
    return image


def runtimes_image() -> Image:
    """Go's heap and mimalloc's, where they alone ask for memory, and what the files say."""
    image = Image()
    image.add(PYTHON, 0x3000, "/opt/service", program=True)
    image.put_bytes(PYTHON + 0x1000, b"\xff Go buildinf:")
    image.add(GO, 0x300000)
    image.add(LIBC, 0x3000, "/usr/lib/libmimalloc.so.3", program=True)
    image.put_bytes(LIBC + 0x1000, b"mimalloc: ")
    image.add(MIMALLOC, 0x200000)
    return image


def stacks_image() -> tuple[Image, list[tuple[int, int]], list[tuple[int, int]]]:
    """The loader of glibc 2.42, and one mapping of six stacks without guards and of 1 MiB of
    another's: stacks in use, and those that wait. One more was brought by the program."""
    image = Image()
    image.add(LOADER - 0x1000, 0x1000, "/usr/lib/ld-linux-x86-64.so.2", program=True)
    image.add(LOADER, 0x2000, "/usr/lib/ld-linux-x86-64.so.2")
    image.add(STACKS, 6 * 0x21000 + 0x100000)
    image.add(MAIN_BLOCK, 0x2000)
    stacks = [(STACKS + 0x21000 * n, STACKS + 0x21000 * (n + 1)) for n in range(6)]
    blocks = [(end - 0x940, start, end - start) for start, end in stacks]
    brought = (STACKS + 6 * 0x21000 + 0x8F6C0, STACKS + 6 * 0x21000 + 0x80000, 0x10000)
    main = (MAIN_BLOCK + 0x40, 0, 0)
    for number, listed in enumerate((blocks[:4:2], [brought, main], [*blocks[1:4:2], *blocks[4:]])):
        head = LOADER + 0x810 + 16 * number
        nodes = [head, *(at + 0x2C0 for at, _, _ in listed), head]
        image.put(head, nodes[1], nodes[-2])
        for place, (at, start, size) in enumerate(listed, 1):
            image.put(at, at, 1, at)
            image.put(at + 0x2C0, nodes[place + 1], nodes[place - 1])
            image.put(at + 0x2D0, 4711 + place if number == 0 else 0)
            image.put(at + 0x690, start, size)
    return image, stacks[:4:2], [*stacks[1:4:2], *stacks[4:]]


def scattered_image(version: Glibc) -> tuple[Image, list[Expected]]:
    """As ``glibc_image``, with blocks mapped on their own, and a main arena that is told not to be
    one stretch."""
    image, expected = glibc_image(version)
    image.put(LIBC + 0x800, 2 << 32)
    image.add(MAPPED, 3 * (200 << 10))
    for number in range(3):
        header = 200 << 10 if version.minor < 43 else (200 << 10) - 16
        image.put(MAPPED + number * (200 << 10), 0, header | 2)
    image.add(SCATTERED, 0x21000)
    image.put(SCATTERED + 8, 0x1000 | 1)
    image.put(SCATTERED + 0x1008, 0x1FFE0 | 1)
    image.put(SCATTERED + 0x20FE0, 0x1FFE0, 16)
    image.put(SCATTERED + 0x20FF8, 16 | 1)
    # The last chunk of the first bin leads there.
    head = LIBC + 0x800 + version.prefix - 16
    image.put(head + 16 + 32, SCATTERED + 0x1000, SCATTERED + 0x1000)
    image.put(SCATTERED + 0x1010, head + 32, head + 32)
    return image, expected


PYTHONS = (7, 9, 11, 12, 13, 14)
PLACES = (
    HEAP,
    LIBC,
    PYTHON,
    ARENAS,
    JEMALLOC,
    EXTENTS,
    MAPPED,
    SCATTERED,
    GO,
    MIMALLOC,
    STACKS,
    LOADER + 0x810,
)
