"""Allocators whose blocks are not walked: which memory is theirs, not how much of it is used.

What no other heap explains of a process's private memory is looked at. Blocks that glibc mapped are
found by their headers. jemalloc's own tree, the place that mimalloc and Go ask the kernel for, and
names that a program gave its mappings tell whose a range is. What is left goes to the allocators
that the files contain, where there are such; else it is unknown.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ._glibc import GlibcHeap
from ._glibc_find import pieces
from ._jemalloc import trees
from ._mapped import mapped_blocks
from ._pages import resident
from ._programs import Contained, contained
from ._rights import ShapeHeap
from ._spans import Claims

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from dmi.address import AddressSummary, Region
    from dmi.address._own_tables import OwnTable

    from ._glibc_find import Space
    from ._heaps import ForeignHeap, Memory

__all__ = ["other_heaps", "own_others"]

_LEAST: Final = 1 << 20
"""Memory below this is not worth a row."""
_OPEN: Final = ("Other", "HeapBrk")
_NOBODY: Final = "unknown"
"""The kind of heap of what is nobody's that is known."""
# Where they ask the kernel to map: no other does.
_PLACES: Final = {"mimalloc": (2 << 40, 30 << 40), "Go": (0xC000000000, 0x10000000000)}
_NAMES: Final = tuple(
    (re.compile(pattern), kind)
    for pattern, kind in (
        (r"\[anon:cpython:mimalloc", "mimalloc"),
        (r"\[anon:cpython", "CPython"),
        # Firefox names its memory as it names its functions; jemalloc's own names go on.
        (r"\[anon: ?jemalloc(?:-decommitted)?\]", "mozjemalloc"),
        (r"\[anon: ?js-", "SpiderMonkey"),
        (r"\[anon: ?jemalloc", "jemalloc"),
        (r"\[anon: ?mimalloc", "mimalloc"),
        (r"\[anon: ?tcmalloc", "tcmalloc"),
        (r"\[anon: ?scudo", "scudo"),
        (r"\[anon: ?partition_alloc", "PartitionAlloc"),
        (r"\[anon: ?v8", "V8"),
        (r"\[anon: ?Go: ", "Go"),
        (r"\[anon: ?zend_alloc", "Zend"),
        (r"\[anon: ?[Rr]uby", "Ruby"),
    )
)
# What they reserve begins and ends at such addresses. Google's tcmalloc takes whole GiB; Go takes
# places at random from 1.26 on, 64 MiB at least.
_UNITS: Final = {"tcmalloc": 1 << 30, "Go": 64 << 20}
_NO_PLACE: Final = ("jemalloc",)
"""Those whose every range is found by other means than by what is left."""


@dataclass(slots=True)
class _Part:
    """A stretch of private memory that no heap explains."""

    start: int
    end: int
    committed: int
    region: Region


@dataclass(slots=True)
class _Found:
    """What one allocator has."""

    kind: str
    name: str
    spans: list[tuple[int, int]] = field(default_factory=list)


def other_heaps(
    memory: Memory,
    space: Space,
    summary: AddressSummary,
    known: Sequence[ForeignHeap],
    tables: Iterable[OwnTable] = (),
) -> tuple[list[ShapeHeap], list[str]]:
    """The private memory that none of the known heaps explains, a heap for each allocator; and what
    could not be told. What glibc mapped block by block is noted with its heap."""
    claims = Claims()
    claims.add(((s.address, s.address + s.reserved) for heap in known for s in heap.segments()), 0)
    claims.add(((table.start, table.start + table.size) for table in tables), 0)
    libc = any(heap.kind == "glibc" for heap in known)
    # Where glibc is, the brk heap is its; elsewhere it is anybody's.
    usages = _OPEN[:1] if libc else _OPEN
    open_ = _private(summary, usages)
    # Where Python's arenas are known, those that their looks alone suggest may be a page off.
    exact = any(heap.kind == "pymalloc" for heap in known)
    guessed = _private(summary, (*usages, "HeapPymalloc")) if exact else open_
    missing = 0
    for heap in known:
        if isinstance(heap, GlibcHeap) and heap.parameters is not None:
            total, count = heap.parameters.mmapped, heap.parameters.mmaps
            spans = _joined((part.start, part.end) for part in _left(claims, guessed))
            heap.mapped = tuple(mapped_blocks(memory, spans, total, count))
            claims.add(((start, start + size) for start, size in heap.mapped), 0)
            missing += total - sum(size for _, size in heap.mapped)
    return _shared_out(memory, space, summary, list(_left(claims, open_)), missing)


