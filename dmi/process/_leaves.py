"""The leaves of a process: its mappings, cut where their owners change (see ``dmi._leaves``).

What a mapping has in memory the kernel says of the whole of it. Where it is cut, pagemap tells how
much lies in each part; the parts are then fitted to the kernel's own figure, so that all leaves add
up to Rss and Swap of the smaps that was read.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from dmi._leaves import HEAP, Leaf
from dmi.address import NO_DISK

from ._pages import pages_of
from ._text import escaped
from ._threads import Stacks, threads_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dmi.address import Region, Source
    from dmi.address._maps import Mapping

    from ._spans import Claims

__all__ = ["leaves_of"]

_HEAPS: Final = {
    "HeapDmi": ("dmi heaps", "dmi"),
    "HeapBrk": ("brk heap", ""),
    "HeapGlibcArena": ("glibc arenas", "glibc"),
    "HeapPymalloc": ("pymalloc", "pymalloc"),
}
_OF_RUNTIMES: Final = {"/memfd:java_heap": "JVM", "/memfd:doublemapper": ".NET"}
_REST: Final = "anonymous, of nobody that is known"


def leaves_of(
    source: Source,
    mappings: Sequence[Mapping],
    regions: Iterable[Region],
    claims: Claims | None = None,
    owners: Sequence[tuple[str, str]] = (),
) -> tuple[Leaf, ...]:
    """Every byte that the mappings have in memory, by holder, those that hold most first.

    regions  the mappings with their usage, as ``summarise`` has them
    claims   what heaps have; an owner is an index of owners: (name of the leaf, kind of heap)
    """
    starts = [mapping.start for mapping in mappings]
    stacks = Stacks(source, getattr(source, "pid", 0), threads_of(source))
    parts: list[tuple[Mapping, list[tuple[int, int, _Key]]]] = []
    image = ""
    for region in regions:
        index = bisect_right(starts, region.start) - 1
        if index < 0:
            continue
        mapping = mappings[index]
        if mapping.has_file:
            image = mapping.name
        if not parts or parts[-1][0] is not mapping:
            parts.append((mapping, []))
        for start, end, owner in _cut(region, mapping, claims):
            key = owners[owner] if owner is not None else ("", "")
            parts[-1][1].append(
                (start, end, (HEAP, *key))
                if owner is not None
                else (start, end, _plain(region, mapping, image, stacks))
            )
    seen = {id(mapping) for mapping, _ in parts}
    # Outside of what a program can use, or the kernel told of it twice.
    parts += [
        (mapping, [(mapping.start, mapping.end, ("kernel", escaped(mapping.name), ""))])
        for mapping in mappings
        if id(mapping) not in seen and mapping.resident
    ]
    total: dict[_Key, _Sum] = {}
    for mapping, pieces in parts:
        _add(source, mapping, pieces, total)
    found = [each.leaf(key) for key, each in total.items() if each.size or each.resident]
    return tuple(sorted(found, key=lambda leaf: (-(leaf.holds or 0), -leaf.size, leaf.name)))


_Key = tuple[str, str, str]
"""What, name, kind of allocator."""


def _cut(
    region: Region, mapping: Mapping, claims: Claims | None
) -> Iterable[tuple[int, int, int | None]]:
    end = region.start + region.size
    own = region.usage in ("Stack", "Image", "MappedFile", "Kernel")
    if claims is None or own or mapping.shared or mapping.has_file:
        return [(region.start, end, None)]
    return claims.cut(region.start, end)


def _plain(region: Region, mapping: Mapping, image: str, stacks: Stacks) -> _Key:
    usage, name = region.usage, mapping.name
    if usage in _HEAPS:
        title, kind = _HEAPS[usage]
        return HEAP, title, kind
    if usage == "Stack":
        return "stack", escaped(stacks.owner(mapping, region.start, region.start + region.size)), ""
    if usage == "Kernel":
        return "kernel", name, ""
    if usage == "Image":
        return "file", escaped(name if mapping.has_file else image or "zero-filled data"), ""
    if mapping.shared and (name.startswith(NO_DISK) or not name.startswith("/")):
        for begins, kind in _OF_RUNTIMES.items():
            if name.startswith(begins):
                return HEAP, f"{kind} {escaped(name)}", kind
        return "shared memory", f"shared memory {escaped(name)}".rstrip(), ""
    if mapping.has_file:
        return "file", escaped(name), ""
    if name:
        return "anonymous", escaped(name), ""
    return "rest", _REST, ""


class _Sum:
    """What has been added up for one leaf."""

    def __init__(self) -> None:
        self.size = self.mappings = 0
        self.resident: int | None = 0
        self.swapped: int | None = 0
        self.clean: int | None = 0
        self.lazy: int | None = 0
        self.huge: int | None = 0

    def leaf(self, key: _Key) -> Leaf:
        return Leaf(
            key[0], key[1], self.size, self.resident, self.swapped, self.clean, self.lazy,
            self.huge, self.mappings, key[2],
        )  # fmt: skip


def _plus(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def _add(
    source: Source,
    mapping: Mapping,
    pieces: Sequence[tuple[int, int, _Key]],
    total: dict[_Key, _Sum],
) -> None:
    sizes = [end - start for start, end, _ in pieces]
    whole = len({key for _, _, key in pieces}) == 1
    present, swapped = (mapping.resident, mapping.swapped)
    shares: list[int | None] = [None] * len(pieces)
    swaps: list[int | None] = [None] * len(pieces)
    if present is not None and whole:
        shares = [present, *[0] * (len(pieces) - 1)]
        swaps = [swapped or 0, *[0] * (len(pieces) - 1)]
    elif present is not None:
        # Where pagemap does not tell, by size.
        counts = [
            pages_of(source, start, end) or (end - start, end - start) for start, end, _ in pieces
        ]
        shares = [*_fitted([count[0] for count in counts], sizes, present, source.page)]
        swaps = [*_fitted([count[1] for count in counts], sizes, swapped or 0, source.page)]
    for number, (_, _, key) in enumerate(pieces):
        each = total.setdefault(key, _Sum())
        each.size += 0 if mapping.inaccessible else sizes[number]
        each.mappings += 1
        each.resident = _plus(each.resident, shares[number])
        each.swapped = _plus(each.swapped, swaps[number])
        for name in ("clean", "lazy", "huge"):
            known = getattr(mapping, name)
            # Of a part it is known only where the mapping has none, or is one holder's.
            part = known if whole and number == 0 else 0 if whole or known == 0 else None
            setattr(each, name, _plus(getattr(each, name), part))


def _fitted(counts: Sequence[int], sizes: Sequence[int], total: int, page: int) -> list[int]:
    """The counts, changed so that they add up to the total and none exceeds its size, as far as
    the sizes allow."""
    have = sum(counts)
    if have > total:
        # Pages of zeros that were only read are there, and the kernel does not count them.
        shares = [count * total // have // page * page for count in counts]
    else:
        shares = list(counts)
    left = total - sum(shares)
    for number in sorted(range(len(sizes)), key=lambda n: -sizes[n]):
        room = max(0, sizes[number] - shares[number])
        more = min(room, left)
        shares[number] += more
        left -= more
    if left and shares:
        shares[-1] += left
    return shares
