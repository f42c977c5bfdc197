"""Snapshots: the heaps of a process and what stands around them at one moment, as small JSON.

A snapshot file is what dmi.diagnose, `dmi doctor` and `dmi heap` read. The blocks, where asked for,
lie beside it in a compressed file of the same name with ``.blocks`` behind it. The preload library
writes the same files for programs of any kind (`dmi run --snapshot`, csrc/preload/snapshot.c); it
leaves the address space as ``smaps``, lines of the kernel's, and load() makes the summary of them.
"""

from __future__ import annotations

import json
import mmap
import os
import time
import zlib
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from dmi import _files, _inspect, _names, heap, windbg
from dmi._layers import glibc_malloc, physical_memory
from dmi._moment import cgroup, memory_by_usage, scope
from dmi._tables import frame, html_table
from dmi.address import NotSupportedError, address_summary, pymalloc_usage, summarise
from dmi.address._maps import ProcSource, parse_maps
from dmi.address._own_tables import own_tables
from dmi.errors import HeapError
from dmi.profile._read import checked, read_values
from dmi.stats import HeapStats
from dmi.walk import HistogramRow, Ranges, Segment

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import pandas

    from dmi.address import AddressSummary

__all__ = ["HeapSnapshot", "Snapshot", "committed_sizes", "snapshot"]

