"""Which allocators the programs and libraries of a process contain.

Told by the names of files, and by strings that stand in what the files load: an allocator that is
linked statically, or that hides in a library, still carries its messages. That it is there does not
say that it is in use.
"""

from __future__ import annotations

import os
import re
import stat
import struct
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dmi.address._maps import Mapping

    from ._glibc_find import Space
    from ._heaps import Memory

__all__ = ["Contained", "contained", "names_of_symbols"]


class Contained(NamedTuple):
    """An allocator or runtime, and the file that has it. by_name: the file is named after it."""

    kind: str
    file: str
    by_name: bool


# What the base name of a mapped file tells.
_NAMES: Final = tuple(
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("jemalloc", r"libjemalloc\b"),
        ("mimalloc", r"libmimalloc\b"),
        ("tcmalloc", r"libtcmalloc\b|libtcmalloc_minimal\b"),
        ("snmalloc", r"libsnmalloc"),
        ("rpmalloc", r"librpmalloc"),
        ("scudo", r"libscudo|libclang_rt\.scudo"),
        ("musl", r"ld-musl-"),
        ("JVM", r"^libjvm\.so"),
        (".NET", r"^libcoreclr\.so|^libmonosgen|^mono(?:-sgen)?$"),
        ("Boehm GC", r"^libgc\.so"),
        ("V8", r"^(?:node|nodejs|chrome|chromium|electron|deno)$|^libnode\.so|^libv8\.so"),
        ("Zend", r"^php(?:-fpm|-cgi)?[0-9.]*$|^libphp[0-9.]*\.so"),
        ("Erlang", r"^beam\.smp$"),
        ("Ruby", r"^ruby[0-9.]*$|^libruby"),
        ("SBCL", r"^sbcl$"),
        ("PyPy", r"^pypy3?[0-9.]*(?:-c)?$|^libpypy"),
        ("Julia", r"^libjulia-internal\.so"),
        ("Racket", r"^racket$"),
        ("JavaScriptCore", r"^libjavascriptcoregtk"),
        ("mozjemalloc", r"^libmozglue\.so"),
        ("SpiderMonkey", r"^libmozjs-"),
        ("valgrind", r"^(?:vgpreload_|memcheck-|massif-|dhat-|helgrind-|drd-|callgrind-)"),
    )
)
# What the messages tell that stand in a file.
_STRINGS: Final = (
    ("jemalloc", b"<jemalloc>: "),
    ("mimalloc", b"mimalloc: "),
    ("tcmalloc", b"tcmalloc: large alloc"),
    # Google's own and that of gperftools.
    ("tcmalloc", b"tcmalloc.pageheap_unmapped_bytes"),
    ("scudo", b"Scudo ERROR: "),
    ("snmalloc", b"Failed to initialise snmalloc."),
    # It has no messages: the name of a function, which a library exports and a program may keep.
    ("rpmalloc", b"\0rpmalloc_thread_finalize\0"),
    # Firefox has it in its program, and the engine of scripts, with a heap of its own, in libxul.
    ("mozjemalloc", b": (malloc) Error in munmap(): "),
    ("SpiderMonkey", b"\0js-gc-heap\0"),
    ("Boehm GC", b"GC Warning: "),
    ("V8", b"Cannot create a handle without a HandleScope"),
    ("Go", b"\xff Go buildinf:"),
    # A build may leave out what it was built from.
    ("Go", b"runtime: out of memory: cannot allocate "),
    # Its collector's settings, also where it is compiled into a program or a library.
    (".NET", b"GCHeapAffinitizeRanges"),
    ("Zend", b"zend_mm_heap corrupted"),
    ("GHC", b"GHCRTS"),
    ("LuaJIT", b"LuaJIT 2."),
    ("PartitionAlloc", b"PartitionAlloc.Partitions."),
    ("OCaml", b"\0OCAMLRUNPARAM\0"),
    # Their own allocators, and the shadow of all memory.
    ("AddressSanitizer", b"ERROR: AddressSanitizer: "),
    ("HWAddressSanitizer", b"ERROR: HWAddressSanitizer: "),
    ("ThreadSanitizer", b"ThreadSanitizer: unexpected memory mapping"),
    ("MemorySanitizer", b"FATAL: MemorySanitizer can not mmap"),
    # What strerror of musl says of 0, and nobody else's.
    ("musl", b"\0No error information\0"),
)
_PIECE: Final = 4 << 20
_OVERLAP: Final = 64
_MOST_BYTES: Final = 1 << 30
"""Bytes of files that are looked through in one process."""
_MOST_FILES: Final = 4096
_MOST_LOOKS: Final = 4096
"""Pieces of memory of one file that is gone."""
_MAX_HEADERS: Final = 256
_MAX_SECTIONS: Final = 4096
_PT_LOAD: Final = 1
_SHT_SYMTAB: Final = 2
_CACHE: Final[dict[tuple[int, int, int, int], tuple[str, ...]]] = {}
_MOST_CACHED: Final = 4096


