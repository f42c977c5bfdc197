"""The project's own recordings: a 64-byte header and an array of 16-byte records.

The layout is written down in docs/recordings.md; the names of the operations are the `OP_*` below.
A `Trace` holds one recording in memory or in a mapped file and has been checked record by record:
whoever has one need not doubt it.
"""

from __future__ import annotations

import itertools
import struct
import sys
from dataclasses import dataclass, field, fields
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from dmi._cffi import ffi, lib
from dmi._tables import frame
from dmi.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pandas

MAGIC = b"DMITRACE"
VERSION = 1
HEADER = struct.Struct("<8sHHIQIII28s")
RECORD = struct.Struct("<BBHIQ")

OP_ALLOC = 1
OP_CALLOC = 2
OP_REALLOC = 3
OP_FREE = 4
OP_TIME = 5
OP_RSS = 6
OP_NAMES = {
    OP_ALLOC: "alloc",
    OP_CALLOC: "calloc",
    OP_REALLOC: "realloc",
    OP_FREE: "free",
    OP_TIME: "time",
    OP_RSS: "rss",
}

Buffer = bytes | bytearray | memoryview


class Record(NamedTuple):
    """One record. `size` is in bytes; for OP_TIME in microseconds since the start."""

    op: int
    align_log2: int
    thread: int
    object: int
    size: int


