# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: subinterpreters_compatible=shared_gil, autotestdict=False
"""What is where: the counters, the walks, the segments of a heap; all heaps; whose an address is.

Plain numbers only, named in _records; what they mean and how they are shown is decided in the
modules above.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc
from libc.errno cimport EFAULT, EIO, errno
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport free as c_free, realloc as c_realloc
from libc.string cimport memcpy, memset, strerror

from dmi cimport cdmi
from dmi._core cimport HeapCore, PyThreadState
from dmi._faults cimport heap_name

import mmap as _mmap
import operator
import sys

from dmi import _records
from dmi._faults import FAULTS as _FAULTS
from dmi.errors import HeapError

cdef extern from *:
    """
    #include <dmi/dmi.h>

    /* The counters, from the same table as the struct. */
    typedef struct { const char *name; const char *unit; const char *doc; } dmi_field;
    #define DMI_PY_STAT(name, unit, doc) {#name, #unit, doc},
    #define DMI_PY_REASON(name, doc) {#name, "B", doc},
    static const dmi_field dmi_py_stats[] = {DMI_STATS(DMI_PY_STAT)};
    static const dmi_field dmi_py_reasons[] = {DMI_REASONS(DMI_PY_REASON)};
    #define DMI_PY_AGE(name, bound, doc) {#name, "B", doc},
    static const dmi_field dmi_py_ages[] = {DMI_AGES(DMI_PY_AGE)};
    #define DMI_PY_AGES (sizeof dmi_py_ages / sizeof *dmi_py_ages)
    #define DMI_PY_STATS (sizeof dmi_py_stats / sizeof *dmi_py_stats)
    #define DMI_PY_REASONS (sizeof dmi_py_reasons / sizeof *dmi_py_reasons)
    """
    ctypedef struct dmi_field:
        const char *name
        const char *unit
        const char *doc
    dmi_field dmi_py_stats[]
    dmi_field dmi_py_reasons[]
    dmi_field dmi_py_ages[]
    size_t DMI_PY_STATS
    size_t DMI_PY_REASONS
    size_t DMI_PY_AGES

cdef extern from "Python.h":
    object PyLong_FromVoidPtr(void *p)


RANGE_BYTES = sizeof(cdmi.dmi_range)
# Not in mmap; Linux 5.14 and later.
MADV_POPULATE_WRITE = 23 if sys.platform == "linux" else None


cdef tuple table(const dmi_field *fields, size_t count):
    return tuple([(fields[i].name.decode(), fields[i].unit.decode(), fields[i].doc.decode())
                  for i in range(count)])


# ((name, unit, documentation), ...) of the counters, the reasons, the ages.
STATS_TABLE = table(dmi_py_stats, DMI_PY_STATS)
REASONS_TABLE = table(dmi_py_reasons, DMI_PY_REASONS)
AGES_TABLE = table(dmi_py_ages, DMI_PY_AGES)


# ---- the process -----------------------------------------------------------------------------

cdef object range_fields(const cdmi.dmi_range *r):
    return _records.RangeFields(r.address, r.size, r.kind, r.state, r.bucket, r.flags, r.segment)


cdef object segment_fields(const cdmi.dmi_segment_info *s):
    return _records.SegmentFields(s.address, s.reserved, s.committed, s.uncommitted_ranges,
                                  bool(s.is_virtual))


def version():
    """The version of the C library that is loaded."""
    return cdmi.dmi_version().decode()


def metadata_committed():
    """Committed bytes of metadata that belongs to the process and to no heap."""
    return cdmi.dmi_metadata_committed()


def default_handle():
    """The handle of the process default heap, which this call makes if need be."""
    cdef void *handle = cdmi.dmi_heap_default()
    if handle == NULL:
        raise MemoryError("no memory for the default heap")
    return PyLong_FromVoidPtr(handle)


def handles():
    """The handles of all live heaps of the process, oldest first, however they were made."""
    cdef size_t capacity = 64, count, i
    cdef void **found
    while True:
        found = <void **>PyMem_RawMalloc(capacity * sizeof(void *))
        if found == NULL:
            raise MemoryError("no memory for the list of heaps")
        try:
            count = cdmi.dmi_heap_list(found, capacity)
            if count <= capacity:
                return [PyLong_FromVoidPtr(found[i]) for i in range(count)]
        finally:
            PyMem_RawFree(found)
        capacity = count + 16


def find(address):
    """(heap handle, range) of the block that holds the address, or None for a foreign one."""
    cdef cdmi.dmi_found found
    value = operator.index(address)
    if value < 0 or value >= 1 << 64:
        raise ValueError(f"address must be between 0 and 2**64 - 1, not {value}")
    memset(&found, 0, sizeof(found))
    found.size = sizeof(found)
    if cdmi.dmi_find(<const void *><uintptr_t>value, &found) != 0:
        return None
    return PyLong_FromVoidPtr(found.heap), range_fields(&found.range)


# ---- one heap --------------------------------------------------------------------------------

def address_regions(pid):
    """(end of the address space, [RegionFields, ...]).

    Windows only; OSError with errno ENOSYS elsewhere. pid 0 is this process.
    """
    cdef uint64_t process = pid, total = 0
    cdef size_t capacity = 4096, count = 0, i
    cdef cdmi.dmi_region *found
    cdef int failed
    while True:
        found = <cdmi.dmi_region *>PyMem_RawMalloc(capacity * sizeof(cdmi.dmi_region))
        if found == NULL:
            raise MemoryError("no memory for the list of regions")
        try:
            with nogil:
                failed = cdmi.dmi_address_regions(process, found, capacity, &count, &total)
            if failed:
                raise OSError(errno, strerror(errno).decode(), None)
            if count <= capacity:
                return total, [
                    _records.RegionFields(
                        found[i].address, found[i].size, found[i].usage, found[i].state,
                        found[i].type, found[i].protect,
                        found[i].name.decode("utf-8", "replace"))
                    for i in range(count)
                ]
        finally:
            PyMem_RawFree(found)
        capacity = count + 256


# What the layout root of a dmi begins with (see outside_heaps).
LAYOUT_MAGIC = <bytes>cdmi.DMI_LAYOUT_MAGIC + b"\0"


cdef class _Outside:
    """What goes through the C core while it looks at another process."""
    cdef object read
    cdef object error
    cdef list heaps
    cdef list places


cdef int outside_read(void *context, uint64_t address, void *to, size_t size) noexcept:
    cdef _Outside o = <_Outside>context
    cdef bytes data
    if o.error is not None:
        return EIO
    try:
        data = o.read(address, size)
        if data is None or <size_t>len(data) != size:
            return EFAULT
    except BaseException as error:
        o.error = error
        return EIO
    memcpy(to, PyBytes_AS_STRING(data), size)
    return 0


cdef int outside_visit(void *argument, const cdmi.dmi_outside_heap *heap,
                       const cdmi.dmi_segment_info *place) noexcept:
    cdef _Outside o = <_Outside>argument
    try:
        if place != NULL:
            o.places.append(segment_fields(place))
        else:
            o.heaps.append(_records.OutsideFields(
                heap.handle, (<const char *>heap.name).decode("utf-8", "replace"), heap.reserved,
                heap.committed, heap.busy, heap.busy_blocks, o.places))
            o.places = []
    except BaseException as error:
        o.error = error
        return 1
    return 0


def outside_heaps(read, root):
    """[OutsideFields, ...]: the heaps of another process.

    read(address, size) returns its bytes or None; root is where its dmi_layout_root lies. OSError:
    ENOTSUP when that dmi was built otherwise than this one, EFAULT when it cannot be read.
    """
    cdef _Outside o = _Outside()
    cdef uint64_t at = root
    o.read, o.error, o.heaps, o.places = read, None, [], []
    if cdmi.dmi_outside_heaps(outside_read, <void *>o, at, outside_visit, <void *>o) < 0:
        if o.error is None:
            raise OSError(errno, strerror(errno).decode(), None)
    if o.error is not None:
        raise o.error
    return o.heaps


cdef class OutsideWalk:
    """The ranges of a heap of another process, part by part, and what they come to."""
    cdef _Outside o
    cdef uint64_t root, handle, start
    cdef bytearray room
    cdef size_t capacity

    def __cinit__(self, read, root, handle, size_t capacity=65536):
        self.o = _Outside()
        self.o.read, self.o.error = read, None
        self.root, self.handle, self.start = root, handle, 0
        self.capacity = capacity
        self.room = bytearray(capacity * sizeof(cdmi.dmi_range))

    cdef Py_ssize_t part(self) except -1:
        cdef size_t count = 0
        cdef unsigned char *base = self.room
        failed = cdmi.dmi_outside_walk(outside_read, <void *>self.o, self.root, self.handle,
                                       &self.start, <cdmi.dmi_range *>base, self.capacity, &count)
        if self.o.error is not None:
            raise self.o.error
        if failed:
            raise OSError(errno, strerror(errno).decode(), None)
        return count

    def take(self):
        """The next ranges as bytes, an array of dmi_range; empty at the end."""
        cdef Py_ssize_t count
        while self.start != <uint64_t>-1:
            count = self.part()
            if count:
                return bytes(self.room[:count * sizeof(cdmi.dmi_range)])
        return b""

    def sums(self):
        """Of what is left: {(kind, state): (ranges, bytes)}, {size: busy blocks}, damaged bytes."""
        cdef Py_ssize_t count, i
        cdef cdmi.dmi_range *found
        cdef uint64_t size_of[8][8]
        cdef uint64_t count_of[8][8]
        cdef uint64_t damaged = 0
        cdef unsigned char *base = self.room
        memset(size_of, 0, sizeof(size_of))
        memset(count_of, 0, sizeof(count_of))
        sizes = {}
        cdef uint64_t *small = <uint64_t *>PyMem_RawCalloc(8192, 8)
        if small == NULL:
            raise MemoryError("no memory to count blocks")
        try:
            while self.start != <uint64_t>-1:
                count = self.part()
                found = <cdmi.dmi_range *>base
                for i in range(count):
                    if found[i].kind >= 8 or found[i].state >= 8:
                        continue
                    size_of[found[i].kind][found[i].state] += found[i].size
                    count_of[found[i].kind][found[i].state] += 1
                    if found[i].flags & cdmi.DMI_RANGE_DAMAGED:
                        damaged += found[i].size
                    if found[i].state == <uint32_t>cdmi.DMI_STATE_BUSY:
                        if found[i].size < 8192:
                            small[found[i].size] += 1
                        else:
                            sizes[found[i].size] = sizes.get(found[i].size, 0) + 1
            for i in range(8192):
                if small[i]:
                    sizes[i] = small[i]
        finally:
            PyMem_RawFree(small)
        return {(k, s): (count_of[k][s], size_of[k][s]) for k in range(8) for s in range(8)
                if count_of[k][s]}, sizes, damaged


def stats_fields(HeapCore heap not None, bint detail, bint resident):
    """All counters, then all reasons, then all ages, in the order of the tables."""
    cdef cdmi.dmi_stats stats
    cdef PyThreadState *state
    cdef uint32_t what = 0
    cdef int failed, error
    cdef size_t i
    cdef const uint64_t *fields = &stats.size
    memset(&stats, 0, sizeof(stats))
    stats.size = sizeof(stats)
    if detail:
        what |= cdmi.DMI_STATS_DETAIL
    if resident:
        what |= cdmi.DMI_STATS_RESIDENT
    state = heap.enter()
    failed = cdmi.dmi_heap_stats(heap._handle, &stats, what)
    error = errno
    heap.leave(state)
    if failed:
        raise HeapError(f"{heap_name(heap._handle)}: no statistics: "
                        f"{strerror(error).decode()}")
    return [fields[i] for i in range(1, DMI_PY_STATS + DMI_PY_REASONS + DMI_PY_AGES + 1)]


def _room(size_t size):
    """Memory for what a walk finds. Much of it comes in huge pages and is there beforehand: faults
    cost more than the walk, and the heap would be held for each."""
    if size < 4 << 20 or not hasattr(_mmap, "MAP_ANONYMOUS"):
        return PyBytes_FromStringAndSize(NULL, size)
    try:
        room = _mmap.mmap(-1, size, flags=_mmap.MAP_PRIVATE | _mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(f"no memory for a walk of {size} bytes") from error
    for advice in (getattr(_mmap, "MADV_HUGEPAGE", None), MADV_POPULATE_WRITE):
        if advice is not None:
            try:
                room.madvise(advice)
            except (AttributeError, OSError):
                pass  # this system has no such thing
    return room


def walk_ranges(HeapCore heap not None):
    """Every range as an array of dmi_range, in bytes: by address."""
    cdef PyThreadState *state
    cdef size_t needed, count = 0
    cdef Py_buffer array
    cdef int failed, error
    counters = dict(zip((row[0] for row in STATS_TABLE), stats_fields(heap, False, False),
                        strict=False))
    needed = counters["busy_blocks"] + counters["list_length"] + 256
    while True:
        needed += needed // 8
        room = _room(needed * sizeof(cdmi.dmi_range))
        PyObject_GetBuffer(room, &array, PyBUF_SIMPLE)
        PyBuffer_Release(&array)  # room keeps the memory
        state = heap.enter()
        failed = cdmi.dmi_heap_walk_array(
            heap._handle, <cdmi.dmi_range *>array.buf, needed, &count)
        error = errno
        heap.leave(state)
        if failed:
            raise HeapError(f"{heap_name(heap._handle)}: the walk failed: "
                            f"{strerror(error).decode()}")
        if count <= needed:
            return memoryview(room)[:count * sizeof(cdmi.dmi_range)].toreadonly()
        needed = count


def walk_chunk(HeapCore heap not None, uint64_t start, size_t capacity):
    """(the ranges from address start on that fit, in bytes; where the next call goes on)."""
    cdef PyThreadState *state
    cdef size_t count = 0
    cdef cdmi.dmi_range *out
    cdef bytes array
    cdef int failed, error
    array = PyBytes_FromStringAndSize(NULL, capacity * sizeof(cdmi.dmi_range))
    out = <cdmi.dmi_range *>PyBytes_AS_STRING(array)
    state = heap.enter()
    failed = cdmi.dmi_heap_walk_chunk(heap._handle, &start, out, capacity, &count)
    error = errno
    heap.leave(state)
    if failed:
        raise HeapError(f"{heap_name(heap._handle)}: the walk failed: {strerror(error).decode()}")
    return memoryview(array)[:count * sizeof(cdmi.dmi_range)], start


def pin_list(HeapCore heap not None, size_t top):
    """([PinFields, ...] most first, how many pin anything)."""
    cdef size_t count = 0, i
    cdef cdmi.dmi_pin *found
    cdef PyThreadState *state
    cdef int failed, error
    found = <cdmi.dmi_pin *>PyMem_RawMalloc((top + 1) * sizeof(found[0]))
    if found == NULL:
        raise MemoryError("no memory for the list of blocks")
    try:
        state = heap.enter()
        failed = cdmi.dmi_heap_pins(heap._handle, found, top, &count)
        error = errno
        heap.leave(state)
        if failed:
            raise HeapError(f"{heap_name(heap._handle)}: the walk failed: "
                            f"{strerror(error).decode()}")
        return [_records.PinFields(found[i].address, found[i].size, found[i].pinned)
                for i in range(min(top, count))], count
    finally:
        PyMem_RawFree(found)


def segment_list(HeapCore heap not None):
    """[SegmentFields, ...]."""
    cdef size_t capacity = 256, count, i
    cdef cdmi.dmi_segment_info *found
    cdef PyThreadState *state
    while True:
        found = <cdmi.dmi_segment_info *>PyMem_RawMalloc(capacity * sizeof(found[0]))
        if found == NULL:
            raise MemoryError("no memory for the list of segments")
        try:
            state = heap.enter()
            count = cdmi.dmi_heap_segments(heap._handle, found, capacity)
            heap.leave(state)
            if count <= capacity:
                return [segment_fields(&found[i]) for i in range(count)]
        finally:
            PyMem_RawFree(found)
        capacity = count + 16


def thread_list(HeapCore heap not None):
    """[(thread, committed, busy, free, in_flight, unknown), ...]."""
    cdef size_t capacity = 64, count, i
    cdef cdmi.dmi_thread_usage *found
    cdef PyThreadState *state
    while True:
        found = <cdmi.dmi_thread_usage *>PyMem_RawMalloc(capacity * sizeof(found[0]))
        if found == NULL:
            raise MemoryError("no memory for the list of threads")
        try:
            state = heap.enter()
            count = cdmi.dmi_heap_threads(heap._handle, found, capacity)
            heap.leave(state)
            if count <= capacity:
                return [
                    (found[i].thread, found[i].committed, found[i].busy, found[i].free,
                     found[i].in_flight, found[i].unknown)
                    for i in range(count)
                ]
        finally:
            PyMem_RawFree(found)
        capacity = count + 64


def first_fault(HeapCore heap not None):
    """None for a sound heap, else the FaultFields of the first fault."""
    cdef cdmi.dmi_fault fault
    cdef PyThreadState *state
    cdef int failed
    memset(&fault, 0, sizeof(fault))
    fault.size = sizeof(fault)
    state = heap.enter()
    failed = cdmi.dmi_heap_validate(heap._handle, &fault)
    heap.leave(state)
    if failed == 0:
        return None
    if failed < 0:
        heap.need()
        raise HeapError(f"{heap_name(heap._handle)}: validate failed")
    word = _FAULTS.get(fault.kind, ("corrupt", ""))[0]
    return _records.FaultFields(word, fault.address, fault.message.decode("utf-8", "replace"))


# ---- which code holds the memory ----------------------------------------------------------------

def profile_start(uint32_t one_in, uint32_t most_ppm, uint64_t seed):
    """Begin to sample; 0: the default, a random seed. OSError with the reason."""
    cdef cdmi.dmi_profile_options options
    memset(&options, 0, sizeof(options))
    options.size = sizeof(options)
    options.one_in = one_in
    options.most_ppm = most_ppm
    options.seed = seed
    if cdmi.dmi_profile_start(&options):
        raise OSError(errno, strerror(errno).decode())


def profile_stop():
    """Sample no more. OSError (ENOENT) where nothing did."""
    if cdmi.dmi_profile_stop():
        raise OSError(errno, strerror(errno).decode())


cdef struct Text:
    char *bytes
    size_t used
    size_t room


cdef int take_text(void *argument, const void *bytes, size_t size) noexcept nogil:
    """From C's own memory: the sampler must see nothing of dmi's."""
    cdef Text *text = <Text *>argument
    cdef char *more
    cdef size_t room
    if size > text.room - text.used:
        room = 2 * text.room + size
        more = <char *>c_realloc(text.bytes, room)
        if more == NULL:
            return 1
        text.bytes = more
        text.room = room
    memcpy(text.bytes + text.used, bytes, size)
    text.used += size
    return 0


def profile_text():
    """The profile of this moment, as JSON. OSError with the reason."""
    cdef Text text
    cdef int failed, error
    text.bytes = NULL
    text.used = text.room = 0
    # Threads that wait for the GIL may hold locks that a moment takes.
    with nogil:
        failed = cdmi.dmi_profile_write(take_text, &text)
        error = errno
    try:
        if failed:
            raise OSError(error, strerror(error).decode())
        return PyBytes_FromStringAndSize(text.bytes, <Py_ssize_t>text.used)
    finally:
        c_free(text.bytes)
