"""How much of pymalloc's arenas Python objects use, read from the headers of the pools."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ._attribute import is_pool
from ._maps import ProcSource

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._maps import Source

__all__ = ["pool_bytes", "pymalloc_usage"]

_HEADER = 48
_POOL_SIZES = (16 << 10, 4 << 10)


def pymalloc_usage(pid: int | None, arenas: Iterable[tuple[int, int]]) -> int | None:
    """Bytes of the blocks in use in ``arenas``, (address, size) pairs; None when the memory of the
    process cannot be read. A block counts with the size of its class. The pools are not read at
    one moment."""
    with ProcSource(pid) as source:
        return pool_bytes(source, arenas)


def pool_bytes(source: Source, arenas: Iterable[tuple[int, int]]) -> int | None:
    """The same for any source."""
    spans = list(arenas)
    # Which size this Python has follows from what is found: 16 KiB, 4 KiB before Python 3.10.
    for pool in _POOL_SIZES:
        found = [_arena(source, start, size, pool) for start, size in spans]
        known = [used for used in found if used is not None]
        if known:
            return sum(known)
    return None


def _arena(source: Source, start: int, size: int, pool: int) -> int | None:
    """Bytes in use, None when nothing in it is a pool. Pages that are not in memory are not
    touched: reading them would fault them in."""
    used, seen = 0, False
    pages = size // source.page
    present = source.present(start, pages)
    first = -(-start // pool) * pool
    for address in range(first, start + size - pool + 1, pool):
        if present is not None and not present[(address - start) // source.page]:
            continue
        data = source.read(address, _HEADER)
        if data is None or not is_pool(data, address, pool):
            continue
        seen = True
        (count,) = struct.unpack_from("<I", data)
        (size_class,) = struct.unpack_from("<I", data, 36)
        used += count * 16 * (size_class + 1)
    return used if seen else None
