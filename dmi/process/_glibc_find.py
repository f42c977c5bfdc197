"""glibc's arenas in a process without symbols, told by what stands in its memory.

An arena keeps 127 list heads, its bins. The head of an empty list leads to itself, and the last bin
is never used: so the end of such a table is a pair of words that hold their own address less 16.
Before the bins stand the top and, up to 2.42, the fastbins; behind them the link to the next arena,
which leads round to the first, and what the system gave.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from dmi import _foreign

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dmi.address._maps import Mapping

    from ._heaps import Memory

__all__ = ["ArenaState", "HeapInfo", "MallocParameters", "Space", "find_main", "read_ring"]

BINS: Final = 127
_BINS_BYTES: Final = BINS * 16
# From the arena to its bins: 2.27 to 2.42; 2.26; from 2.43 on, which has no fastbins.
_PREFIXES: Final = (112, 104, 24)
_BEFORE: Final = 112
_BEHIND: Final = 16 + 5 * 8
_FASTBINS: Final = 10
_MAX_DATA: Final = 256 << 20
"""Bytes of the writable data of one file that is looked through."""
_PIECE: Final = 4 << 20
_MAX_ARENAS: Final = 1 << 16
_MIN_HEAP, _MAX_HEAP = 20, 36
_USUAL_HEAP: Final = 64 << 20
_NONCONTIGUOUS: Final = 2


class Space:
    """The mappings of a process, to be asked whether an address lies in one that can be written."""

    def __init__(self, mappings: Iterable[Mapping]) -> None:
        self.mappings = sorted(mappings, key=lambda m: m.start)
        self._starts = [m.start for m in self.mappings]

    def at(self, address: int) -> Mapping | None:
        """The mapping that holds the address."""
        index = bisect_right(self._starts, address) - 1
        if index >= 0 and address < self.mappings[index].end:
            return self.mappings[index]
        return None

    def writable(self, address: int) -> bool:
        """Whether the address lies in memory that can be written."""
        found = self.at(address)
        return found is not None and found.perms[1] == "w"

    def reach(self, address: int) -> int:
        """Where the writable memory ends that holds the address, and what nobody can read behind
        it."""
        index = bisect_right(self._starts, address) - 1
        end = self.stretch(address)[1] if index >= 0 else address
        after = self.at(end)
        return after.end if after is not None and after.inaccessible else end

    def stretch(self, address: int) -> tuple[int, int]:
        """First and last address of the writable mappings that touch each other around it."""
        index = bisect_right(self._starts, address) - 1
        first = last = index
        maps = self.mappings

        def joins(low: Mapping, high: Mapping) -> bool:
            return (
                low.end == high.start
                and low.perms[1] == high.perms[1] == "w"
                and not (low.has_file or high.has_file)
                and "[stack" not in (low.name[:6], high.name[:6])
            )

        while first > 0 and joins(maps[first - 1], maps[first]):
            first -= 1
        while last + 1 < len(maps) and joins(maps[last], maps[last + 1]):
            last += 1
        return maps[first].start, maps[last].end


@dataclass(frozen=True, slots=True)
class HeapInfo:
    """One heap of a thread's arena: its base, what of it is in use, can be written, is reserved."""

    base: int
    size: int
    writable: int
    reserved: int


@dataclass(slots=True)
class ArenaState:
    """What an arena's own struct says."""

    address: int
    bins: int
    main: bool
    flags: int
    top: int
    fastbins: tuple[int, ...]
    next: int
    attached: int
    system: int
    most_system: int
    heaps: list[HeapInfo] = field(default_factory=list)

    @property
    def contiguous(self) -> bool:
        """Whether what the system gave is one stretch as far as malloc knows."""
        return not self.flags & _NONCONTIGUOUS

    @property
    def has_top(self) -> bool:
        """False before the first allocation."""
        return self.top != self.bins - 16

    @property
    def end(self) -> int:
        """The first address behind the struct."""
        return self.bins + _BINS_BYTES + _BEHIND


@dataclass(frozen=True, slots=True)
class MallocParameters:
    """Totals that malloc keeps of blocks mapped on their own; and, from 2.35 on, the size of the
    huge pages that it was told to ask for, 0 where it was not."""

    mmaps: int
    mmapped: int
    most_mmapped: int
    huge: int = 0


# ---- main arenas ---------------------------------------------------------------------------------


