"""Allocators whose blocks are not walked: told by the files that a process has mapped.

Of them it is known which private memory no other heap explains, not how much of it is used.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from dmi import _foreign

from ._glibc import GlibcHeap
from ._mapped import mapped_blocks
from ._rights import ShapeHeap
from ._spans import Claims

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dmi.address import AddressSummary, Region

    from ._glibc_find import Space
    from ._heaps import ForeignHeap, Memory

__all__ = ["other_heaps", "recognised"]

# What the base name of a mapped file tells, the libraries first.
_FILES: Final = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("jemalloc", r"libjemalloc\b"),
        ("mimalloc", r"libmimalloc\b"),
        ("tcmalloc", r"libtcmalloc\b|libtcmalloc_minimal\b"),
        ("snmalloc", r"libsnmalloc"),
        ("rpmalloc", r"librpmalloc"),
        ("scudo", r"libscudo|libclang_rt\.scudo"),
        ("musl", r"ld-musl-"),
        ("JVM", r"libjvm\.so"),
        (".NET", r"libcoreclr\.so|libmonosgen"),
        ("Boehm GC", r"libgc\.so"),
        ("Arrow", r"libarrow\.so"),
        ("DuckDB", r"duckdb.*\.so|libduckdb"),
        ("V8", r"^(?:node|nodejs|chrome|chromium|electron|deno)$|libnode\.so|libv8\.so"),
        ("Zend", r"^php(?:-fpm|-cgi)?[0-9.]*$|libphp[0-9.]*\.so"),
        ("Erlang", r"^beam\.smp$"),
        ("PostgreSQL", r"^postgres$"),
    )
)
_LEAST: Final = 1 << 20
"""Private memory below this is not worth a row; unrecognised needs more."""
_LEAST_UNKNOWN: Final = 16 << 20
_OWN: Final = ("PostgreSQL",)
"""Those that stand on malloc: what they have is malloc's."""


def recognised(space: Space) -> list[str]:
    """The allocators that the files of the process tell of."""
    names = {m.name.rpartition("/")[2] for m in space.mappings if m.has_file}
    return [
        kind
        for kind, pattern in _FILES
        if kind not in _OWN and any(pattern.search(name) for name in names)
    ]


def other_heaps(
    memory: Memory, space: Space, summary: AddressSummary, known: Iterable[ForeignHeap]
) -> list[ShapeHeap]:
    """The private memory that none of the known heaps explains, as one heap. What glibc mapped
    block by block is looked for there first, and noted with its heap."""
    claims = Claims()
    claims.add(((s.address, s.address + s.reserved) for heap in known for s in heap.segments()), 0)
    open_ = [
        region
        for region in summary.regions
        if region.usage == "Other" and region.type == "MEM_PRIVATE" and region.committed
    ]
    missing = 0
    for heap in known:
        if isinstance(heap, GlibcHeap) and heap.parameters is not None:
            total, count = heap.parameters.mmapped, heap.parameters.mmaps
            spans = [(low, high) for region in open_ for low, high in _left(claims, region)]
            heap.mapped = tuple(mapped_blocks(memory, spans, total, count))
            claims.add(((start, start + size) for start, size in heap.mapped), 0)
            missing += total - sum(size for _, size in heap.mapped)
    left: list[tuple[int, int, int, int | None]] = []
    for region in open_:
        for low, high in _left(claims, region):
            part = (high - low) / region.size
            # pagemap counts pages of zeros too, which cost nothing.
            resident = _foreign.resident(memory, [(low, high - low)])
            if resident is not None and region.resident is not None:
                resident = min(resident, region.resident)
            left.append((low, high - low, int(region.committed * part), resident))
    # Blocks that malloc mapped and that were not found lie among them, nobody knows where.
    held = sum(committed for _, _, committed, _ in left) - missing
    kinds = recognised(space)
    if held < (_LEAST if kinds else _LEAST_UNKNOWN):
        return []
    return [ShapeHeap(" or ".join(kinds) or "unknown", left, less=missing)]


def _left(claims: Claims, region: Region) -> Iterator[tuple[int, int]]:
    """The parts of the region that nobody has claimed."""
    for low, high, owner in claims.cut(region.start, region.end):
        if owner is None:
            yield low, high
