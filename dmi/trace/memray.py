"""Importer of memray recordings (`memray run`, best with PYTHONMALLOC=malloc).

memray's own reader is used, the extra `memray`; a file can be read by the release that wrote it,
and memray says so where it cannot. What it does not record:

- The time of an event. The run's duration is known, and the events are spread over it evenly, in
  a thousand steps. That is a guess, and the only part of the result that is.
- Alignments: all are taken as malloc's own.
- The size of what is freed, and blocks older than the recording; frees of these are counted.
- The end, where the file is cut off; the events that are missing are counted.

A realloc is a FREE and, directly behind it and by the same thread, a REALLOC. mmap and munmap are
the allocator's business or the program's, and left out, as are pymalloc's calls: with
PYTHONMALLOC=malloc there are none, without it malloc sees pymalloc's arenas.
"""

from __future__ import annotations

import heapq
import os
import tempfile
from array import array
from contextlib import ExitStack
from typing import TYPE_CHECKING

from dmi.errors import TraceError
from dmi.trace.format import (
    OP_ALLOC,
    OP_CALLOC,
    OP_FREE,
    OP_REALLOC,
    OP_TIME,
    Trace,
    check,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from memray import FileReader

    from dmi.trace.files import Source

_MAGIC = b"memray\0"
_LZ4 = b"\x04\x22\x4d\x18"
_STEPS = 1000
_MAX_THREADS = 0x10000


def is_one(head: bytes) -> bool:
    """Does a file that begins so come from memray? Most are LZ4 frames, whose start tells."""
    return head.startswith(_MAGIC) or (head.startswith(_LZ4) and _MAGIC in head[:64])


class _Writer:
    """Numbers objects and threads, and packs records."""

    def __init__(self) -> None:
        self.words = array("Q")
        self.live: dict[int, int] = {}
        self.spare: list[int] = []
        self.objects = 0
        self.threads: dict[int, int] = {}
        self.unknown_frees = 0
        self.lost_frees = 0
        self.events = 0
        """Of all kinds, also those that are left out."""
        self.held: tuple[int, int] | None = None
        """Thread and object of a free that may turn out to be half of a realloc."""

    def put(self, op: int, thread: int, number: int, size: int) -> None:
        self.words.append(op | thread << 16 | number << 32)
        self.words.append(size)

    def release(self) -> None:
        """The held free was one."""
        if self.held is not None:
            thread, number = self.held
            self.held = None
            self.put(OP_FREE, thread, number, 0)
            heapq.heappush(self.spare, number)

    def free(self, thread: int, address: int) -> None:
        self.release()
        number = self.live.pop(address, None)
        if number is None:
            self.unknown_frees += 1
        else:
            self.held = (thread, number)

    def block(self, op: int, thread: int, address: int, size: int) -> None:
        if op == OP_REALLOC and self.held is not None and self.held[0] == thread:
            number = self.held[1]
            self.held = None
        else:
            self.release()
            op = OP_CALLOC if op == OP_CALLOC else OP_ALLOC
            number = -1
        if address in self.live:  # its free was missed
            self.lost_frees += 1
            self.put(OP_FREE, thread, self.live[address], 0)
            heapq.heappush(self.spare, self.live[address])
        if number < 0:
            if self.spare:
                number = heapq.heappop(self.spare)
            else:
                number = self.objects
                self.objects += 1
        self.live[address] = number
        self.put(op, thread, number, size)

    def thread(self, tid: int) -> int:
        number = self.threads.setdefault(tid, len(self.threads))
        if number >= _MAX_THREADS:
            raise TraceError("more than 65,536 threads")
        return number


def read(source: Source, *, name: str = "recording") -> Trace:
    """Turn a memray file into a Trace. TraceError where memray cannot read it.

    ImportError without the extra. Memory: about 16 bytes an event, and 100 a live block.
    """
    try:
        from memray import AllocatorType, FileReader
    except ImportError:
        raise ImportError(
            "reading memray files needs the extra 'memray': pip install 'dmi-heap[memray]'"
        ) from None
    blocks = {int(AllocatorType[kind]): OP_ALLOC for kind in _ALLOCATORS}
    blocks[int(AllocatorType.CALLOC)] = OP_CALLOC
    blocks[int(AllocatorType.REALLOC)] = OP_REALLOC
    free = int(AllocatorType.FREE)
    with ExitStack() as stack:
        if isinstance(source, bytes | bytearray | memoryview):
            file = stack.enter_context(tempfile.NamedTemporaryFile(suffix=".memray"))
            file.write(source)
            file.flush()
            path = file.name
        else:
            path = os.fspath(source)
        try:
            reader = stack.enter_context(FileReader(path))
            meta = reader.metadata
            micros = round((meta.end_time - meta.start_time).total_seconds() * 1e6)
            _scan(reader)
            events: Iterable[tuple[int, int, int, int]] = (
                (record.allocator, record.tid, record.address, record.size)
                for record in reader.get_allocation_records()
            )
            writer = _read(events, blocks, free, meta.total_allocations, max(0, micros))
        except (OSError, RuntimeError, ValueError, NotImplementedError) as error:
            if isinstance(error, TraceError):
                raise
            # memray names no position; the beginning is the one thing that is known of it.
            raise TraceError(f"memray cannot read {name}: {error}", offset=0) from None
    return check(
        writer.words.tobytes(),
        objects=writer.objects,
        threads=max(1, len(writer.threads)),
        name=name,
        notes={
            "unknown free": writer.unknown_frees,
            "lost free": writer.lost_frees,
            "missing event": max(0, meta.total_allocations - writer.events),
        },
        base=0,
    )


def _scan(reader: FileReader) -> None:
    """Read it once to its end, keeping nothing, so that what memray cannot read takes no memory
    here."""
    for _ in reader.get_allocation_records():
        pass


_ALLOCATORS = ("MALLOC", "POSIX_MEMALIGN", "ALIGNED_ALLOC", "MEMALIGN", "VALLOC", "PVALLOC")


def _read(
    events: Iterable[tuple[int, int, int, int]],
    blocks: dict[int, int],
    free: int,
    total: int,
    micros: int,
) -> _Writer:
    """Write all events; `total` is how many the file says there are, over `micros` microseconds."""
    writer = _Writer()
    step = max(1, total // _STEPS)
    for number, (allocator, tid, address, size) in enumerate(events, 1):
        if allocator == free:
            writer.free(writer.thread(tid), address)
        elif allocator in blocks:
            writer.block(blocks[allocator], writer.thread(tid), address, size)
        writer.events = number
        if number % step == 0:
            writer.put(OP_TIME, 0, 0, min(micros, micros * number // max(1, total)))
    writer.release()
    if writer.words:
        writer.put(OP_TIME, 0, 0, micros)
    return writer
