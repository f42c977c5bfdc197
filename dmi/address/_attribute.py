"""Whose memory a range of addresses is.

The kernel names few mappings and merges neighbours of equal rights, so most owners are recognised
by what stands in their memory, and where that cannot be read, by shape alone. This is a heuristic:
it is exact for what the kernel names, and wrong only for memory that looks like its owner by chance
or on purpose. In order, the first match wins:

dmi        mappings named ``[anon:dmi...]``, and ranges that the caller knows: of this process from
           its heaps, of another from what its library says of itself (``_outside``).
image      file mappings of a file that is mapped executable, and the zero-filled end that its ELF
           header asks for.
stack      ``[stack]``; the anonymous mapping that holds a waiting thread's stack pointer, if it has
           a guard or a thread control block; behind an inaccessible guard, one whose end holds a
           glibc thread control block, which contains its own address twice. The guard belongs to
           it.
glibc      64 MiB aligned to 64 MiB that begin with a heap_info: its words say how much can be
           written, and lead to the arena and to the arena's previous heap. The writable part and
           the inaccessible rest.
pymalloc   mappings that Python named; else, in processes that have Python mapped, groups of pools
           of one arena index: the last word of a pool's header equals the pool size less the block
           size of its class. 1 MiB each, 256 KiB before Python 3.10; the start of an arena that
           touches no other mapping's end is known to a pool (16 KiB, 4 KiB).

What is left is a mapped file, the brk heap, the kernel's pages, or other private memory.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ._thread_stacks import LOADER, listed_stacks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ._maps import Mapping, Source

__all__ = ["USAGES", "Piece", "attribute", "control_block", "is_pool"]

USAGES: Final = (
    "HeapDmi",
    "HeapBrk",
    "HeapGlibcArena",
    "HeapPymalloc",
    "Stack",
    "Image",
    "MappedFile",
    "Kernel",
    "Other",
)

Span = tuple[int, int]
DmiRange = tuple[int, int] | tuple[int, int, int]
"""Address and size of what is known to be dmi's, and what of it is committed where known. Bytes."""

_GLIBC_HEAP: Final = 64 << 20
_GLIBC_HEADER: Final = 64
"""At most so many bytes stand before the arena in its first heap."""
_MAX_HEAPS: Final = 1 << 14
"""Heaps looked for in one mapping; a core file may claim mappings of any size."""
_HEAP_PROBES: Final = 1 << 18
"""The same in all mappings."""
_STACK_BYTES: Final = 256 << 20
"""Bytes of stacks that are looked through for where a thread ends."""
_GUARD_MAX: Final = 1 << 20
_TCB_SPAN: Final = 16 << 10
_STACK_SCAN: Final = 8 << 20
_POOL_OVERHEAD: Final = 48
_POOL_CLASSES: Final = 64
_PROBES: Final = 1 << 19
"""Pool addresses looked at in one summary: 8 GiB of resident memory."""
_PYTHON: Final = re.compile(r"/(?:lib)?python3?\.?([0-9]{0,2})[^/]*$")
_NAMED_STACK: Final = re.compile(r"\[anon: glibc: (?:pthread|unused stack)")
_NAMED_PYMALLOC: Final = "[anon:cpython:pymalloc"


@dataclass(slots=True)
class Piece:
    """A part of one mapping that has one owner."""

    start: int
    end: int
    mapping: Mapping
    usage: str
    image: bool = False
    committed: int | None = None
    """Bytes, where the owner knows."""


@dataclass(slots=True)
class _Claims:
    """Sorted spans of one owner. apart: neighbours stay apart."""

    usage: str
    spans: list[Span] = field(default_factory=list)
    apart: bool = False

    def add(self, start: int, end: int) -> None:
        if end > start:
            self.spans.append((start, end))

    def merged(self) -> list[Span]:
        out: list[Span] = []
        for start, end in sorted(self.spans):
            if out and start <= out[-1][1] - self.apart:
                out[-1] = (out[-1][0], max(end, out[-1][1]))
            else:
                out.append((start, end))
        return out