def contained(memory: Memory, space: Space) -> tuple[list[Contained], list[str]]:
    """What the files tell, and what could not be looked through."""
    found: list[Contained] = []
    files: dict[tuple[str, int], list[Mapping]] = {}
    for mapping in space.mappings:
        if mapping.has_file:
            files.setdefault((mapping.name, mapping.inode), []).append(mapping)
    left, unread = _MOST_BYTES, 0
    for (path, _), mappings in list(files.items())[:_MOST_FILES]:
        if not any(mapping.perms[2] == "x" for mapping in mappings):
            continue
        base = path.rpartition("/")[2].removesuffix(" (deleted)")
        named = [kind for kind, pattern in _NAMES if pattern.search(base)]
        found += [Contained(kind, base, True) for kind in named]
        size, kinds = _said(memory, path, mappings, left)
        left -= size
        unread += kinds is None
        found += [Contained(kind, base, False) for kind in kinds or () if kind not in named]
    notes = []
    if unread:
        notes.append(
            f"{unread} of its files could not be looked through for allocators that they contain"
        )
    return found, notes


def _said(
    memory: Memory, path: str, mappings: Sequence[Mapping], most: int
) -> tuple[int, tuple[str, ...] | None]:
    """How many bytes were looked through, and which allocators' messages stand in them; None: the
    file is not there, and the process does not have it in memory either."""
    file = _opened(memory, path, mappings)
    if file < 0:
        return _in_memory(memory, mappings, most)
    try:
        known = os.fstat(file)
        key = (known.st_dev, known.st_ino, known.st_size, known.st_mtime_ns)
        if key in _CACHE:
            return 0, _CACHE[key]
        spans = [*_loaded(file, known.st_size), *names_of_symbols(file, known.st_size)]
        total = sum(size for _, size in spans)
        if total > most:
            return 0, None
        kinds = _kinds(
            part
            for offset, size in spans
            for part in _parts(lambda at, n: os.pread(file, n, at), offset, size)
        )
        if len(_CACHE) >= _MOST_CACHED:
            _CACHE.clear()
        _CACHE[key] = kinds
        return total, kinds
    except OSError:
        return 0, None
    finally:
        os.close(file)


def _opened(memory: Memory, path: str, mappings: Sequence[Mapping]) -> int:
    """The file that is mapped, not another one of its name; -1 where it cannot be had."""
    first = mappings[0]
    names = [path]
    if not memory.stands_still:
        root = f"/proc/{getattr(memory, 'pid', 0)}"
        names = [f"{root}/map_files/{first.start:x}-{first.end:x}", f"{root}/root{path}"]
    for name in names:
        with suppress(OSError, ValueError):
            # A file that was put in its place may be a pipe, which would wait for a writer.
            file = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            found = os.fstat(file)
            same = memory.stands_still or found.st_ino == first.inode
            if stat.S_ISREG(found.st_mode) and same and _same(memory, file, mappings):
                return file
            os.close(file)
    return -1