FORMAT: Final = "dmi-snapshot"
VERSION: Final = 2
_READABLE: Final = (1, 2)
SUFFIX: Final = ".blocks"
MAX_BLOCKS: Final = 1 << 29
"""Ranges in the largest file of blocks that is read."""
_MAGIC: Final = b"DMIBLK01"
# No zlib stream holds more; what claims to is damaged.
_MAX_RATIO: Final = 1100
_PIECE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class HeapSnapshot:
    """One heap at the moment of a snapshot. blocks is None unless they were asked for; segments and
    histogram are None where whoever wrote the snapshot had no memory to list them."""

    handle: int
    name: str
    decommit: str
    stats: HeapStats
    segments: tuple[Segment, ...] | None = None
    histogram: tuple[HistogramRow, ...] | None = None
    blocks: Ranges | None = None
    threads: Mapping[str, int] | None = None
    """Bytes in flight by thread; None where this was not looked at."""

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
            "segments": None
            if self.segments is None
            else [list(segment) for segment in self.segments],
            "histogram": None
            if self.histogram is None
            else [[row.size, row.count] for row in self.histogram],
            "blocks": None if self.blocks is None else len(self.blocks),
            "threads": None if self.threads is None else dict(self.threads),
        }


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A process at one moment.

    label    a title
    time     seconds since 1970
    heaps    dmi's heaps, oldest first
    outside  allocators that are not dmi: {"name", "busy", "committed"}, bytes
    address  `!address -summary` as a dict, None where it could not be had
    process  {"committed", "resident", "heaps", "metadata"}, bytes; heaps is what of committed lies
             in the ranges of dmi's heaps as the kernel counts it, given-back pages of how=discard
             included; metadata is what dmi keeps that belongs to no heap
    program  the name of the program, as the system has it
    memory   by usage: resident and swapped bytes without those freed lazily and without clean pages
             of files; None where the system does not tell
    commit   by usage: committed bytes
    scope    {"started", "boot"}: when the process started, in ticks since the boot, and which boot
    cgroup   {"path", "current", "limit"}, bytes; None where there is none
    profile  which code holds what, for dmi.blame(), as docs/profile-format.md has it; None where
             no sampler ran

    The heaps are looked at one after the other while other threads go on.
    """

    label: str
    time: float
    pid: int
    page_size: int
    heaps: tuple[HeapSnapshot, ...]
    outside: tuple[Mapping[str, Any], ...] = ()
    address: Mapping[str, Any] | None = None
    process: Mapping[str, int | None] | None = None
    program: str = ""
    memory: Mapping[str, int] | None = None
    commit: Mapping[str, int] | None = None
    scope: Mapping[str, Any] | None = None
    cgroup: Mapping[str, Any] | None = None
    profile: Mapping[str, Any] | None = field(default=None, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, without the blocks."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "label": self.label,
            "time": self.time,
            "pid": self.pid,
            "program": self.program,
            "page_size": self.page_size,
            "heaps": [each.as_dict() for each in self.heaps],
            "outside": [dict(each) for each in self.outside],
            "address": None if self.address is None else dict(self.address),
            "process": None if self.process is None else dict(self.process),
            "memory": None if self.memory is None else dict(self.memory),
            "commit": None if self.commit is None else dict(self.commit),
            "scope": None if self.scope is None else dict(self.scope),
            "cgroup": None if self.cgroup is None else dict(self.cgroup),
            "profile": None if self.profile is None else dict(self.profile),
        }

    def __repr__(self) -> str:
        label = f" {self.label!r}" if self.label else ""
        busy = sum(each.stats.busy for each in self.heaps)
        committed = sum(each.stats.committed for each in self.heaps)
        return (
            f"<dmi.Snapshot{label} of process {self.pid}: {len(self.heaps)} heaps, "
            f"{committed:,} bytes committed, {busy:,} busy>"
        )

    def _repr_html_(self) -> str:
        title = f"{self.program or 'process'} {self.pid} {self.label}".rstrip()
        names = ("committed", "busy", "retained", "page_bound", "decommit")
        return html_table(title, ("heap", *names), [
            (f"{each.handle:x} {each.name}".rstrip(),
             *(getattr(each.stats, name) for name in names[:-1]), each.decommit)
            for each in self.heaps
        ])  # fmt: skip

    def frame(self) -> pandas.DataFrame:
        """A row a heap: handle, name, policy and every counter. ImportError without pandas."""
        return frame([
            {"handle": each.handle, "name": each.name, "decommit": each.decommit,
             **{k: v for k, v in each.stats.as_dict().items() if k not in ("reasons", "ages")}}
            for each in self.heaps
        ])  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the snapshot, and its blocks beside it: new files, mode 0600, which appear whole.

        OSError as usual, and where a name belongs to something else than a regular file.
        """
        target = Path(path)
        with ExitStack() as both:
            # The blocks get their name first: a snapshot that is there has them.
            whole = both.enter_context(_files.replacing(target))
            if any(each.blocks is not None for each in self.heaps):
                packer = zlib.compressobj(level=1)
                side = both.enter_context(_files.replacing(target.with_name(target.name + SUFFIX)))
                side.write(_MAGIC)
                for each in self.heaps:
                    if each.blocks is not None:
                        side.write(packer.compress(each.blocks.records))
                side.write(packer.flush())
            text = json.dumps(_names.hidden(self.as_dict()), separators=(",", ":")) + "\n"
            whole.write(text.encode("utf-8", "surrogateescape"))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Snapshot:
        """Read what save() wrote. Blocks that are missing beside it are left out.

        ValueError, naming the file, for anything else, and for a file whose values would take
        more than _files.JSON_BUDGET of memory, or, with a profile, more than one may take.
        """
        source = Path(path)
        values = read_values(source, "a snapshot of dmi", lambda rest: cls._beside(source, rest))
        try:
            return cls._beside(source, values)
        except ValueError as error:
            raise ValueError(f"{source}: not a snapshot of dmi: {error}") from None

    @classmethod
    def _beside(cls, source: Path, values: Any) -> Snapshot:
        """With the blocks that lie beside the file. ValueError for everything that is wrong."""
        if not isinstance(values, dict):
            raise ValueError("no JSON object")
        beside = source.with_name(source.name + SUFFIX)
        try:
            counts = [_count(entry) for entry in _list(values, "heaps")]
            walks: list[Ranges | None] = [None] * len(counts)
            if any(counts) and beside.is_file():
                walks = _read_blocks(beside, counts)
            return cls._from_dict(values, walks)
        except (TypeError, OverflowError, RecursionError) as error:
            raise ValueError(str(error)) from None

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Snapshot:
        """The inverse of as_dict(); blocks are not part of it. ValueError for anything else."""
        return cls._from_dict(values, [None] * len(_list(values, "heaps")))

    @classmethod
    def _from_dict(cls, values: Mapping[str, Any], walks: list[Ranges | None]) -> Snapshot:
        version = values.get("version", VERSION)
        if values.get("format", FORMAT) != FORMAT or version not in _READABLE:
            raise ValueError(f"of format {values.get('format')!r}, version {version!r}")
        outside = _list(values, "outside", optional=True)
        for each in outside:
            if not isinstance(each, dict):
                raise ValueError("outside must hold objects")
            for name in ("busy", "committed"):
                if each.get(name, 0) is not None or version == 1:
                    _size(each, name, None)
        page = _size(values, "page_size", 4096)
        heaps = tuple(
            _heap(entry, walk) for entry, walk in zip(_list(values, "heaps"), walks, strict=True)
        )
        address = _typed(values, "address", (dict, type(None)), None)
        process = _typed(values, "process", (dict, type(None)), None)
        memory = _sizes(values, "memory")
        commit = _sizes(values, "commit")
        if address is None and (smaps := _typed(values, "smaps", str, "")):
            summary = summarise(
                _Mappings(smaps, page),
                [
                    (segment.address, segment.reserved, segment.committed)
                    for each in heaps
                    for segment in each.segments or ()
                ],
            )
            address = summary.as_dict()
            process = {**committed_sizes(summary), **(process or {})}
            tables = [_whole(each, 2) for each in _list(values, "tables", optional=True)]
            memory, commit = memory_by_usage(
                summary.regions, tables=[(start, start + size) for start, size in tables]
            )
        _names.note(*_names_in(values, heaps))
        return cls(
            _typed(values, "label", str, ""),
            float(_typed(values, "time", (int, float), 0.0)),
            _size(values, "pid", 0),
            page,
            heaps,
            tuple(outside),
            address,
            process,
            _typed(values, "program", str, ""),
            memory,
            commit,
            _typed(values, "scope", (dict, type(None)), None),
            _typed(values, "cgroup", (dict, type(None)), None),
            _profile(values),
        )