def own_others(
    memory: Memory, space: Space, summary: AddressSummary, total: int, count: int
) -> tuple[list[ShapeHeap], list[tuple[int, int]], list[str]]:
    """The same of this process, whose allocators that are known told the summary their ranges:
    heaps of those that have a name, the blocks that malloc mapped one by one, and what could not be
    told. total, count: what malloc says of such blocks."""
    claims = Claims()
    open_ = [
        region
        for region in summary.regions
        if region.usage == "Other" and region.type == "MEM_PRIVATE" and region.committed
    ]
    spans = [(region.start, region.start + region.size) for region in open_]
    mapped = mapped_blocks(memory, spans, total, count)
    claims.add(((start, start + size) for start, size in mapped), 0)
    missing = max(0, total - sum(size for _, size in mapped))
    heaps, notes = _shared_out(memory, space, summary, list(_left(claims, open_)), missing)
    return [heap for heap in heaps if heap.kind != _NOBODY], mapped, notes


def _shared_out(
    memory: Memory, space: Space, summary: AddressSummary, parts: Sequence[_Part], missing: int
) -> tuple[list[ShapeHeap], list[str]]:
    """The parts as heaps, one for each allocator. missing: bytes that lie among them and are
    another heap's, nobody knows where."""
    if sum(part.committed for part in parts) < _LEAST:
        return [], []
    there, notes = contained(memory, space)
    if _has_glibc(space):
        # A library may carry parts of musl for code that it runs apart, as Firefox's does.
        there = [each for each in there if each.kind != "musl"]
    owners = _proven(memory, space, summary, parts, there)
    shares = Claims()
    for index, owner in enumerate(owners):
        shares.add(owner.spans, index)
    sizes: dict[int, list[tuple[int, int, int, int | None]]] = {}
    held: dict[int, list[int | None]] = {}
    for part in parts:
        for low, high, number in shares.cut(part.start, part.end):
            size = high - low
            row = (low, size, part.committed * size // (part.end - part.start),
                   resident(memory, part.region, low, size))  # fmt: skip
            home = -1 if number is None else number
            sizes.setdefault(home, []).append(row)
            whole = size == part.region.size and part.region.memory is not None
            held.setdefault(home, []).append(part.region.memory if whole else row[3])
    heaps = [
        ShapeHeap(
            owners[number].kind, rows, name=owners[number].name, memory=_known_sum(held[number])
        )
        for number, rows in sizes.items()
        if number >= 0
    ]
    rest = sizes.get(-1, [])
    # Blocks that malloc mapped and that were not found lie among them, nobody knows where.
    if sum(row[2] for row in rest) - missing >= _LEAST:
        kinds = _remaining(there, owners)
        name = f"in {', '.join(dict.fromkeys(each.file for each in kinds))}"
        same = next(
            (
                n for n, owner in enumerate(owners)
                if len({k.kind for k in kinds}) == 1 and owner.kind == kinds[0].kind
            ),
            None,
        )  # fmt: skip
        if same is not None and same in sizes:
            heaps = [heap for heap in heaps if heap.kind != owners[same].kind]
            both = _known_sum([*held[same], *held[-1]])
            heaps.append(
                ShapeHeap(owners[same].kind, sizes[same] + rest, missing, owners[same].name, both)
            )
        elif kinds:
            title = " or ".join(dict.fromkeys(each.kind for each in kinds))
            heaps.append(ShapeHeap(title, rest, missing, name, _known_sum(held[-1])))
        else:
            memory_of_rest = _known_sum(held[-1])
            # What nobody wrote to is no memory: stacks of threads that come and go while they are
            # looked at, room that a program keeps.
            if memory_of_rest is None or memory_of_rest - missing >= _LEAST:
                heaps.append(ShapeHeap(_NOBODY, rest, missing, memory=memory_of_rest))
    return heaps, notes


