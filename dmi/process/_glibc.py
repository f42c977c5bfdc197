"""The arenas of glibc's malloc as heaps: what each holds and has free, what malloc_trim gives.

The arena says where its heaps lie; the chunks are walked in native code (csrc/foreign). Chunks in a
thread's cache look busy but hold a key, the same for all threads from glibc 2.34 on; before that
each thread's cache says how many there are. malloc itself counts cached chunks as used.
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from dmi import _foreign
from dmi.walk import HistogramRow, Segment

from ._glibc_find import (
    BINS,
    ArenaState,
    MallocParameters,
    Space,
    find_main,
    find_parameters,
    read_ring,
)
from ._heaps import ForeignPin, ForeignRange, ForeignRow, ForeignStats, histogram
from ._huge import huge_ranges, overlap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ._heaps import Memory

__all__ = ["GlibcHeap", "glibc_heaps"]

_CACHES: Final = {0x250: (64, 1), 0x290: (64, 2), 0x300: (76, 2)}
"""Chunk size of a thread's cache: how many bins it has and the bytes of each count. 2.26 to 2.29,
2.30 to 2.41, from 2.42 on."""
_LEAST: Final = 32
_MAX_FAST: Final = 1 << 20
_MAX_BINNED: Final = 1 << 17
_UCR_BIG: Final = 1 << 20
_PART: Final = 65536
_FREE: Final = ("free", "fast", "tcache", "top")


@dataclass(frozen=True, slots=True)
class Region:
    """A stretch of chunks. end: the first address behind it."""

    start: int
    end: int
    top: int = 0


@dataclass(frozen=True, slots=True)
class Caches:
    """How cached chunks are known in this process.

    chunk  size of the chunk that holds a thread's cache; 0: there are none, or they are not known
    key    what a cached chunk holds; 0: the caches' own counts are summed
    """

    chunk: int = 0
    key: int = 0
    full: int = 0
    """From 2.42 on a cache counts the room that is left; this is the room of an empty one."""


class GlibcHeap:
    """One arena. What it says of chunks is walked when it is asked first, and then kept."""

    kind = "glibc"

    def __init__(
        self,
        memory: Memory,
        space: Space,
        state: ArenaState,
        regions: Sequence[Region],
        caches: Caches,
        parameters: MallocParameters | None,
        notes: Sequence[str] = (),
    ) -> None:
        self._memory = memory
        self._space = space
        self._caches = caches
        self._parameters = parameters
        self._found: dict[str, Any] | None = None
        self._notes = list(notes)
        self.mapped: tuple[tuple[int, int], ...] = ()
        """Address and size of what was found of the blocks mapped on their own."""
        self.state = state
        self.regions = tuple(regions)

    @property
    def parameters(self) -> MallocParameters | None:
        """malloc's own totals, of a main arena."""
        return self._parameters

    @property
    def scattered(self) -> bool:
        """A main arena that is not one stretch, as after the brk heap could not grow."""
        return self.state.main and not self.state.contiguous

    @property
    def handle(self) -> int:
        """Address of the arena."""
        return self.state.address

    @property
    def name(self) -> str:
        """What it is among the arenas."""
        return "main arena" if self.state.main else "thread arena"

    # ---- the walk --------------------------------------------------------------------------------

    def _fast(self) -> list[int]:
        """Addresses of the chunks in fastbins."""
        found: list[int] = []
        reach = [(region.start, region.end) for region in self.regions]

        def inside(address: int) -> bool:
            return address % 16 == 0 and any(low <= address < high for low, high in reach)

        for first in self.state.fastbins:
            seen: set[int] = set()
            at = first
            while inside(at) and at not in seen and len(found) < _MAX_FAST:
                seen.add(at)
                found.append(at)
                raw = self._memory.read(at + 16, 8)
                if raw is None:
                    break
                (link,) = struct.unpack("<Q", raw)
                plain = link ^ (at + 16 >> 12)
                # From 2.32 on links are mixed with where they stand.
                at = plain if inside(plain) else link if inside(link) else 0
        return found

    def counted(self) -> dict[str, Any]:
        """What the chunks come to."""
        if self._found is None:
            count = _foreign.GlibcCount(
                self._memory,
                self.state.main,
                self._fast(),
                self._caches.chunk,
                0 if self._memory.stands_still else 2,
                self._memory.stands_still or self._memory.swap_in,
                self._huge or (),
            )
            for region in self.regions:
                count.add(region.start, region.end, region.top, self._caches.key)
            self._found = count.result()
            for start, end, _ in count.errors:
                self._notes.append(f"the chunks from {start:x} to {end:x} make no sense")
        return self._found

    @cached_property
    def _huge(self) -> list[tuple[int, int]] | None:
        """What of it lies on huge pages; None: unknown."""
        spans = [(r.start & -self._memory.page, r.end) for r in self.regions]
        return huge_ranges(self._memory, spans)

    def _cached_by_counts(self, candidates: Sequence[int]) -> tuple[int, int]:
        """(bytes, chunks) in the caches whose structs lie in these chunks."""
        size = count = 0
        for address in candidates:
            cache = read_cache(self._memory, address, self._caches.chunk)
            for index, number in enumerate(cache or ()):
                size += number * (_LEAST + 16 * index)
                count += number
        return size, count

    def cache_at(self, chunk: int) -> tuple[list[int], list[int]] | None:
        """How many blocks each bin of the thread's cache in that chunk has, and the first of each;
        None: it is no cache."""
        size = self._caches.chunk
        if not size or not any(region.start <= chunk < region.end for region in self.regions):
            return None
        counts = read_cache(self._memory, chunk, size, self._caches.full)
        return None if counts is None else (counts, read_entries(self._memory, chunk, size))

    def stats(self) -> ForeignStats:
        """Its figures."""
        found = self.counted()
        sizes, counts = dict(found["bytes"]), dict(found["counts"])
        if self._caches.chunk and not self._caches.key:
            cached, number = self._cached_by_counts(found["caches"])
            # Damaged counts may say more than there is.
            cached, number = min(cached, sizes["busy"]), min(number, counts["busy"])
            sizes["busy"] -= cached
            sizes["tcache"] += cached
            counts["busy"] -= number
            counts["tcache"] += number
        held = sum(region.end - region.start for region in self.regions)
        committed = max(held, self.state.system) if self.state.main else self._writable()
        unknown = sizes["unknown"] + max(0, self.state.system - held if self.state.main else 0)
        free = sum(sizes[name] for name in _FREE)
        if self.scattered:
            # What stands between the stretches may be anybody's: malloc's own total tells.
            committed = self.state.system
            unknown = max(0, committed - sizes["busy"] - free - sizes["fence"])
        known = sizes["busy"] + free + unknown
        trim, details = self._trim(found, sizes)
        parameters = self._parameters
        details |= {
            "top": sizes["top"],
            "bins": sizes["free"],
            "fastbins": sizes["fast"],
            "tcache": sizes["tcache"] if self._caches.chunk else None,
            "tcache_blocks": counts["tcache"] if self._caches.chunk else None,
            "system": self.state.system,
            "threads": self.state.attached,
            "main": int(self.state.main),
        }
        return ForeignStats(
            kind=self.kind,
            reserved=self._reserved(),
            committed=committed,
            busy=sizes["busy"],
            busy_blocks=counts["busy"],
            free=free,
            free_blocks=sum(counts[name] for name in _FREE),
            overhead=max(0, committed - known),
            unknown=unknown,
            mapped=None if parameters is None else parameters.mmapped,
            mapped_blocks=None if parameters is None else parameters.mmaps,
            resident=_foreign.resident(self._memory, self._pages()),
            trim=trim,
            pinned=found["pinned"],
            details=details,
            notes=tuple(self._notes),
        )

    def _pages(self) -> list[tuple[int, int]]:
        """The whole pages that it can write."""
        page = self._memory.page
        if not self.state.main:
            return [(info.base, info.writable) for info in self.state.heaps]
        spans = [(r.start & -page, -(-r.end // page) * page) for r in self.regions]
        return [(start, end - start) for start, end in spans]

    def _trim(
        self, found: dict[str, Any], sizes: dict[str, int]
    ) -> tuple[int | None, dict[str, int | None]]:
        """What malloc_trim(0) gives back, and its parts: pages inside free chunks, and the top."""
        page = self._memory.page
        inside, resident = found["trim"], found["trim_resident"]
        top, top_resident = 0, 0 if resident is not None else None
        last = next((region for region in self.regions if region.top), None)
        if self._in_pool():
            # Single pages of it cannot go back, and malloc does not try whole ones.
            inside, resident = 0, 0 if resident is not None else None
        elif self.state.main and last is not None and self._at_break(last):
            # Fastbins go into the top first; systrim leaves MINSIZE and a byte, in whole pages, or
            # in huge ones where it was told to ask for them.
            unit = (self._parameters.huge if self._parameters else 0) or page
            size = sizes["top"] + found["before_top"]
            top = max(0, (size - _LEAST - 1) // unit * unit) if size > _LEAST else 0
            if top and top_resident is not None:
                top_resident = _foreign.resident(self._memory, [(last.end - top & -page, top)])
        parts: dict[str, int | None] = {
            "trim_inside": inside if resident is None else resident,
            "trim_top": top if top_resident is None else top_resident,
        }
        gives = sum(value or 0 for value in parts.values())
        huge = self._huge
        parts["free_on_huge_pages"] = None
        if huge is not None:
            tops = [(r.top, r.end) for r in self.regions if r.top]
            on_top = sum(overlap(huge, -(-start // page) * page, end) for start, end in tops)
            parts["free_on_huge_pages"] = found["trim_huge"] + on_top
        return gives, parts

    def _in_pool(self) -> bool:
        """Whether its memory comes from the pool of huge pages."""
        here = self._space.at(self.regions[0].start) if self.regions else None
        return here is not None and here.name.startswith("/anon_hugepage")

    def _at_break(self, region: Region) -> bool:
        """Whether the end of the stretch is the end of the brk heap: else the top stays, as where
        somebody else moved the break last."""
        here = self._space.at(region.end - 1)
        if here is None or here.name != "[heap]":
            return not self.scattered
        page = self._memory.page
        return -(-region.end // page) * page == here.end

    # ---- where it lies ---------------------------------------------------------------------------

    def _reserved(self) -> int:
        if self.scattered:
            return self.state.system
        if self.state.main:
            return max(sum(r.end - r.start for r in self.regions), self.state.system)
        return sum(info.reserved for info in self.state.heaps)

    def _writable(self) -> int:
        return sum(info.writable for info in self.state.heaps)

    def segments(self) -> list[Segment]:
        """Its heaps, or the stretches of the main arena."""
        if self.state.main:
            return [
                Segment(r.start, r.end - r.start, r.end - r.start, 0, False) for r in self.regions
            ]
        return [
            Segment(h.base, h.reserved, h.writable, int(h.writable < h.reserved), False)
            for h in self.state.heaps
        ]

    def row(self) -> ForeignRow:
        """The columns of `!heap -s`."""
        stats = self.stats()
        tails = [h.reserved - h.writable for h in self.state.heaps if h.writable < h.reserved]
        reserved = stats.reserved or 0
        return ForeignRow(
            kind=self.kind,
            handle=self.handle,
            flags=None,
            reserved=reserved,
            committed=stats.committed,
            virtual=reserved - sum(tail for tail in tails if tail >= _UCR_BIG),
            free=stats.free,
            list_length=stats.free_blocks,
            uncommitted_ranges=len(tails),
            virtual_blocks=stats.mapped_blocks if self.state.main else 0,
        )

    def walk(self) -> Iterator[ForeignRange]:
        """Every chunk by address, with its header; the blocks of a program lie 16 bytes behind."""
        fast = self._fast()
        states = {"fast": "free", "tcache": "free", "top": "free", "fence": "overhead"}
        for region in sorted(self.regions, key=lambda each: each.start):
            walk = _foreign.GlibcWalk(
                self._memory, region.start, region.end, region.top, self.state.main,
                self._caches.key, fast, 0 if self._memory.stands_still else 2,
                self._memory.stands_still or self._memory.swap_in,
            )  # fmt: skip
            while part := walk.take(_PART):
                for address, size, number in part:
                    state = _foreign.STATES[number]
                    kind = "chunk" if state in ("busy", "free", "unknown") else state
                    yield ForeignRange(
                        address, size, kind, states.get(state, state), 0, region.start
                    )

    def histogram(self) -> list[HistogramRow]:
        """Busy chunks by size."""
        return histogram(Counter(self.counted()["sizes"]))

    def pins(self, top: int = 10) -> list[ForeignPin]:
        """The busy chunks that keep most free bytes from going back, each alone on its pages."""
        return [ForeignPin(*pin) for pin in self.counted()["pins"][:top]]

    def holds(self, address: int) -> bool:
        """Whether the address lies in it."""
        spans = [(s.address, s.address + s.reserved) for s in self.segments()]
        return any(low <= address < high for low, high in spans)


# ---- caches of threads ---------------------------------------------------------------------------


def read_cache(memory: Memory, chunk: int, size: int, full: int = 0) -> list[int] | None:
    """How many chunks each bin of the thread's cache in that chunk has; None: it is no cache."""
    found = _cache(memory, chunk, size)
    if found is None:
        return None
    counts, entries = found
    if size == 0x300:
        full = full or max(counts, default=0)
        counts = [full - left if left <= full else 0 for left in counts]
    if any(bool(number) != bool(entry) for number, entry in zip(counts, entries, strict=True)):
        return None
    return counts if max(counts) <= 1 << 12 else None


def read_entries(memory: Memory, chunk: int, size: int) -> list[int]:
    """The first block of each bin of the thread's cache in that chunk."""
    found = _cache(memory, chunk, size)
    return found[1] if found else []


def _cache(memory: Memory, chunk: int, size: int) -> tuple[list[int], list[int]] | None:
    bins, width = _CACHES[size]
    raw = memory.read(chunk, size + 8)
    if raw is None or struct.unpack_from("<Q", raw, 8)[0] & ~7 != size:
        return None
    counts = list(struct.unpack_from(f"<{bins}{'BH'[width - 1]}", raw, 16))
    entries = list(struct.unpack_from(f"<{bins}Q", raw, 16 + bins * width))
    if any(entry % 16 for entry in entries):
        return None
    return counts, entries


def find_caches(memory: Memory, regions: Sequence[Region]) -> Caches:
    """How cached chunks are known: the first chunk of an arena is a thread's cache."""
    known = Caches()
    for region in regions:
        raw = memory.read(region.start, 16)
        size = struct.unpack_from("<Q", raw, 8)[0] & ~7 if raw else 0
        if size not in _CACHES:
            continue
        found = _cache(memory, region.start, size)
        if found is None:
            continue
        known = Caches(size) if not known.chunk else known
        keys: Counter[int] = Counter()
        for entry in found[1]:
            raw = memory.read(entry, 16) if entry else None
            if raw:
                keys[struct.unpack_from("<Q", raw, 8)[0]] += 1
        if keys:
            key, votes = keys.most_common(1)[0]
            # Up to 2.33 the key is the address of the cache itself, and 2.26 to 2.28 have none.
            if votes * 2 > sum(keys.values()) and key > 1 << 24 and key != region.start + 16:
                return Caches(size, key if size != 0x250 else 0)
            return Caches(size)
    return known


# ---- all arenas ----------------------------------------------------------------------------------


def glibc_heaps(memory: Memory, space: Space) -> tuple[list[GlibcHeap], list[str]]:
    """The arenas of every glibc in the process; and what could not be told."""
    heaps: list[GlibcHeap] = []
    notes: list[str] = []
    seen: set[int] = set()
    for main in find_main(memory, space):
        if main.address in seen:
            continue
        ring, why = read_ring(memory, space, main)
        seen |= {state.address for state in ring}
        if why:
            notes.append(why)
        places = [(state, _regions(memory, space, state)) for state in ring]
        caches = find_caches(memory, [r[-1] for _, r in places if r])
        parameters = None
        if places[0][1]:
            # Where the system's first stretch begins; that need not be a multiple of anything.
            start, end = places[0][1][0].start, places[0][1][0].end
            firsts = {end - main.system, start, start & -memory.page}
            parameters = find_parameters(memory, space, main, firsts)
        for state, regions in places:
            said: list[str] = []
            if not regions and state.has_top:
                said.append("where its heaps lie could not be told")
            heaps.append(
                GlibcHeap(
                    memory, space, state, regions, caches, parameters if state.main else None, said
                )
            )
    return heaps, notes


def _regions(memory: Memory, space: Space, state: ArenaState) -> list[Region]:
    """The stretches of chunks of an arena, oldest last."""
    if not state.has_top:
        return []
    if state.main:
        return _main_regions(memory, space, state)
    found: list[Region] = []
    first = state.heaps[-1].base if state.heaps else 0
    for info in state.heaps:
        start = (
            -(-state.end // 16) * 16 if info.base == first else info.base + state.address - first
        )
        top = state.top if info.base <= state.top < info.base + info.size else 0
        found.append(Region(start, info.base + info.size, top))
    return found


def _main_regions(memory: Memory, space: Space, state: ArenaState) -> list[Region]:
    raw = memory.read(state.top + 8, 8)
    size = struct.unpack("<Q", raw)[0] & ~7 if raw else 0
    here = space.at(state.top)
    if here is None:
        return []
    low, high = space.stretch(state.top)
    end = min(state.top + size, high) & ~15
    if end <= state.top:
        return []
    start = end - state.system
    if state.contiguous and start >= low:
        return [Region(-(-start // 16) * 16, end, state.top)]
    if state.contiguous:
        # Others moved the end of the brk heap too.
        return [Region(max(low, start), end, state.top)]
    return _scattered(memory, space, state, end)


def _binned(memory: Memory, space: Space, state: ArenaState) -> Iterator[int]:
    """The chunks in bins, each list to its end, _MAX_BINNED in all."""
    left = _MAX_BINNED
    for number in range(BINS):
        head = state.bins - 16 + 16 * number
        at, seen = head, {head}
        while left:
            raw = memory.read(at + 16, 8)
            at = struct.unpack("<Q", raw)[0] if raw else head
            if at in seen or at % 16 or not space.writable(at):
                break
            seen.add(at)
            left -= 1
            yield at


def _scattered(memory: Memory, space: Space, state: ArenaState, end: int) -> list[Region]:
    """The stretches of a main arena whose brk heap could not grow: then malloc maps more, 1 MiB at
    least each time. Known are the brk heap, the mapping of the top, and those that a chunk in a bin
    lies in; what they do not cover is unknown."""
    spans: set[tuple[int, int]] = set()
    for place in (state.top, *state.fastbins, *_binned(memory, space, state)):
        here = space.at(place)
        if here is not None and here.perms[1] == "w" and not here.has_file:
            spans.add((here.start, here.end))
    spans |= {(m.start, m.end) for m in space.mappings if m.name == "[heap]"}
    found: list[Region] = []
    for low, high in sorted(spans):
        if low <= state.top < high:
            found.append(Region(low, end, state.top))
            low = end
        if low < high:
            found.append(Region(low, high))
    return found