def _names_in(values: Mapping[str, Any], heaps: Iterable[HeapSnapshot]) -> list[str]:
    """What of a snapshot is a name that somebody chose."""
    group = values.get("cgroup")
    found = [values.get("program"), group.get("path") if isinstance(group, dict) else None]
    # Of other heaps of dmi; what else stands there is our own word.
    found += [
        each["name"].removeprefix("dmi ")
        for each in _list(values, "outside", optional=True)
        if each.get("kind") == "dmi" and isinstance(each.get("name"), str)
    ]
    return [each for each in (*found, *(heap.name for heap in heaps)) if isinstance(each, str)]


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
                "kind": "glibc",
                "busy": used,
                "committed": held,
                "free": malloc["fordblks"],
                "list_length": malloc["ordblks"],
                "mapped": malloc["hblkhd"],
            }
        )
    address: dict[str, Any] | None = None
    process: dict[str, int | None] = {}
    memory: dict[str, int] | None = None
    commit: dict[str, int] | None = None
    with suppress(NotSupportedError, OSError):
        summary = address_summary()
        address = summary.as_dict()
        physical = physical_memory()
        process = {
            **committed_sizes(summary),
            "resident": physical.get("Rss"),
            "swapped": physical.get("Swap"),
            "lazily_freed": physical.get("LazyFree"),
            "metadata": heap.metadata_committed(),
        }
        memory, commit = memory_by_usage(summary.regions, "self", _own_tables())
        arenas = [(r.start, r.size) for r in summary.regions if r.usage == "HeapPymalloc"]
        if arenas:
            outside.append(_pymalloc(arenas))
    page = mmap.PAGESIZE
    program = ""
    with suppress(OSError):
        program = Path("/proc/self/comm").read_bytes().decode("utf-8", "replace").rstrip("\n")
    return Snapshot(
        label, time.time(), os.getpid(), page, taken, tuple(outside), address, process or None,
        program, memory, commit, scope(), cgroup(), heap.current_profile(),
    )  # fmt: skip


