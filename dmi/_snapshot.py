"""Snapshots: the heaps of a process and what stands around them at one moment, as small JSON.

A snapshot file is what dmi.diagnose and `dmi doctor` read. The blocks, where asked for, lie beside
it in a compressed file of the same name with ``.blocks`` behind it.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dmi import _inspect, heap
from dmi._layers import glibc_malloc, physical_memory
from dmi.address import NotSupportedError, address_summary
from dmi.errors import HeapError
from dmi.stats import HeapStats
from dmi.walk import HeapWalk, HistogramRow, Segment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from dmi import windbg

__all__ = ["HeapSnapshot", "Snapshot", "snapshot"]

FORMAT: Final = "dmi-snapshot"
VERSION: Final = 1
SUFFIX: Final = ".blocks"
MAX_JSON: Final = 256 << 20
"""Bytes of the largest snapshot file that is read."""
MAX_BLOCKS: Final = 1 << 29
"""Ranges in the largest file of blocks that is read."""
_MAGIC: Final = b"DMIBLK01"
# No zlib stream holds more; what claims to is damaged.
_MAX_RATIO: Final = 1100


@dataclass(frozen=True, slots=True)
class HeapSnapshot:
    """One heap at the moment of a snapshot. blocks is None unless they were asked for."""

    handle: int
    name: str
    decommit: str
    stats: HeapStats
    segments: tuple[Segment, ...] = ()
    histogram: tuple[HistogramRow, ...] = ()
    blocks: HeapWalk | None = None

    def row(self) -> windbg.HeapRow:
        """The columns of `!heap -s`."""
        return heap.heap_row(self.handle, self.stats)

    def as_dict(self) -> dict[str, Any]:
        """For JSON; of the blocks only how many there are."""
        return {
            "handle": self.handle,
            "name": self.name,
            "decommit": self.decommit,
            "stats": self.stats.as_dict(),
            "segments": [list(segment) for segment in self.segments],
            "histogram": [[row.size, row.count] for row in self.histogram],
            "blocks": None if self.blocks is None else len(self.blocks),
        }


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A process at one moment.

    label    a title
    time     seconds since 1970
    heaps    dmi's heaps, oldest first
    outside  allocators that are not dmi: {"name", "busy", "committed"}, bytes
    address  `!address -summary` as a dict, None where it could not be had
    process  {"committed", "resident"}, bytes

    The heaps are looked at one after the other while other threads go on.
    """

    label: str
    time: float
    pid: int
    page_size: int
    heaps: tuple[HeapSnapshot, ...]
    outside: tuple[Mapping[str, Any], ...] = ()
    address: Mapping[str, Any] | None = None
    process: Mapping[str, int] | None = None

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the blocks."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "label": self.label,
            "time": self.time,
            "pid": self.pid,
            "page_size": self.page_size,
            "heaps": [each.as_dict() for each in self.heaps],
            "outside": [dict(each) for each in self.outside],
            "address": None if self.address is None else dict(self.address),
            "process": None if self.process is None else dict(self.process),
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the snapshot, and its blocks beside it. OSError as usual."""
        target = Path(path)
        if any(each.blocks is not None for each in self.heaps):
            packer = zlib.compressobj(level=1)
            with target.with_name(target.name + SUFFIX).open("wb") as file:
                file.write(_MAGIC)
                for each in self.heaps:
                    if each.blocks is not None:
                        file.write(packer.compress(each.blocks.records))
                file.write(packer.flush())
        target.write_text(json.dumps(self.as_dict(), separators=(",", ":")) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Snapshot:
        """Read what save() wrote. Blocks that are missing beside it are left out.

        ValueError, naming the file, for anything else.
        """
        source = Path(path)
        with source.open("rb") as file:
            data = file.read(MAX_JSON + 1)
        if len(data) > MAX_JSON:
            raise ValueError(f"{source}: larger than {MAX_JSON >> 20} MiB")
        try:
            values = json.loads(data)
            if not isinstance(values, dict):
                raise ValueError("no JSON object")
            beside = source.with_name(source.name + SUFFIX)
            counts = [_count(entry) for entry in _list(values, "heaps")]
            walks: list[HeapWalk | None] = [None] * len(counts)
            if any(counts) and beside.is_file():
                walks = _read_blocks(beside, counts)
            return cls._from_dict(values, walks)
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise ValueError(f"{source}: not a snapshot of dmi: {error}") from None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Snapshot:
        """The inverse of as_dict(); blocks are not part of it. ValueError for anything else."""
        return cls._from_dict(values, [None] * len(_list(values, "heaps")))

    @classmethod
    def _from_dict(cls, values: Mapping[str, Any], walks: list[HeapWalk | None]) -> Snapshot:
        version = values.get("version", VERSION)
        if values.get("format", FORMAT) != FORMAT or version != VERSION:
            raise ValueError(f"of format {values.get('format')!r}, version {version!r}")
        outside = _list(values, "outside", optional=True)
        if not all(isinstance(each, dict) for each in outside):
            raise ValueError("outside must hold objects")
        return cls(
            _typed(values, "label", str, ""),
            float(_typed(values, "time", (int, float), 0.0)),
            _size(values, "pid", 0),
            _size(values, "page_size", 4096),
            tuple(
                _heap(entry, walk)
                for entry, walk in zip(_list(values, "heaps"), walks, strict=True)
            ),
            tuple(outside),
            _typed(values, "address", (dict, type(None)), None),
            _typed(values, "process", (dict, type(None)), None),
        )


def snapshot(blocks: bool = False, *, label: str = "") -> Snapshot:
    """The heaps of this process now, what malloc holds beside them, and the address space.

    With blocks every range of every heap is kept, 40 bytes each, which save() compresses.
    Thread-safe; each heap is stopped for the length of one walk.
    """
    taken = tuple(_taken(heap.heaps(), bool(blocks)))
    outside: list[dict[str, Any]] = []
    malloc = glibc_malloc()
    if malloc is not None:
        held, used = malloc["arena"] + malloc["hblkhd"], malloc["uordblks"] + malloc["hblkhd"]
        outside.append(
            {
                "name": "glibc malloc",
                "busy": used,
                "committed": held,
                "free": malloc["fordblks"],
                "list_length": malloc["ordblks"],
            }
        )
    address: dict[str, Any] | None = None
    process: dict[str, int] = {}
    with suppress(NotSupportedError, OSError):
        summary = address_summary()
        address = summary.as_dict()
        process = {"committed": summary.committed, "resident": physical_memory().get("Rss", 0)}
    page = os.sysconf("SC_PAGE_SIZE")
    return Snapshot(
        label, time.time(), os.getpid(), page, taken, tuple(outside), address, process or None
    )


def _taken(heaps: Iterable[heap.Heap], blocks: bool) -> Iterable[HeapSnapshot]:
    for each in heaps:
        with suppress(HeapError):  # destroyed meanwhile
            walk = each.walk()
            yield HeapSnapshot(
                each.handle,
                each.name,
                str(each.decommit),
                each.stats(detail=True),
                tuple(each.segments()),
                tuple(walk.histogram()),
                walk if blocks else None,
            )


# ---- reading what may be damaged ----------------------------------------------------------------


def _typed(values: Mapping[str, Any], name: str, kinds: Any, default: Any) -> Any:
    value = values.get(name, default)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise ValueError(f"{name} must not be {value!r:.40}")
    return value


def _size(values: Mapping[str, Any], name: str, default: int) -> int:
    value: int = _typed(values, name, int, default)
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{name} must not be {value!r:.40}")
    return value


def _list(values: Mapping[str, Any], name: str, *, optional: bool = False) -> list[Any]:
    value = values.get(name)
    if value is None and optional:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list")
    return value


def _whole(value: Any, count: int) -> list[int]:
    """``value`` as a list of that many sizes."""
    sizes = [number for number in value if type(number) is int and 0 <= number < 1 << 64]
    if len(sizes) != count or len(value) != count:
        raise ValueError(f"{value!r:.40} must be {count} sizes")
    return sizes


def _segment(values: list[Any]) -> Segment:
    address, reserved, committed, ranges = _whole(values[:4], 4)
    return Segment(address, reserved, committed, ranges, bool(values[4]))


def _count(entry: Any) -> int:
    value = entry.get("blocks") if isinstance(entry, dict) else None
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= MAX_BLOCKS:
        raise ValueError(f"blocks must not be {value!r:.40}")
    return value


def _heap(entry: Any, walk: HeapWalk | None) -> HeapSnapshot:
    if not isinstance(entry, dict):
        raise ValueError("a heap must be an object")
    stats = HeapStats.from_dict(_typed(entry, "stats", dict, None))
    segments = [
        _segment(each)
        for each in _list(entry, "segments", optional=True)
        if isinstance(each, list) and len(each) == 5
    ]
    pairs = [_whole(each, 2) for each in _list(entry, "histogram", optional=True)]
    busy = sum(size * count for size, count in pairs)
    return HeapSnapshot(
        _size(entry, "handle", 0),
        _typed(entry, "name", str, ""),
        _typed(entry, "decommit", str, ""),
        stats,
        tuple(segments),
        tuple(
            HistogramRow(size, count, size * count, 100.0 * size * count / busy if busy else 0.0)
            for size, count in pairs
        ),
        walk,
    )


def _read_blocks(path: Path, counts: list[int]) -> list[HeapWalk | None]:
    """The walks in a file of blocks, one for each count that is not 0."""
    expected = sum(counts) * _inspect.RANGE_BYTES
    if expected > (path.stat().st_size + 1) * _MAX_RATIO:
        raise ValueError(f"{path.name} is shorter than its {sum(counts)} ranges")
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(f"{path.name} holds no blocks")
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(file.read(), expected + 1)
        except zlib.error as error:
            raise ValueError(f"{path.name} is damaged: {error}") from None
    if len(data) != expected:
        raise ValueError(f"{path.name} does not hold the {sum(counts)} ranges it should")
    walks: list[HeapWalk | None] = []
    at = 0
    view = memoryview(data)
    for count in counts:
        size = count * _inspect.RANGE_BYTES
        walks.append(HeapWalk(view[at : at + size]).checked() if count else None)
        at += size
    return walks