def attribute(
    mappings: list[Mapping], source: Source, dmi_ranges: Iterable[DmiRange] = ()
) -> tuple[list[Piece], list[str]]:
    """Cut ``mappings`` (sorted, not overlapping) into pieces with owners; also notes on what could
    not be told."""
    notes: list[str] = []
    images, zero_filled = _images(mappings, source)
    dmi = _Claims("HeapDmi")
    known = list(dmi_ranges)
    for given in known:
        dmi.add(given[0], given[0] + given[1])
    for mapping in mappings:
        if mapping.name.startswith("[anon:dmi"):
            dmi.add(mapping.start, mapping.end)
    readable = any(m.plain and source.read(m.start, 8) is not None for m in mappings)
    if not readable:
        notes.append(
            "the memory of the process cannot be read: glibc arenas are told by shape, pymalloc "
            "arenas not at all"
        )
    image = _Claims("Image", zero_filled)
    stacks = _stacks(mappings, source)
    arenas = _glibc_arenas(mappings, source, readable)
    taken = _Claims("", dmi.spans + image.spans + stacks.spans + arenas.spans).merged()
    pymalloc = _pymalloc(mappings, source, images, taken, notes)
    layers = [(c.usage, c.merged()) for c in (dmi, image, stacks, arenas, pymalloc)]
    pieces = [piece for mapping in mappings for piece in _cut(mapping, layers, images)]
    known = _disjoint(known)
    starts = [given[0] for given in known]
    for piece in pieces:
        if piece.usage == "HeapDmi":
            first = max(0, bisect_right(starts, piece.start) - 1)
            piece.committed = _committed(piece, known[first : bisect_left(starts, piece.end)])
    return pieces, notes


def _disjoint(ranges: Iterable[DmiRange]) -> list[DmiRange]:
    """By address; of two that overlap only the first, which only a damaged snapshot has."""
    out: list[DmiRange] = []
    for given in sorted(ranges):
        if given[1] > 0 and (not out or given[0] >= out[-1][0] + out[-1][1]):
            out.append(given)
    return out


def _committed(piece: Piece, known: list[DmiRange]) -> int | None:
    """What the ranges say that the piece holds; None unless they cover it and all know."""
    covered = committed = 0
    for given in known:
        overlap = min(given[0] + given[1], piece.end) - max(given[0], piece.start)
        if overlap > 0:
            if len(given) == 2:
                return None
            covered += overlap
            committed += given[2] * overlap // given[1]
    return committed if covered == piece.end - piece.start else None


def _cut(
    mapping: Mapping, layers: list[tuple[str, list[Span]]], images: set[tuple[str, int]]
) -> Iterator[Piece]:
    if mapping.has_file or mapping.shared or mapping.name.startswith("[v"):
        layers = layers[:1]  # only dmi claims memory that is not private and anonymous
    pieces: list[tuple[int, int, str]] = [(mapping.start, mapping.end, "")]
    for usage, spans in layers:
        pieces = [part for piece in pieces for part in _claim(piece, usage, spans)]
    image = (mapping.name, mapping.inode) in images and mapping.has_file
    for start, end, usage in sorted(pieces):
        own = usage or _plain_usage(mapping, image)
        yield Piece(start, end, mapping, own, image or own == "Image")


def _claim(
    piece: tuple[int, int, str], usage: str, spans: list[Span]
) -> Iterator[tuple[int, int, str]]:
    start, end, owner = piece
    if owner or not spans:
        yield piece
        return
    at = start
    for low, high in spans[max(0, bisect_right(spans, (start, 1 << 64)) - 1) :]:
        if low >= end:
            break
        low, high = max(low, at), min(high, end)
        if high > low:
            if low > at:
                yield at, low, ""
            yield low, high, usage
            at = high
    if at < end:
        yield at, end, ""


def _plain_usage(mapping: Mapping, image: bool) -> str:
    if image:
        return "Image"
    if mapping.name == "[heap]":
        return "HeapBrk"
    if mapping.name.startswith("[stack"):
        return "Stack"
    if mapping.name.startswith(("[vdso", "[vvar", "[vsyscall", "[uprobes", "[vectors", "[sigpage")):
        return "Kernel"
    return "MappedFile" if mapping.has_file or mapping.shared else "Other"


# -- images ---------------------------------------------------------------------------------------


def _images(mappings: list[Mapping], source: Source) -> tuple[set[tuple[str, int]], list[Span]]:
    """Files that are mapped executable, and the anonymous spans that complete them."""
    images = {(m.name, m.inode) for m in mappings if m.has_file and m.perms[2] == "x"}
    spans: list[Span] = []
    sizes: dict[str, int | None] = {}
    for index, mapping in enumerate(mappings):
        if (mapping.name, mapping.inode) not in images or mapping.offset != 0:
            continue
        before = mappings[index - 1] if index else None
        if before is not None and (before.name, before.inode) == (mapping.name, mapping.inode):
            continue  # some files have two mappings of their first page: the lower one is the base
        if mapping.name not in sizes:
            sizes[mapping.name] = source.elf_span(mapping.name)
        size = sizes[mapping.name]
        if size is not None:
            spans.append((mapping.start, mapping.start + size))
    return images, spans


