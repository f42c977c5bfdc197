# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: subinterpreters_compatible=shared_gil, autotestdict=False
"""Heaps that are not dmi's, in memory that is not ours: the loops over it (csrc/foreign).

Numbers only. A reader (dmi.process) gives the bytes; all of them are untrusted.
"""

from bisect import bisect_right

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree, PyMem_RawMalloc
from libc.errno cimport EIO
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #ifndef _WIN32 /* as in cdmi.pxd, which this module has no other use for */
    #undef PyVarObject_HEAD_INIT
    #define PyVarObject_HEAD_INIT(type, size) {PyObject_HEAD_INIT(&PyType_Type) (size)},
    #endif
    #include "foreign/view.h"
    #include "foreign/glibc.h"
    #include "foreign/linked.h"
    #include "foreign/pools.h"

    /* An Eye, and its thread's state while a walk runs without the GIL: a look takes it up again.
     * In a sub-interpreter PyGILState_Ensure() would take up another one. */
    typedef struct dmi_eye {
        void *eye;
        PyThreadState *away; /* NULL: the walk has the GIL */
    } dmi_eye;
    static int (*dmi_eye_look)(void *eye, uint64_t address, size_t wanted, dmi_piece *piece);
    static void (*dmi_eye_pages)(void *eye, uint64_t address, uint64_t size);

    static inline void dmi_eye_leave(dmi_eye *it) { it->away = PyEval_SaveThread(); }
    static inline void dmi_eye_enter(dmi_eye *it) {
        PyEval_RestoreThread(it->away);
        it->away = NULL;
    }
    static int dmi_look_back(void *context, uint64_t address, size_t wanted, dmi_piece *piece) {
        dmi_eye *it = context;
        int away = it->away != NULL, result;
        if (away) dmi_eye_enter(it);
        result = dmi_eye_look(it->eye, address, wanted, piece);
        if (away) dmi_eye_leave(it);
        return result;
    }
    static void dmi_pages_back(void *context, uint64_t address, uint64_t size) {
        dmi_eye *it = context;
        int away = it->away != NULL;
        if (away) dmi_eye_enter(it);
        dmi_eye_pages(it->eye, address, size);
        if (away) dmi_eye_leave(it);
    }
    #define DMI_PRESENT ((uint64_t)1 << 63) /* of a page in the kernel's pagemap: in memory */
    """
    ctypedef struct dmi_eye:
        void *eye
    int (*dmi_eye_look)(void *, uint64_t, size_t, dmi_piece *) noexcept
    void (*dmi_eye_pages)(void *, uint64_t, uint64_t) noexcept
    void dmi_eye_leave(dmi_eye *)
    void dmi_eye_enter(dmi_eye *)
    int dmi_look_back(void *, uint64_t, size_t, dmi_piece *) noexcept
    void dmi_pages_back(void *, uint64_t, uint64_t) noexcept
    const uint64_t PRESENT "DMI_PRESENT"

    ctypedef struct dmi_piece:
        const unsigned char *bytes
        uint64_t address
        size_t size
        uint64_t goes_on
    ctypedef struct dmi_view:
        dmi_piece piece
        uint64_t looks
        int error
    ctypedef int (*dmi_look)(void *, uint64_t, size_t, dmi_piece *) noexcept
    size_t DMI_VIEW_MOST
    void _dmi_view_open(dmi_view *, dmi_look, void *, uint64_t) nogil

    ctypedef struct dmi_linked:
        uint64_t first
        uint64_t last
        uint64_t pairs
    size_t _dmi_linked_find(const uint64_t *, size_t, uint64_t, uint64_t, uint64_t, dmi_linked *,
                            size_t) nogil
    size_t _dmi_linked_pages(const uint64_t *, size_t, uint64_t, uint64_t, dmi_linked *,
                             size_t) nogil

    ctypedef struct dmi_glibc_region:
        uint64_t from_ "from"
        uint64_t end
        uint64_t top
        uint64_t flags
        uint64_t key
        const uint64_t *fast
        size_t fast_count
    ctypedef struct dmi_glibc_chunk:
        uint64_t address
        uint64_t size
        int state
    ctypedef struct dmi_glibc_walk:
        uint64_t at
        bint ended
    void _dmi_glibc_begin(dmi_glibc_walk *, dmi_view *, const dmi_glibc_region *, unsigned) nogil
    bint _dmi_glibc_next(dmi_glibc_walk *, dmi_glibc_chunk *) nogil
    ctypedef struct dmi_glibc_size:
        uint64_t size
        uint64_t count
    ctypedef struct dmi_glibc_pin:
        uint64_t address
        uint64_t size
        uint64_t pinned
    ctypedef void (*dmi_glibc_pages)(void *, uint64_t, uint64_t) noexcept
    ctypedef struct dmi_glibc_tally:
        uint64_t page
        uint64_t cache_chunk
        dmi_glibc_pages pages
        void *context
        uint64_t chunks
        uint64_t bytes[8]
        uint64_t counts[8]
        uint64_t trim
        uint64_t before_top
        uint64_t pinned
        uint64_t caches[1]
        size_t cache_count
        uint64_t small[1]
        dmi_glibc_size large[1]
        uint64_t large_other
        uint64_t large_other_bytes
        dmi_glibc_pin pins[1]
        size_t pin_count
    int DMI_GLIBC_UNKNOWN
    unsigned DMI_GLIBC_SMALL
    unsigned DMI_GLIBC_LARGE
    int _dmi_glibc_count(dmi_view *, const dmi_glibc_region *, unsigned, dmi_glibc_tally *) nogil

    unsigned DMI_POOL_CLASSES
    ctypedef struct dmi_pools:
        uint64_t used
        uint64_t empty
        uint64_t unknown
        uint64_t blocks[64]
        uint64_t room[64]
        uint64_t busy
        uint64_t free
        uint64_t overhead
    int _dmi_pools_count(dmi_view *, uint64_t, uint64_t, uint64_t, uint32_t, dmi_pools *) nogil

    ctypedef struct dmi_range:
        uint64_t address
        uint64_t size
        uint32_t kind
        uint32_t state
        uint32_t bucket
        uint32_t flags
        uint64_t segment

# States of a chunk, by number.
STATES = ("busy", "free", "fast", "tcache", "top", "fence", "unknown")

cdef enum:
    RESIDENT_PAGES = 1 << 16


cdef class Bytes:
    """What an object holds, by address, for as long as this lives."""
    cdef Py_buffer buffer

    def __cinit__(self, thing):
        PyObject_GetBuffer(thing, &self.buffer, PyBUF_SIMPLE)

    def __dealloc__(self):
        PyBuffer_Release(&self.buffer)

    cdef const unsigned char *at(self) noexcept:
        return <const unsigned char *>self.buffer.buf


cdef class Eye:
    """What stands between a walk and a reader: one piece, and the kernel's word on which of its
    pages are in memory. The reader has page, read_into(address, memoryview) and
    pagemap(address, pages)."""
    cdef dmi_eye entry
    cdef object reader
    cdef bytearray room
    cdef object view
    cdef unsigned char *base
    cdef uint64_t page
    cdef bint absent_too
    cdef readonly uint64_t skipped
    cdef object error
    # For resident(): the pagemap of one stretch.
    cdef object marks
    cdef uint64_t marks_at, marks_count
    cdef uint64_t resident_bytes
    cdef bint resident_known
    # What lies on huge pages, by address, and how much of what was asked about does.
    cdef list huge
    cdef uint64_t huge_bytes

    def __cinit__(self, reader, bint absent_too=False):
        self.entry.eye = <void *>self
        self.reader = reader
        self.room = bytearray(DMI_VIEW_MOST)
        self.view = memoryview(self.room)
        self.base = self.room
        self.page = reader.page
        self.absent_too = absent_too
        self.error = None
        self.marks = None
        self.marks_at = self.marks_count = 0
        self.resident_bytes = 0
        self.resident_known = True
        self.huge = []
        self.huge_bytes = 0

    cdef int add_huge(self, uint64_t start, uint64_t end) except -1:
        cdef uint64_t low, high
        cdef Py_ssize_t at = bisect_right(self.huge, (start, end))
        for low, high in self.huge[max(0, at - 1):]:
            if low >= end:
                break
            if min(high, end) > max(low, start):
                self.huge_bytes += min(high, end) - max(low, start)
        return 0

    cdef int fill(self, uint64_t address, size_t wanted, dmi_piece *piece) except -1:
        cdef uint64_t start = address & ~(self.page - 1)
        cdef size_t size = (wanted + (address - start) + self.page - 1) & ~(self.page - 1)
        cdef size_t pages, i
        cdef Bytes marks
        cdef uint64_t mark
        size = min(size, <size_t>DMI_VIEW_MOST)
        pages = size // self.page
        found = None if self.absent_too else self.reader.pagemap(start, pages)
        if found is not None:
            marks = Bytes(found)
            for i in range(pages):
                memcpy(&mark, marks.at() + 8 * i, 8)
                if not mark & PRESENT:
                    break
            else:
                i = pages
            if i == 0:
                self.skipped += 1
                piece.goes_on = self.next_present(start)
                return 0
            size = i * self.page
        size = self.reader.read_into(start, self.view[:size])
        if size < address - start + 16:
            piece.goes_on = max(start + self.page, self.reader.next_there(start + self.page))
            return 0
        piece.bytes = self.base
        piece.address = start
        piece.size = size
        return 0

    cdef uint64_t next_present(self, uint64_t start) except 0:
        """The next page behind start that is in memory, at most so far as one look tells."""
        cdef Bytes marks
        cdef size_t i, count
        cdef uint64_t mark
        found = self.reader.pagemap(start, RESIDENT_PAGES)
        if found is None:
            return start + self.page
        marks = Bytes(found)
        count = len(found) // 8
        for i in range(1, count):
            memcpy(&mark, marks.at() + 8 * i, 8)
            if mark & PRESENT:
                return start + i * self.page
        return start + (count if count > 1 else 1) * self.page

    cdef int add_resident(self, uint64_t address, uint64_t size) except -1:
        cdef uint64_t page = address // self.page, end = (address + size) // self.page, mark
        cdef Bytes marks
        cdef uint64_t count
        while page < end and self.resident_known:
            if self.marks is None or not self.marks_at <= page < self.marks_at + self.marks_count:
                self.marks = self.reader.pagemap(page * self.page, RESIDENT_PAGES)
                if self.marks is None:
                    self.marks = self.reader.pagemap(page * self.page, end - page)
                if self.marks is None:
                    self.resident_known = False
                    return 0
                self.marks_at = page
                self.marks_count = len(self.marks) // 8
                if self.marks_count == 0:
                    self.resident_known = False
                    return 0
            marks = Bytes(self.marks)
            count = min(end, self.marks_at + self.marks_count)
            while page < count:
                memcpy(&mark, marks.at() + 8 * (page - self.marks_at), 8)
                if mark & PRESENT:
                    self.resident_bytes += self.page
                page += 1
        return 0


cdef int look(void *context, uint64_t address, size_t wanted, dmi_piece *piece) noexcept:
    cdef Eye eye = <Eye>context
    if eye.error is not None:
        return EIO
    try:
        eye.fill(address, wanted, piece)
        return 0
    except BaseException as error:
        eye.error = error
        return EIO


cdef void pages(void *context, uint64_t address, uint64_t size) noexcept:
    cdef Eye eye = <Eye>context
    if eye.error is not None:
        return
    try:
        eye.add_resident(address, size)
        if eye.huge:
            eye.add_huge(address, address + size)
    except BaseException as error:
        eye.error = error


dmi_eye_look = look
dmi_eye_pages = pages


cdef uint64_t looks_for(uint64_t size):
    """How many pieces a walk over so many bytes may ask for: each 16 KiB four times, and some;
    what takes more is no heap that makes sense."""
    return 1024 + min(size >> 12, <uint64_t>1 << 22)


def resident(reader, ranges):
    """Bytes of the ranges, (address, size) pairs of whole pages, that are in memory; None:
    unknown."""
    cdef Eye eye = Eye(reader)
    for address, size in ranges:
        eye.add_resident(address, size)
    return eye.resident_bytes if eye.resident_known else None


def linked(data, uint64_t address, uint64_t least, uint64_t holes):
    """[(first, last, empty pairs), ...] of tables of lists that lead to themselves, in data that
    was read at address."""
    cdef Bytes held = Bytes(data)
    cdef size_t count = len(data) // 8, n, i
    cdef dmi_linked found[1024]
    if count < 2 or address % 8:
        return []
    n = _dmi_linked_find(<const uint64_t *>held.at(), count, address, least, holes, found, 1024)
    return [(found[i].first, found[i].last, found[i].pairs) for i in range(min(n, <size_t>1024))]


def linked_pages(data, uint64_t address, uint64_t least):
    """[(first, last, words), ...] of runs of words that lead to pages or to themselves."""
    cdef Bytes held = Bytes(data)
    cdef size_t count = len(data) // 8, n, i
    cdef dmi_linked found[1024]
    if count < 2 or address % 8:
        return []
    n = _dmi_linked_pages(<const uint64_t *>held.at(), count, address, least, found, 1024)
    return [(found[i].first, found[i].last, found[i].pairs) for i in range(min(n, <size_t>1024))]


cdef class FastList:
    """Sorted addresses of chunks in fastbins."""
    cdef uint64_t *addresses
    cdef readonly size_t count

    def __cinit__(self, addresses):
        cdef size_t i = 0
        values = sorted(set(addresses))
        self.addresses = <uint64_t *>PyMem_RawMalloc((len(values) + 1) * 8)
        if self.addresses == NULL:
            raise MemoryError("no memory for the list of fastbins")
        for value in values:
            self.addresses[i] = value
            i += 1
        self.count = i

    def __dealloc__(self):
        PyMem_RawFree(self.addresses)


cdef dmi_glibc_region region_of(uint64_t start, uint64_t end, uint64_t top, bint main, uint64_t key,
                                FastList fast):
    cdef dmi_glibc_region region
    region.from_ = start
    region.end = end
    region.top = top
    region.flags = 0 if main else 4
    region.key = key
    region.fast = fast.addresses
    region.fast_count = fast.count
    return region


cdef class GlibcCount:
    """What the chunks of one arena come to, region by region."""
    cdef dmi_glibc_tally *tally
    cdef Eye eye
    cdef FastList fast
    cdef bint main
    cdef unsigned retries
    cdef readonly list errors

    def __cinit__(self, reader, bint main, fast, uint64_t cache_chunk, unsigned retries=2,
                  bint absent_too=False, huge=()):
        self.tally = <dmi_glibc_tally *>PyMem_RawCalloc(1, sizeof(dmi_glibc_tally))
        if self.tally == NULL:
            raise MemoryError("no memory to count chunks")
        self.eye = Eye(reader, absent_too)
        self.eye.huge = sorted(huge)
        self.fast = FastList(fast)
        self.main = main
        self.retries = retries
        self.errors = []
        self.tally.page = reader.page
        self.tally.cache_chunk = cache_chunk
        self.tally.pages = dmi_pages_back
        self.tally.context = &self.eye.entry

    def __dealloc__(self):
        PyMem_RawFree(self.tally)

    def add(self, uint64_t start, uint64_t end, uint64_t top, uint64_t key):
        """Count the chunks from start to end."""
        cdef dmi_view view
        cdef dmi_glibc_region region = region_of(start, end, top, self.main, key, self.fast)
        cdef int error
        _dmi_view_open(&view, dmi_look_back, &self.eye.entry, looks_for(end - start))
        dmi_eye_leave(&self.eye.entry)
        error = _dmi_glibc_count(&view, &region, self.retries, self.tally)
        dmi_eye_enter(&self.eye.entry)
        if self.eye.error is not None:
            raise self.eye.error
        if error:
            self.errors.append((start, end, error))

    def result(self):
        """All of it as a dict."""
        cdef size_t i
        cdef dmi_glibc_tally *t = self.tally
        sizes = {16 * i: t.small[i] for i in range(DMI_GLIBC_SMALL) if t.small[i]}
        for i in range(DMI_GLIBC_LARGE):
            if t.large[i].count:
                sizes[t.large[i].size] = t.large[i].count
        return {
            "chunks": t.chunks,
            "bytes": {name: t.bytes[i] for i, name in enumerate(STATES)},
            "counts": {name: t.counts[i] for i, name in enumerate(STATES)},
            "trim": t.trim,
            "trim_resident": self.eye.resident_bytes if self.eye.resident_known else None,
            "trim_huge": self.eye.huge_bytes,
            "before_top": t.before_top,
            "pinned": t.pinned,
            "sizes": sizes,
            "other_sizes": (t.large_other, t.large_other_bytes),
            "caches": [t.caches[i] for i in range(t.cache_count)],
            "pins": sorted(((t.pins[i].address, t.pins[i].size, t.pins[i].pinned)
                            for i in range(t.pin_count)), key=lambda pin: -pin[2]),
            "skipped": self.eye.skipped,
        }


cdef class GlibcWalk:
    """The chunks of a region, part by part."""
    cdef dmi_view view
    cdef dmi_glibc_walk walk
    cdef Eye eye
    cdef FastList fast

    def __cinit__(self, reader, uint64_t start, uint64_t end, uint64_t top, bint main, uint64_t key,
                  fast, unsigned retries=2, bint absent_too=False):
        cdef dmi_glibc_region region
        self.eye = Eye(reader, absent_too)
        self.fast = FastList(fast)
        region = region_of(start, end, top, main, key, self.fast)
        _dmi_view_open(&self.view, dmi_look_back, &self.eye.entry, looks_for(end - start))
        _dmi_glibc_begin(&self.walk, &self.view, &region, 2)

    def take(self, size_t most):
        """[(address, size, number of the state), ...], at most so many; empty at the end."""
        cdef dmi_glibc_chunk chunk
        cdef list out = []
        while <size_t>len(out) < most and _dmi_glibc_next(&self.walk, &chunk):
            out.append((chunk.address, chunk.size, chunk.state))
        if self.eye.error is not None:
            raise self.eye.error
        return out


def pools(reader, arenas, uint64_t pool):
    """Counts of pymalloc's pools; arenas: (index, first pool, end of what was carved). Also
    [(index, used pools, busy bytes), ...] of the arenas."""
    cdef dmi_pools total, before
    cdef dmi_view view
    cdef Eye eye = Eye(reader)
    cdef int error
    cdef uint32_t index
    cdef uint64_t start, end
    each = []
    memset_pools(&total)
    for number, start, end in arenas:
        index = number
        before = total
        _dmi_view_open(&view, dmi_look_back, &eye.entry, 4 * (1024 + (end - start) // pool))
        dmi_eye_leave(&eye.entry)
        error = _dmi_pools_count(&view, start, end, pool, index, &total)
        dmi_eye_enter(&eye.entry)
        if eye.error is not None:
            raise eye.error
        each.append((number, total.used - before.used, total.busy - before.busy,
                     total.unknown - before.unknown + (1 if error else 0)))
    return {
        "used": total.used,
        "empty": total.empty,
        "unknown": total.unknown,
        "busy": total.busy,
        "free": total.free,
        "overhead": total.overhead,
        "classes": [(16 * (i + 1), total.blocks[i], total.room[i]) for i in range(64)
                    if total.room[i]],
    }, each


cdef void memset_pools(dmi_pools *p) noexcept:
    cdef unsigned char *at = <unsigned char *>p
    cdef size_t i
    for i in range(sizeof(dmi_pools)):
        at[i] = 0