def _same(memory: Memory, file: int, mappings: Sequence[Mapping]) -> bool:
    """Whether what a core file has of the file is what stands in it, its build id included."""
    if not memory.stands_still:
        return True
    for mapping in mappings:
        if mapping.offset == 0:
            raw = memory.read(mapping.start, 1024)
            return raw is None or raw == os.pread(file, 1024, 0)
    return True


def _loaded(file: int, size: int) -> list[tuple[int, int]]:
    """Offset and size of what an ELF file loads; of another file nothing."""
    head = os.pread(file, 64, 0)
    if len(head) < 64 or head[:4] != b"\x7fELF" or head[4] not in (1, 2) or head[5] != 1:
        return []
    wide = head[4] == 2
    (table,) = struct.unpack_from("<Q" if wide else "<I", head, 32 if wide else 28)
    entry, count = struct.unpack_from("<HH", head, 54 if wide else 42)
    if entry < (56 if wide else 32) or count > _MAX_HEADERS or table >= size:
        return []
    headers = os.pread(file, entry * count, table)
    spans: list[tuple[int, int]] = []
    for at in range(0, len(headers) - entry + 1, entry):
        (kind,) = struct.unpack_from("<I", headers, at)
        if wide:
            (offset,) = struct.unpack_from("<Q", headers, at + 8)
            (length,) = struct.unpack_from("<Q", headers, at + 32)
        else:
            offset, length = struct.unpack_from("<I8xI", headers, at + 4)
        if kind == _PT_LOAD and offset < size:
            spans.append((offset, min(length, size - offset)))
    return spans


def names_of_symbols(file: int, size: int) -> list[tuple[int, int]]:
    """Offset and size of the names of an ELF file's symbols, where they were kept: nobody loads
    them."""
    head = os.pread(file, 64, 0)
    if len(head) < 64 or head[:6] != b"\x7fELF\x02\x01":
        return []
    (table,) = struct.unpack_from("<Q", head, 40)
    entry, count = struct.unpack_from("<HH", head, 58)
    if entry != 64 or count > _MAX_SECTIONS or not table < size:
        return []
    sections = os.pread(file, entry * count, table)
    found: list[tuple[int, int]] = []
    for at in range(0, len(sections) - entry + 1, entry):
        kind, link = struct.unpack_from("<4xI32xI", sections, at)
        if kind == _SHT_SYMTAB and (link + 1) * entry <= len(sections):
            offset, length = struct.unpack_from("<2Q", sections, link * entry + 24)
            if offset < size:
                found.append((offset, min(length, size - offset)))
    return found[:1]


def _parts(read: Callable[[int, int], bytes], start: int, size: int) -> Iterator[bytes]:
    """The stretch in pieces that overlap, so that no message is cut; it ends where reading does."""
    at, end = start, start + size
    while at < end:
        data = read(at, min(_PIECE, end - at))
        if not data:
            return
        yield data
        if len(data) <= _OVERLAP:
            return
        at += len(data) - (_OVERLAP if at + len(data) < end else 0)


def _kinds(parts: Iterator[bytes]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for data in parts:
        for kind, text in _STRINGS:
            if kind not in found and text in data:
                found[kind] = None
    return tuple(found)


def _in_memory(
    memory: Memory, mappings: Sequence[Mapping], most: int
) -> tuple[int, tuple[str, ...] | None]:
    """The same of what the process has in memory of a file that is gone."""
    total = looks = 0
    found: dict[str, None] = {}
    seen = False
    whole = memoryview(bytearray(_PIECE))
    for mapping in mappings:
        at = memory.next_there(mapping.start)
        # A core file may claim any size; of memory that nobody has there is nothing to look at.
        while at < mapping.end and looks < _MOST_LOOKS:
            looks += 1
            room = whole[: mapping.end - at]
            if total + len(room) > most:
                break
            got = memory.read_into(at, room)
            total += got
            seen = seen or got > 0
            found |= dict.fromkeys(_kinds(iter([bytes(room[:got])])))
            at += len(room)
            at = max(at, memory.next_there(at))
    return total, tuple(found) if seen else None