# -- stacks ---------------------------------------------------------------------------------------


def _stacks(mappings: list[Mapping], source: Source) -> _Claims:
    claims = _Claims("Stack", apart=True)
    starts = [m.start for m in mappings]
    glibc = any(LOADER.search(mapping.name) for mapping in mappings)
    listed = listed_stacks(mappings, source)
    listed_starts = [start for start, _ in listed]

    def listed_below(address: int) -> tuple[int, int]:
        """The last stack of the lists that begins at the address or below it."""
        number = bisect_right(listed_starts, address) - 1
        return listed[number] if number >= 0 else (0, 0)

    def guard(index: int) -> int:
        """Start of the guard below mapping ``index``, or of the mapping itself."""
        below = mappings[index - 1] if index else None
        here = mappings[index]
        if below is None or below.end != here.start or not below.inaccessible:
            return here.start
        return below.start if below.size <= _GUARD_MAX else here.start

    for mapping in mappings:
        if _NAMED_STACK.match(mapping.name):
            claims.add(mapping.start, mapping.end)
    for start, end in listed:
        claims.add(start, end)
    left = _STACK_BYTES
    at_end: dict[int, int] = {}
    # A core file's registers tell the block where its memory does not.
    told: dict[int, int] = getattr(source, "control_blocks", {})
    last = 0
    for pointer in sorted(source.stack_pointers()):
        index = bisect_right(starts, pointer) - 1
        if index < 0 or pointer >= mappings[index].end or not mappings[index].plain:
            continue
        behind = listed_below(pointer)[1]
        if pointer < behind:
            continue
        here = mappings[index]
        end = here.end
        if index not in at_end:
            at_end[index] = _control_block(source, max(here.start, end - _TCB_SPAN), end)
        if not at_end[index]:
            # A neighbour may have been merged into the mapping above the thread's end.
            limit = min(end, pointer + min(_STACK_SCAN, left))
            found = _control_block(source, pointer, limit)
            left -= limit - pointer
            if not found and glibc and pointer < told.get(pointer, 0) < limit:
                found = told[pointer]
            if found:
                end = min(end, (found // source.page + 1) * source.page)
            elif guard(index) == here.start:
                continue  # Go's threads run on stacks within its heap
        claims.add(max(guard(index), behind, last), end)
        last = end
    for index, here in enumerate(mappings):
        if (
            here.plain
            and guard(index) != here.start
            and listed_below(here.end - 1)[1] < here.end
            and _control_block(source, max(here.start, here.end - _TCB_SPAN), here.end)
        ):
            claims.add(guard(index), here.end)
    return claims


def control_block(source: Source, start: int, end: int) -> int:
    """The thread control block near the end of a stack, or 0."""
    return _control_block(source, max(start, end - _TCB_SPAN), end)


def _control_block(source: Source, start: int, end: int) -> int:
    """Address of a thread control block in [start, end), or 0. On x86-64 glibc keeps the block's
    own address in its first and third word; it is aligned to 64 bytes."""
    start += -start % 64
    step = 1 << 16
    for low in range(start, end, step):
        size = min(step, end - low) // 8 * 8
        data = source.read(low, size) if size >= 24 else None
        if data is None:
            continue
        words = struct.unpack(f"<{size // 8}Q", data)
        for i in range(0, len(words) - 2, 8):
            if words[i] == low + 8 * i == words[i + 2]:
                return low + 8 * i
    return 0


# -- glibc ----------------------------------------------------------------------------------------


def _glibc_arenas(mappings: list[Mapping], source: Source, readable: bool) -> _Claims:
    claims = _Claims("HeapGlibcArena")
    probes = _HEAP_PROBES
    for index, here in enumerate(mappings):
        if not here.plain:
            continue
        first = -(-here.start // _GLIBC_HEAP) * _GLIBC_HEAP
        behind = _reach(mappings, index)
        for base in range(first, min(here.end, first + _MAX_HEAPS * _GLIBC_HEAP), _GLIBC_HEAP):
            probes -= 1
            if probes < 0:
                return claims
            end = base + _GLIBC_HEAP
            if readable:
                known = _is_heap_info(source, base, here.end)
            else:
                known = base == here.start and here.end < end <= behind
            if known:
                claims.add(base, min(end, behind))
    return claims


def _reach(mappings: list[Mapping], index: int) -> int:
    """End of mapping ``index`` and of the inaccessible one that follows it at once."""
    here = mappings[index]
    after = mappings[index + 1] if index + 1 < len(mappings) else None
    if after is not None and after.start == here.end and after.inaccessible:
        return after.end
    return here.end


def _is_heap_info(source: Source, base: int, limit: int) -> bool:
    data = source.read(base, 32)
    if data is None:
        return False
    arena, previous, size, writable = struct.unpack("<4Q", data)
    if not 0 < size <= writable <= _GLIBC_HEAP or size % 16 or writable % source.page:
        return False
    if base + writable > limit or previous % _GLIBC_HEAP or previous == base:
        return False
    offset: int = arena % _GLIBC_HEAP
    # The arena stands right behind the header of the first of its heaps.
    return 32 <= offset <= _GLIBC_HEADER and bool(previous or arena - offset == base)


# -- pymalloc -------------------------------------------------------------------------------------


def _python_minor(images: set[tuple[str, int]]) -> int | None:
    """Minor version of the Python in the process; 0 when it cannot be told, None without one."""
    found = [match for name, _ in images if (match := _PYTHON.search(name))]
    if not found:
        return None
    return max((int(match[1]) for match in found if match[1]), default=0)


def _pymalloc(
    mappings: list[Mapping],
    source: Source,
    images: set[tuple[str, int]],
    taken: list[Span],
    notes: list[str],
) -> _Claims:
    claims = _Claims("HeapPymalloc")
    for mapping in mappings:
        if mapping.name.startswith(_NAMED_PYMALLOC):
            claims.add(mapping.start, mapping.end)
    minor = _python_minor(images)
    if minor is None or claims.spans:
        return claims
    old = 0 < minor < 10
    pool, arena = (4 << 10, 256 << 10) if old else (16 << 10, 1 << 20)
    probes = _PROBES
    for mapping in mappings:
        if not mapping.plain:
            continue
        for start, end in _gaps(mapping.start, mapping.end, taken):
            probes -= (end - start) // pool
            if probes < 0:
                notes.append("too much private memory to look through: pymalloc may lack arenas")
                return claims
            for base in _arena_bases(source, start, end, pool, arena):
                claims.add(max(base, start), min(base + arena, end))
    return claims


def _gaps(start: int, end: int, taken: list[Span]) -> Iterator[Span]:
    for low, high in taken[max(0, bisect_left(taken, (start, 0)) - 1) :]:
        if low >= end:
            break
        if high > start:
            if low > start:
                yield start, low
            start = max(start, high)
    if start < end:
        yield start, end


def _arena_bases(source: Source, start: int, end: int, pool: int, arena: int) -> Iterator[int]:
    groups: dict[int, int] = {}
    for address, index in _pools(source, start, end, pool):
        lowest = groups.get(index)
        # An index names one arena; pools further away than an arena are chance.
        if lowest is None:
            groups[index] = address
    previous = -1
    for first in sorted(groups.values()):
        if previous >= 0 and first < previous:
            continue
        base = first
        for anchor in (previous, start, end):
            # The first pool is the first aligned address of its arena, and arenas touch each other.
            candidate = first - (first - anchor) % arena
            if anchor >= 0 and candidate >= start and first - candidate < pool:
                base = candidate
                break
        yield base
        previous = base + arena


def _pools(source: Source, start: int, end: int, pool: int) -> Iterator[tuple[int, int]]:
    """Address and arena index of everything that looks like a pool. Pages that are not in memory
    are not touched: reading them would fault them in."""
    first = -(-start // pool) * pool
    stride = pool // source.page or 1
    chunk = 1 << 26
    for low in range(first, end, chunk):
        high = min(end, low + chunk)
        count = (high - low) // source.page
        present = source.present(low, count)
        if present is None:
            continue
        for number in range(0, count, stride):
            if not present[number]:
                continue
            address = low + number * source.page
            data = source.read(address, _POOL_OVERHEAD)
            if data is not None and address + pool <= end and is_pool(data, address, pool):
                yield address, struct.unpack_from("<I", data, 32)[0]


def is_pool(data: bytes, address: int, pool: int) -> bool:
    """Whether 48 bytes at ``address`` can be the header of a pymalloc pool of ``pool`` bytes."""
    used, free = struct.unpack_from("<I4xQ", data)
    _, size_class, following, last = struct.unpack_from("<4I", data, 32)
    if size_class >= _POOL_CLASSES:
        return False
    block: int = 16 * (size_class + 1)
    return bool(
        last == pool - block
        and _POOL_OVERHEAD <= following <= pool
        and used <= (pool - _POOL_OVERHEAD) // block
        and (free == 0 or address + _POOL_OVERHEAD <= free < address + pool)
    )