def data_of_files(space: Space) -> Iterator[tuple[int, int]]:
    """Writable data of files with the zero-filled memory behind it, libc's first."""
    found: list[tuple[bool, int, int]] = []
    maps = space.mappings
    for index, mapping in enumerate(maps):
        if not mapping.has_file or mapping.perms[1] != "w" or mapping.shared:
            continue
        end = mapping.end
        after = maps[index + 1] if index + 1 < len(maps) else None
        if (
            after is not None
            and after.start == end
            and not after.has_file
            and after.perms[1] == "w"
        ):
            end = after.end
        base = mapping.name.rpartition("/")[2]
        libc = base.startswith(("libc.so", "libc-"))
        found.append((not libc, mapping.start, min(end, mapping.start + _MAX_DATA)))
    for _, start, end in sorted(found):
        yield start, end


def pieces(memory: Memory, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """What can be read of the range, in pieces; zero-filled ends may not be there."""
    at = max(start, memory.next_there(start) & -8)
    while at < end:
        room = bytearray(min(_PIECE, end - at))
        got = memory.read_into(at, memoryview(room))
        if got >= 16:
            yield at, bytes(room[: got & ~7])
        at += len(room)
        at = max(at, memory.next_there(at) & -8)


def find_main(memory: Memory, space: Space) -> list[ArenaState]:
    """Every main arena: a process has one for each copy of glibc."""
    found: dict[int, ArenaState] = {}
    for start, end in data_of_files(space):
        for at, data in pieces(memory, start, end):
            for _, last, _ in _foreign.linked(data, at, 1, 0):
                state = _main_with_last_bin(memory, space, last)
                if state is not None:
                    found.setdefault(state.address, state)
    return list(found.values())


def _main_with_last_bin(memory: Memory, space: Space, last: int) -> ArenaState | None:
    bins = last - (BINS - 1) * 16
    raw = _raw(memory, space, bins, _BEFORE)
    if raw is None:
        return None
    (following,) = struct.unpack_from("<Q", raw, _BEFORE + _BINS_BYTES + 16)
    for prefix in _PREFIXES:
        if following == bins - prefix:
            return _state(raw, bins, prefix, main=True)
    for prefix in _PREFIXES:
        # The ring leads back here, or at least to something that is an arena.
        other = _raw(memory, space, following + prefix, prefix)
        if other is not None and following % 4096 in (32, 48, 64):
            return _state(raw, bins, prefix, main=True)
    return None


def _raw(memory: Memory, space: Space, bins: int, prefix: int) -> bytes | None:
    """The bytes around the bins, from _BEFORE on, where they can be an arena's that has `prefix`
    bytes before them; what lies before the arena is no concern and comes as zeros."""
    if bins % 8 or bins < _BEFORE:
        return None
    raw = memory.read(bins - prefix, prefix + _BINS_BYTES + _BEHIND)
    if raw is None:
        return None
    raw = bytes(_BEFORE - prefix) + raw
    links = struct.unpack_from(f"<{2 * BINS}Q", raw, _BEFORE)
    own = bins - 16
    for i in range(0, 2 * BINS, 2):
        head = own + 8 * i
        if links[i] == head and links[i + 1] == head:
            continue
        # Empty ones have both words; others lead to chunks.
        if i == 2 * (BINS - 1) or links[i] % 16 or links[i + 1] % 16:
            return None
        if not (space.writable(links[i]) and space.writable(links[i + 1])):
            return None
    attached, system, most = struct.unpack_from("<3Q", raw, _BEFORE + _BINS_BYTES + 32)
    (top,) = struct.unpack_from("<Q", raw, _BEFORE - 16)
    if top == own:
        return raw  # nothing was allocated yet: the first top is the head of the first bin
    if system > most or attached > 1 << 24 or most >> 47 or top % 16 or not space.writable(top):
        return None
    return raw


def _state(raw: bytes, bins: int, prefix: int, *, main: bool) -> ArenaState:
    flags = struct.unpack_from("<I", raw, _BEFORE - prefix + 4)[0]
    fast: tuple[int, ...] = ()
    if prefix > 24:
        fast = struct.unpack_from(f"<{_FASTBINS}Q", raw, _BEFORE - 16 - 8 * _FASTBINS)
    following, _, attached, system, most = struct.unpack_from(
        "<5Q", raw, _BEFORE + _BINS_BYTES + 16
    )
    (top,) = struct.unpack_from("<Q", raw, _BEFORE - 16)
    return ArenaState(
        bins - prefix, bins, main, flags, top, fast, following, attached, system, most
    )


# ---- the others ----------------------------------------------------------------------------------


def read_ring(memory: Memory, space: Space, main: ArenaState) -> tuple[list[ArenaState], str]:
    """All arenas, main first, and why the ring broke off, empty where it did not."""
    found, seen = [main], {main.address}
    prefix, at = main.bins - main.address, main.next
    while at != main.address and len(found) < _MAX_ARENAS:
        fits = at not in seen and at % 16 == 0
        raw = _raw(memory, space, at + prefix, prefix) if fits else None
        if raw is None:
            return found, f"the ring of arenas breaks off at {at:x}"
        state = _state(raw, at + prefix, prefix, main=False)
        state.heaps = _heaps_of(memory, space, state)
        found.append(state)
        seen.add(at)
        at = state.next
    return found, ""


def _heaps_of(memory: Memory, space: Space, arena: ArenaState) -> list[HeapInfo]:
    """The heaps of a thread's arena, newest first; their size is found, not assumed.

    It is what glibc takes without huge pages, or the largest power of two that the reserved memory
    has room for. A core file may lack memory that nobody can read: then what fits.
    """
    sizes = [_USUAL_HEAP, *(1 << bits for bits in range(_MAX_HEAP - 1, _MIN_HEAP - 1, -1))]
    for largest in sizes:
        heaps = _heaps_by(memory, arena, largest)
        if heaps and all(space.reach(heap.base) >= heap.base + largest for heap in heaps):
            return heaps
    return next((heaps for largest in sizes if (heaps := _heaps_by(memory, arena, largest))), [])


def _heaps_by(memory: Memory, arena: ArenaState, largest: int) -> list[HeapInfo]:
    """The heaps, if each takes and is aligned to that many bytes."""
    # The arena stands at the beginning of its first heap.
    if arena.address & (largest - 1) <= 64:
        heaps: list[HeapInfo] = []
        at, before = arena.top & -largest, 0
        while at and at != before and len(heaps) <= arena.system >> 12:
            info = _heap_info(memory, arena.address, at, largest)
            if info is None:
                break
            heaps.append(info[0])
            before, at = at, info[1]
        if heaps and at == 0 and heaps[-1].base == arena.address & -largest:
            return heaps
    return []


def _heap_info(memory: Memory, arena: int, base: int, largest: int) -> tuple[HeapInfo, int] | None:
    raw = memory.read(base, 32)
    if raw is None:
        return None
    owner, previous, size, writable = struct.unpack("<4Q", raw)
    if owner != arena or not 0 < size <= writable <= largest or size % 16 or previous % largest:
        return None
    return HeapInfo(base, size, writable, largest), previous


# ---- totals of what is mapped block by block -----------------------------------------------------


def find_parameters(
    memory: Memory, space: Space, arena: ArenaState, firsts: set[int]
) -> MallocParameters | None:
    """malloc's own parameters, found by the start of the main heap that they name.

    Before it stand the bytes mapped now and at most, and before these the counts, in one of two
    orders: up to 2.34, and from 2.35 on. Behind it stand the 64 bins of threads' caches, which tell
    where the heap has no start.
    """
    here = space.at(arena.address)
    if here is None:
        return None
    low, high = max(here.start, arena.address - (1 << 16)), min(here.end, arena.address + (1 << 16))
    index = space.mappings.index(here)
    for other in (index - 1, index + 1):
        if 0 <= other < len(space.mappings):
            near = space.mappings[other]
            if near.end == here.start and near.perms[1] == "w" and near.has_file:
                low = max(near.start, here.start - (1 << 16))
            if near.start == here.end and near.perms[1] == "w" and high == here.end:
                high = min(near.end, max(high, here.end + (1 << 16)))
    data = memory.read(low, (high - low) & ~7)
    if data is None:
        return None
    words = struct.unpack(f"<{len(data) // 8}Q", data)
    firsts = firsts - {0}
    for fits in (
        lambda i: words[i] in firsts,
        lambda i: words[i] % 16 == 0 and words[i + 1] == 64 and 16 < words[i + 2] < 1 << 32,
    ):
        for i in range(8, len(words) - 2):
            found = _parameters(data, 8 * i) if fits(i) else None
            if found is not None:
                return found
    return None


def _parameters(data: bytes, at: int) -> MallocParameters | None:
    mapped, most = struct.unpack_from("<2Q", data, at - 16)
    if mapped > most or mapped % 16 or most >> 47:
        return None
    for start in (at - 36, at - 32):
        count, limit, most_count, fixed = struct.unpack_from("<4i", data, start)
        fits = 0 <= count <= most_count <= limit and fixed in (0, 1) and limit > 0
        if fits and bool(count) == bool(mapped) and bool(most_count) == bool(most):
            huge = 0
            if start == at - 36 and at >= 56:
                (huge,) = struct.unpack_from("<Q", data, at - 56)
            sized = huge & huge - 1 == 0 and 1 << 16 <= huge <= 1 << 30
            return MallocParameters(count, mapped, most, huge if sized else 0)
    return None