def _own_tables() -> list[tuple[int, int]]:
    """What dmi has mapped for itself in this process, where that can be read."""
    with suppress(OSError), ProcSource(None) as source:
        tables = own_tables(source, parse_maps(source.maps(details=False)))
        return [(table.start, table.start + table.size) for table in tables]
    return []


def _pymalloc(arenas: list[tuple[int, int]]) -> dict[str, Any]:
    """Python's allocator of small objects: what its arenas hold, and what of them is in use."""
    held = sum(size for _, size in arenas)
    used = pymalloc_usage(None, arenas)
    return {
        "name": "pymalloc",
        "kind": "pymalloc",
        "busy": used,
        "committed": held,
        "free": None if used is None else held - used,
        "list_length": None,
        "mapped": 0,
    }


def committed_sizes(summary: AddressSummary) -> dict[str, int | None]:
    """What of Snapshot.process the address space tells."""
    heaps = sum(each.committed for each in summary.regions if each.usage == "HeapDmi")
    return {"committed": summary.committed, "heaps": heaps}


def _taken(heaps: Iterable[heap.Heap], blocks: bool) -> Iterable[HeapSnapshot]:
    for each in heaps:
        with suppress(HeapError):  # destroyed meanwhile
            walk = each.ranges()
            yield HeapSnapshot(
                each.handle,
                each.name,
                str(each.decommit),
                each.stats(detail=True),
                tuple(each.segments()),
                tuple(walk.histogram()),
                walk if blocks else None,
                _in_flight(each),
            )


def _in_flight(each: heap.Heap) -> dict[str, int]:
    """Bytes that threads keep in flight, by name and number."""
    found: dict[str, int] = {}
    for usage in each.threads():
        if not usage.in_flight:
            continue
        name = "threads that ended"
        if usage.thread:
            name = f"{usage.name or 'thread'} ({usage.thread})"
        found[name] = found.get(name, 0) + usage.in_flight
    return found


# ---- reading what may be damaged ----------------------------------------------------------------


def _typed(values: Mapping[str, Any], name: str, kinds: Any, default: Any) -> Any:
    value = values.get(name, default)
    if not isinstance(value, kinds) or isinstance(value, bool):
        raise ValueError(f"{name} must not be {value!r:.40}")
    return value


def _size(values: Mapping[str, Any], name: str, default: int | None) -> int:
    value: int = _typed(values, name, int, default)
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{name} must not be {value!r:.40}")
    return value


def _sizes(values: Mapping[str, Any], name: str) -> dict[str, int] | None:
    """Names and sizes, or nothing."""
    given = _typed(values, name, (dict, type(None)), None)
    return None if given is None else {key: _size(given, key, None) for key in given}