def _private(summary: AddressSummary, usages: Sequence[str]) -> list[Region]:
    """Its committed private memory of these usages."""
    return [
        region
        for region in summary.regions
        if region.usage in usages and region.type == "MEM_PRIVATE" and region.committed
    ]


def _joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Neighbours as one."""
    found: list[tuple[int, int]] = []
    for start, end in spans:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
    return found


def _known_sum(parts: Iterable[int | None]) -> int | None:
    """The sum; None when a part is not known."""
    known = list(parts)
    return None if None in known else sum(part for part in known if part is not None)


def _left(claims: Claims, regions: Iterable[Region]) -> Iterator[_Part]:
    """The parts of the regions that nobody has claimed."""
    for region in regions:
        for low, high, owner in claims.cut(region.start, region.end):
            if owner is None:
                committed = region.committed * (high - low) // region.size
                yield _Part(low, high, committed, region)


def _proven(
    memory: Memory,
    space: Space,
    summary: AddressSummary,
    parts: Sequence[_Part],
    there: Sequence[Contained],
) -> list[_Found]:
    """Whose ranges are known for what stands in them, where they lie, or how they are named."""
    found: dict[tuple[str, str], _Found] = {}

    def add(kind: str, name: str, spans: Iterable[tuple[int, int]]) -> None:
        found.setdefault((kind, name), _Found(kind, name)).spans.extend(spans)

    for part in parts:
        for pattern, kind in _NAMES:
            if pattern.match(part.region.name):
                add(kind, "by the names of its mappings", [(part.start, part.end)])
                break
    spans = [(part.start, part.end) for part in parts]
    groups = () if _has_glibc(space) else spans[:_MOST_GROUPS]
    if any(_musl_group(memory, start) for start, _ in groups):
        libraries = [each.file for each in there if each.kind == "musl"]
        program = (path.rpartition("/")[2] for _, _, path in _images(summary))
        name = next(iter((*libraries, *program)), "")
        add("musl", f"in {name}", spans)
        return list(found.values())
    for tree in trees(memory, space, spans, _images(summary)):
        add("jemalloc", f"in {tree.file.rpartition('/')[2]}", tree.spans(spans))
    for kind, unit in _UNITS.items():
        files = dict.fromkeys(each.file for each in there if each.kind == kind)
        stretches = _whole_units(space, unit) if files else []
        shaped = [span for span in spans if _inside(stretches, span)]
        if shaped:
            add(kind, f"in {', '.join(files)}", shaped)
            taken = set(shaped)
            spans = [span for span in spans if span not in taken]
    for kind, (low, high) in _PLACES.items():
        files = dict.fromkeys(each.file for each in there if each.kind == kind)
        placed = [(start, end) for start, end in spans if low <= start < high]
        if files and placed:
            add(kind, f"in {', '.join(_pointing(memory, summary, files, placed))}", placed)
    return list(found.values())


def _has_glibc(space: Space) -> bool:
    return any(m.has_file and _GLIBC.search(m.name) for m in space.mappings)


def _whole_units(space: Space, unit: int) -> list[tuple[int, int]]:
    """Where memory without a file or a name begins and ends at a multiple of the unit, what nobody
    can read included."""
    found: list[tuple[int, int]] = []
    for mapping in space.mappings:
        if mapping.has_file or mapping.name or mapping.shared:
            continue
        if found and found[-1][1] == mapping.start:
            found[-1] = (found[-1][0], mapping.end)
        else:
            found.append((mapping.start, mapping.end))
    return [(start, end) for start, end in found if not (start % unit or end % unit)]


def _inside(stretches: Sequence[tuple[int, int]], span: tuple[int, int]) -> bool:
    index = bisect_right(stretches, (span[0], 1 << 64)) - 1
    return index >= 0 and span[1] <= stretches[index][1]


_MOST_GROUPS: Final = 64
_MUSL_HEAD, _MUSL_META = 24, 40
"""Bytes of the head of a page of structs, and of each."""
_GLIBC: Final = re.compile(r"/(?:libc-[0-9.]+\.so|libc\.so\.6|ld-linux)")


def _musl_group(memory: Memory, start: int) -> bool:
    """Whether a group of blocks of musl begins there: its first word leads to a struct, one of an
    array in a page, whose third word leads back and whose last names a size class. musl has no
    messages to be known by."""
    marks = memory.pagemap(start, 1)
    raw = memory.read(start, 8) if marks is None or marks[7] & 0x80 else None
    where = int.from_bytes(raw, "little") if raw else 0
    if not where or where % 8 or where >> 48 or (where % 4096 - _MUSL_HEAD) % _MUSL_META:
        return False
    raw = memory.read(where, _MUSL_META)
    if raw is None:
        return False
    before, behind, back, _, bits = struct.unpack("<5Q", raw)
    size_class = bits >> 6 & 63
    listed = bool(before) == bool(behind) and not (before % 8 or behind % 8)
    return back == start and listed and (size_class < 48 or size_class == 63)


def _remaining(there: Sequence[Contained], owners: Sequence[_Found]) -> list[Contained]:
    """Which allocators may have what is left: not those all of whose memory was found, nor those
    that a library only carries along."""
    found = {owner.kind for owner in owners}
    return [
        each
        for each in there
        if each.kind not in _NO_PLACE or (each.by_name and each.kind not in found)
        # A program in Go has nobody else; a library in Go leaves to others what is elsewhere.
        if each.kind not in _PLACES or each.kind in found or each.by_name or _is_program(each)
    ]


def _is_program(each: Contained) -> bool:
    return each.kind == "Go" and ".so" not in each.file


def _images(summary: AddressSummary) -> list[tuple[int, int, str]]:
    """The data of programs and libraries: what can be written, and the zero-filled part."""
    found: list[tuple[int, int, str]] = []
    file = ""
    for region in summary.regions:
        if region.usage != "Image":
            continue
        file = region.name if region.name.startswith("/") else file
        if "READWRITE" not in region.protect:
            continue
        if found and found[-1][1] == region.start and found[-1][2] == file:
            found[-1] = (found[-1][0], region.end, file)
        else:
            found.append((region.start, region.end, file))
    return found


def _pointing(
    memory: Memory,
    summary: AddressSummary,
    files: Iterable[str],
    spans: Sequence[tuple[int, int]],
) -> list[str]:
    """Of several files those whose data leads into the ranges; all, where none does."""
    names = list(files)
    if len(names) == 1:
        return names
    low, high = min(start for start, _ in spans), max(end for _, end in spans)
    found: list[str] = []
    left = _MOST_DATA
    for start, end, path in _images(summary):
        base = path.rpartition("/")[2].removesuffix(" (deleted)")
        if base not in names or base in found or end - start > left:
            continue
        left -= end - start
        for _, data in pieces(memory, start, end):
            if any(low <= word < high for word in memoryview(data).cast("Q")):
                found.append(base)
                break
    return found or names


_MOST_DATA: Final = 256 << 20
"""Bytes of data of all files that are looked through for words that lead elsewhere."""