@dataclass(frozen=True)
class Trace:
    """A checked recording. Immutable, so any number of threads may replay it at once."""

    name: str
    """Where it came from, for people."""
    records: memoryview = field(repr=False)
    """The records as bytes, 16 a record."""
    objects: int
    """Object numbers run below this: the size of the replayer's table."""
    threads: int
    page_size: int
    """Of the machine that recorded, in bytes; 0 when unknown."""
    allocations: int
    reallocs: int
    frees: int
    duration: float
    """Seconds; 0 when the recording has no clock."""
    live_bytes: int
    """Bytes asked for by blocks that are live at the end."""
    peak_bytes: int
    """The highest sum of bytes asked for."""
    notes: dict[str, int] = field(default_factory=dict)
    """What an importer had to skip or to repair, by reason; zero counts are left out."""

    @property
    def count(self) -> int:
        """Records, clock and resident size included."""
        return len(self.records) // RECORD.size

    @property
    def events(self) -> int:
        """Heap operations: alloc, calloc, realloc, free."""
        return self.allocations + self.reallocs + self.frees

    @property
    def skipped(self) -> int:
        """Events of the source that could not be paired."""
        return sum(self.notes.values())

    def __iter__(self) -> Iterator[Record]:
        return map(Record._make, RECORD.iter_unpack(self.records))

    def as_dict(self) -> dict[str, Any]:
        """All but the records, for JSON; those are what iterating gives."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        del found["records"]
        return {**found, "count": self.count, "notes": dict(self.notes)}

    def frame(self) -> pandas.DataFrame:
        """A row a record. ImportError without pandas."""
        rows = list(RECORD.iter_unpack(self.records))
        return frame({name: [row[n] for row in rows] for n, name in enumerate(Record._fields)})

    def __reduce__(self) -> tuple[Any, ...]:
        # A view of memory can be neither pickled nor copied.
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return (_again, ({**values, "records": bytes(self.records)},))

    def header(self) -> bytes:
        """The 64 bytes that stand before the records in a file."""
        return HEADER.pack(
            MAGIC,
            VERSION,
            HEADER.size,
            0,
            self.count,
            self.objects,
            self.threads,
            self.page_size,
            bytes(28),
        )

    def write(self, file: IO[bytes]) -> None:
        """Write header and records, uncompressed."""
        file.write(self.header())
        file.write(self.records)


def _again(values: dict[str, Any]) -> Trace:
    return Trace(**{**values, "records": memoryview(values["records"])})


def check(
    records: Buffer,
    *,
    objects: int,
    threads: int = 1,
    page_size: int = 0,
    name: str = "recording",
    notes: dict[str, int] | None = None,
    base: int = HEADER.size,
) -> Trace:
    """Make a Trace of raw records, after looking at each of them.

    `base` is the offset of the first record in its file, for messages. Raises TraceError.
    """
    if sys.byteorder != "little":
        raise TraceError("recordings are little-endian, and this machine is not")
    view = memoryview(records).cast("B").toreadonly()
    if len(view) % RECORD.size:
        whole = len(view) - len(view) % RECORD.size
        raise TraceError("the last record is cut off", offset=base + whole)
    summary = ffi.new("dmi_trace_summary *")
    summary.size = ffi.sizeof("dmi_trace_summary")
    count = len(view) // RECORD.size
    status = lib.dmi_trace_check(ffi.from_buffer(view), count, objects, threads, summary)
    if status != 0:
        if summary.fault == ffi.NULL:
            raise MemoryError(f"no memory to check a recording of {objects:,} objects")
        fault = ffi.string(summary.fault).decode()
        raise TraceError(
            f"record {summary.fault_record:,}: {fault}",
            offset=base + RECORD.size * summary.fault_record,
        )
    return Trace(
        name=name,
        records=view,
        objects=objects,
        threads=threads,
        page_size=page_size,
        allocations=summary.allocations,
        reallocs=summary.reallocs,
        frees=summary.frees,
        duration=summary.duration_us * 1e-6,
        live_bytes=summary.live_bytes,
        peak_bytes=summary.peak_bytes,
        notes={key: value for key, value in (notes or {}).items() if value},
    )


class _Header(NamedTuple):
    records: int
    objects: int
    threads: int
    page_size: int


def _header(head: bytes, present: int | None, name: str) -> _Header:
    """The header, checked, against the bytes of the whole file too where these are known."""
    if head[:8] != MAGIC:
        raise TraceError(f"{name} is not a dmi recording: the magic is missing", offset=0)
    if len(head) < HEADER.size:
        raise TraceError("the header is cut off", offset=len(head))
    _, version, size, flags, count, objects, threads, page_size, rest = HEADER.unpack_from(head)
    if version != VERSION:
        raise TraceError(f"unknown version {version}, this is version {VERSION}", offset=8)
    if size != HEADER.size:
        raise TraceError(f"a header of {size} bytes, not {HEADER.size}", offset=10)
    if flags:
        raise TraceError(f"unknown flags {flags:#x}", offset=12)
    if threads > 0x10000 or (count and not threads):
        raise TraceError(f"{threads:,} threads, not 1 to 65,536", offset=28)
    if page_size and (page_size & (page_size - 1) or not 256 <= page_size <= 1 << 24):
        raise TraceError(f"a page size of {page_size:,} bytes", offset=32)
    for at, byte in enumerate(rest):
        if byte:
            raise TraceError("a reserved byte of the header is not 0", offset=36 + at)
    if present is not None:
        _check_length(count, present - HEADER.size)
    if objects > count:
        raise TraceError(f"{objects:,} objects in {count:,} records", offset=24)
    return _Header(count, objects, threads, page_size)


def _check_length(count: int, present: int) -> None:
    if present < count * RECORD.size:
        raise TraceError(
            f"{count:,} records announced, the file ends in number {present // RECORD.size:,}",
            offset=HEADER.size + present,
        )
    if present > count * RECORD.size:
        raise TraceError("bytes behind the last record", offset=HEADER.size + count * RECORD.size)


def parse(data: Any, *, name: str = "recording") -> Trace:
    """Read a recording in dmi's own format from anything with the buffer protocol.

    The records are not copied; the Trace keeps the buffer alive. Raises TraceError with the offset
    of the first fault: a cut or wrong header, an unknown version or flag, a length that is not the
    one announced, a record that makes no sense.
    """
    view = memoryview(data).cast("B")
    header = _header(bytes(view[: HEADER.size]), len(view), name)
    return check(
        view[HEADER.size :],
        objects=header.objects,
        threads=header.threads,
        page_size=header.page_size,
        name=name,
    )


def scan(parts: Iterable[bytes], *, name: str, present: int | None, limit: int) -> None:
    """Refuse what parse() would refuse, with the same TraceError, and keep nothing but a bit an
    object.

    `present` is the size of it all where it is known; `limit` what it may be at most.
    """
    stream = iter(parts)
    carry = b""
    for part in stream:
        carry += part
        if len(carry) >= HEADER.size:
            break
    header = _header(carry[: HEADER.size], present, name)
    if header.records * RECORD.size > limit:
        raise TraceError(
            f"{header.records:,} records announced, more than the limit of {limit:,} bytes holds",
            offset=16,
        )
    scanner = ffi.gc(
        lib.dmi_trace_scan_open(header.objects, header.threads), lib.dmi_trace_scan_close
    )
    if scanner == ffi.NULL:
        raise MemoryError(f"no memory to check a recording of {header.objects:,} objects")
    carry = carry[HEADER.size :]
    seen = 0
    for part in itertools.chain((b"",), stream):
        carry = carry + part if carry else part
        whole = min(len(carry) // RECORD.size, header.records - seen)
        if lib.dmi_trace_scan_feed(scanner, ffi.from_buffer(carry), whole) != 0:
            number = ffi.new("uint64_t *")
            fault = ffi.string(lib.dmi_trace_scan_fault(scanner, number)).decode()
            raise TraceError(
                f"record {number[0]:,}: {fault}",
                offset=HEADER.size + RECORD.size * number[0],
            )
        seen += whole
        carry = carry[whole * RECORD.size :]
        if seen == header.records and carry:
            break
    _check_length(header.records, seen * RECORD.size + len(carry))


def pack(records: Iterable[Record | tuple[int, int, int, int, int]]) -> bytes:
    """Records as the bytes that `check` and `parse` read. Nothing is checked here."""
    return b"".join(RECORD.pack(*record) for record in records)