def _profile(values: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The profile that a snapshot carries, once it is known to be one."""
    given: Mapping[str, Any] | None = _typed(values, "profile", (dict, type(None)), None)
    if given is not None:
        checked(given)
    return given


def _list(values: Mapping[str, Any], name: str, *, optional: bool = False) -> list[Any]:
    value = values.get(name)
    if value is None and optional:
        return []
    if not isinstance(value, list):
        raise ValueError(f"{name} must be a list")
    return value


def _whole(value: Any, count: int) -> list[int]:
    """``value`` as a list of that many sizes."""
    whole = value if isinstance(value, list) else []
    sizes = [number for number in whole if type(number) is int and 0 <= number < 1 << 64]
    if len(sizes) != count or len(whole) != count:
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


def _segments(entry: Mapping[str, Any]) -> tuple[Segment, ...] | None:
    if entry.get("segments") is None:
        return None
    listed = _list(entry, "segments")
    return tuple(_segment(each) for each in listed if isinstance(each, list) and len(each) == 5)


def _histogram(entry: Mapping[str, Any]) -> tuple[HistogramRow, ...] | None:
    if entry.get("histogram") is None:
        return None
    pairs = [_whole(each, 2) for each in _list(entry, "histogram")]
    busy = sum(size * count for size, count in pairs)
    return tuple(
        HistogramRow(size, count, size * count, 100.0 * size * count / busy if busy else 0.0)
        for size, count in pairs
    )


def _heap(entry: Any, walk: Ranges | None) -> HeapSnapshot:
    if not isinstance(entry, dict):
        raise ValueError("a heap must be an object")
    stats = HeapStats.from_dict(_typed(entry, "stats", dict, None))
    return HeapSnapshot(
        _size(entry, "handle", 0),
        _typed(entry, "name", str, ""),
        _typed(entry, "decommit", str, ""),
        stats,
        _segments(entry),
        _histogram(entry),
        walk,
        _sizes(entry, "threads"),
    )


class _Mappings:
    """The mappings of a process that is gone, as the preload library wrote them down: a source for
    the address summary that has the kernel's text and nothing else."""

    def __init__(self, text: str, page: int) -> None:
        self._text = text
        self.page = page

    def maps(self) -> str:
        return self._text

    def read(self, address: int, size: int) -> None:
        return None

    def present(self, address: int, pages: int) -> None:
        return None

    def stack_pointers(self) -> list[int]:
        return []

    def elf_span(self, path: str) -> None:
        # A file of that name on this machine may be another one.
        return None


def _read_blocks(path: Path, counts: list[int]) -> list[Ranges | None]:
    """The walks in a file of blocks, one for each count that is not 0."""
    expected = sum(counts) * _inspect.RANGE_BYTES
    if expected > (path.stat().st_size + 1) * _MAX_RATIO:
        raise ValueError(f"{path.name} is shorter than its {sum(counts)} ranges")
    # First only looked at, in bounded memory; then kept, for it is known to be whole.
    _walked(path, counts, keep=False)
    return _walked(path, counts, keep=True)


def _walked(path: Path, counts: list[int], *, keep: bool) -> list[Ranges | None]:
    with _files.open_regular(path) as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError(f"{path.name} holds no blocks")
        stream = _Unpacked(file)
        try:
            walks = [stream.walk(count, keep) if count else None for count in counts]
            ended = not stream.take(1) and stream.complete
        except zlib.error as error:
            raise ValueError(f"{path.name} is damaged: {error}") from None
    if not ended:
        raise ValueError(f"{path.name} does not hold the {sum(counts)} ranges it should")
    return walks


class _Unpacked:
    """The records of a file of blocks, unpacked piece by piece: a stream that promises gigabytes is
    found out by its first megabyte, because ranges do not overlap."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._unpacker = zlib.decompressobj()

    @property
    def complete(self) -> bool:
        """The stream ended where its format says, with the right checksum, and the file with it."""
        return self._unpacker.eof and not self._unpacker.unused_data and not self._file.read(1)

    def take(self, most: int) -> bytes:
        """Up to that many bytes, fewer at the end only."""
        pieces: list[bytes] = []
        while most and not self._unpacker.eof:
            packed = self._unpacker.unconsumed_tail or self._file.read(_PIECE)
            piece = self._unpacker.decompress(packed, most)
            if not packed and not piece:
                break
            pieces.append(piece)
            most -= len(piece)
        return b"".join(pieces)

    def walk(self, count: int, keep: bool) -> Ranges:
        """Without ``keep`` the ranges are only checked, and the last of them is returned."""
        records = bytearray()
        left = count * _inspect.RANGE_BYTES
        while left:
            piece = self.take(min(left, _PIECE // _inspect.RANGE_BYTES * _inspect.RANGE_BYTES))
            if len(piece) % _inspect.RANGE_BYTES or not piece:
                raise ValueError(f"a heap's {count} ranges end too early")
            # With the last one before, so that the seam is looked at too.
            Ranges(bytes(records[-_inspect.RANGE_BYTES :]) + piece).checked()
            if keep:
                records += piece
            else:
                records[:] = piece[-_inspect.RANGE_BYTES :]
            left -= len(piece)
        return Ranges(memoryview(records).toreadonly())
