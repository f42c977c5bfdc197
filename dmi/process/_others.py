"""Allocators whose blocks are not walked: told by the files that a process has mapped.

Of them it is known which private memory no other heap explains, not how much of it is used.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ._rights import ShapeHeap

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from dmi.address import AddressSummary

    from ._glibc_find import Space
    from ._heaps import ForeignHeap

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
    space: Space, summary: AddressSummary, known: Iterable[ForeignHeap]
) -> list[ShapeHeap]:
    """The private memory that none of the known heaps explains, as one heap."""
    spans: list[tuple[int, int]] = []
    mapped = 0
    for heap in known:
        spans += [(s.address, s.address + s.reserved) for s in heap.segments()]
        mapped += (heap.stats().mapped or 0) if heap.kind == "glibc" else 0
    spans.sort()
    left: list[tuple[int, int, int, int | None]] = []
    for region in summary.regions:
        if region.usage != "Other" or region.type != "MEM_PRIVATE" or not region.committed:
            continue
        covered = _covered(spans, region.start, region.start + region.size)
        size = region.size - covered
        if size <= 0:
            continue
        part = size / region.size
        resident = None if region.resident is None else int(region.resident * part)
        left.append((region.start, size, int(region.committed * part), resident))
    # Blocks that malloc mapped lie among them, nobody knows where.
    held = sum(committed for _, _, committed, _ in left) - mapped
    kinds = recognised(space)
    if held < (_LEAST if kinds else _LEAST_UNKNOWN):
        return []
    return [ShapeHeap(" or ".join(kinds) or "unknown", left, less=mapped)]


def _covered(spans: Sequence[tuple[int, int]], start: int, end: int) -> int:
    """Bytes of [start, end) that lie in the spans, each counted once."""
    total, at = 0, start
    for low, high in spans:
        low, high = max(low, at), min(high, end)
        if high > low:
            total += high - low
            at = high
    return total
