# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: subinterpreters_compatible=shared_gil, autotestdict=False
"""The thin layer between Python and libdmi: heaps, blocks, and plain calls.

What a number means and how it is shown is decided in the modules above; this one converts,
checks, and turns faults into exceptions. Calls that can take long release the GIL, but for heaps
made with thread_safe=False, whose only lock the GIL is.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.pycapsule cimport PyCapsule_New
from libc.errno cimport EINVAL, ENOMEM, errno
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset, strerror

cimport cython

from dmi cimport cdmi

import operator

from dmi.errors import HeapError, SizeError

cdef extern from "<errno.h>":
    const int ENOTSUP  # Cython's own list lacks it

cdef extern from *:
    """
    #include <dmi/capi.h>
    #include <string.h>

    /* A positive int as size_t; 0 for anything else, which the slow path then looks at. */
    static inline size_t dmi_fast_size(PyObject *o) {
        if (!PyLong_CheckExact(o)) return 0;
    #if PY_VERSION_HEX >= 0x030C0000
        uintptr_t tag = ((PyLongObject *)o)->long_value.lv_tag;
        const digit *d = ((PyLongObject *)o)->long_value.ob_digit;
        if (tag == (1u << 3)) return d[0];
        if (tag == (2u << 3)) return d[0] | (size_t)d[1] << PyLong_SHIFT;
    #else
        const digit *d = ((PyLongObject *)o)->ob_digit;
        if (Py_SIZE(o) == 1) return d[0];
        if (Py_SIZE(o) == 2) return d[0] | (size_t)d[1] << PyLong_SHIFT;
    #endif
        size_t n = PyLong_AsSize_t(o);
        if (n == (size_t)-1 && PyErr_Occurred()) {
            PyErr_Clear();
            return 0;
        }
        return n;
    }

    /* The counters, from the same table as the struct. */
    typedef struct { const char *name; const char *unit; const char *doc; } dmi_field;
    #define DMI_PY_STAT(name, unit, doc) {#name, #unit, doc},
    #define DMI_PY_REASON(name, doc) {#name, "B", doc},
    static const dmi_field dmi_py_stats[] = {DMI_STATS(DMI_PY_STAT)};
    static const dmi_field dmi_py_reasons[] = {DMI_REASONS(DMI_PY_REASON)};
    #define DMI_PY_STATS (sizeof dmi_py_stats / sizeof *dmi_py_stats)
    #define DMI_PY_REASONS (sizeof dmi_py_reasons / sizeof *dmi_py_reasons)

    /* What dmi_import() hands to other extensions. */
    #define DMI_PY_ENTRY(result, name, parameters) name,
    static const dmi_capi dmi_py_capi = {
        DMI_CAPI_ABI, sizeof(dmi_capi), DMI_CAPI_FUNCTIONS(DMI_PY_ENTRY)
    };
    """
    const char *DMI_CAPI_NAME
    ctypedef struct dmi_capi:
        pass
    const dmi_capi dmi_py_capi
    ctypedef struct dmi_field:
        const char *name
        const char *unit
        const char *doc
    dmi_field dmi_py_stats[]
    dmi_field dmi_py_reasons[]
    size_t DMI_PY_STATS
    size_t DMI_PY_REASONS
    size_t dmi_fast_size(object o) noexcept

cdef extern from "Python.h":
    object PyLong_FromVoidPtr(void *p)
    ctypedef struct PyThreadState
    PyThreadState *PyEval_SaveThread() nogil
    void PyEval_RestoreThread(PyThreadState *state) nogil
    int Py_IsInitialized() nogil
    ctypedef struct PyMethodDef
    ctypedef struct PyMethodDescrObject:
        PyMethodDef *d_method
    object PyDescr_NewMethod(object type, PyMethodDef *method)


# No address space reaches further, so a larger size is the caller's mistake, not a shortage.
cdef enum:
    ADDRESS_BITS = 47
    DEFAULT_ALIGN = 16
    # No heap has this handle, and unlike NULL it is no thread's memo of the last heap used.
    UNOPENED = 1

MAX_SIZE = <uint64_t>1 << ADDRESS_BITS

HEAP_NO_LFH = cdmi.DMI_HEAP_NO_LFH
HEAP_HARDENED = cdmi.DMI_HEAP_HARDENED
HEAP_MANUAL_CLOCK = cdmi.DMI_HEAP_MANUAL_CLOCK
HEAP_NO_SERIALIZE = cdmi.DMI_HEAP_NO_SERIALIZE
HEAP_HUGE_PAGES = cdmi.DMI_HEAP_HUGE_PAGES
RANGE_BYTES = sizeof(cdmi.dmi_range)

_NO_PRESSURE = (
    "pressure has nothing to go by here: /proc/pressure/memory cannot be read, and no cgroup "
    "around this process has a memory limit"
)


def _table(which):
    """((name, unit, documentation), ...) of the counters ("stats") or the reasons ("reasons")."""
    cdef size_t i
    if which == "stats":
        return tuple((dmi_py_stats[i].name.decode(), dmi_py_stats[i].unit.decode(),
                      dmi_py_stats[i].doc.decode()) for i in range(DMI_PY_STATS))
    return tuple((dmi_py_reasons[i].name.decode(), dmi_py_reasons[i].unit.decode(),
                  dmi_py_reasons[i].doc.decode()) for i in range(DMI_PY_REASONS))


# The C API for other extensions; see dmi/capi.h.
_C_API = PyCapsule_New(<void *>&dmi_py_capi, DMI_CAPI_NAME, NULL)

STATS_TABLE = _table("stats")
REASONS_TABLE = _table("reasons")


# ---- policies --------------------------------------------------------------------------------

cdef tuple policy_to_tuple(const cdmi.dmi_policy *policy):
    return (policy.when, policy.how, policy.delay, policy.half_life, policy.block, policy.total,
            policy.combine_or, policy.ratio, policy.psi, policy.headroom)


cdef int policy_from_tuple(cdmi.dmi_policy *policy, tuple fields) except -1:
    memset(policy, 0, sizeof(cdmi.dmi_policy))
    policy.size = sizeof(cdmi.dmi_policy)
    (policy.when, policy.how, policy.delay, policy.half_life, policy.block, policy.total,
     policy.combine_or, policy.ratio, policy.psi, policy.headroom) = fields
    return 0


def policy_parse(str text not None):
    """Read one policy; returns its fields in the order of dmi_policy. ValueError says why not."""
    cdef cdmi.dmi_policy policy
    cdef char error[256]
    cdef bytes raw = text.encode("utf-8", "replace")
    if b"\0" in raw:
        raise ValueError("a policy holds no NUL character")
    memset(&policy, 0, sizeof(policy))
    policy.size = sizeof(policy)
    error[0] = 0
    if cdmi.dmi_policy_parse(raw, &policy, error, sizeof(error)) != 0:
        raise ValueError(error.decode("utf-8", "replace"))
    return policy_to_tuple(&policy)


def policy_format(tuple fields not None):
    """Write a policy; only what is not a default is named."""
    cdef cdmi.dmi_policy policy
    cdef char text[512]
    policy_from_tuple(&policy, fields)
    if cdmi.dmi_policy_format(&policy, text, sizeof(text)) < 0:
        raise ValueError(f"no such policy: {fields!r}")
    return text.decode()


# ---- what is where ---------------------------------------------------------------------------

cdef tuple range_to_tuple(const cdmi.dmi_range *r):
    return (r.address, r.size, r.kind, r.state, r.bucket, r.flags, r.segment)


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
    return PyLong_FromVoidPtr(found.heap), range_to_tuple(&found.range)


cdef str heap_name(void *handle):
    """'heap 0x7f... (name)' for messages."""
    cdef cdmi.dmi_heap_info info
    memset(&info, 0, sizeof(info))
    info.size = sizeof(info)
    if cdmi.dmi_heap_get_info(handle, &info) != 0:
        return f"heap {<uintptr_t>handle:#x}"
    name = info.name.decode("utf-8", "replace")
    if name:
        return f"heap {<uintptr_t>handle:#x} ({name})"
    return f"heap {<uintptr_t>handle:#x}"


cdef str describe(void *address):
    """What lies at an address, as the end of a sentence."""
    cdef cdmi.dmi_found found
    memset(&found, 0, sizeof(found))
    found.size = sizeof(found)
    if address == NULL or cdmi.dmi_find(address, &found) != 0:
        return "no heap owns this address"
    state = {cdmi.DMI_STATE_BUSY: "a busy block", cdmi.DMI_STATE_FREE: "a free block",
             cdmi.DMI_STATE_UNCOMMITTED: "an uncommitted range",
             cdmi.DMI_STATE_OFFERED: "a free block on offered pages",
             cdmi.DMI_STATE_OVERHEAD: "the heap's own bytes"}.get(found.range.state, "a range")
    size, start = found.range.size, found.range.address
    where = f"of {size} bytes at {start:#x} of {heap_name(found.heap)}"
    offset = <uintptr_t>address - start
    if offset == 0:
        return f"it is {state} {where}"
    return f"it lies {offset} bytes inside {state} {where}"


FAULTS = {
    cdmi.DMI_FAULT_STALE_HEAP: ("stale heap", "the heap was destroyed"),
    cdmi.DMI_FAULT_FOREIGN: ("foreign", "the address is foreign to dmi"),
    cdmi.DMI_FAULT_OTHER_HEAP: ("other heap", "the block belongs to another heap"),
    cdmi.DMI_FAULT_INTERIOR: ("interior", "the address is not the start of a block"),
    cdmi.DMI_FAULT_FREE: ("free", "the block is free already"),
    cdmi.DMI_FAULT_OVERFLOW: ("overflow", "bytes behind the end of the block were overwritten"),
    cdmi.DMI_FAULT_CORRUPT: ("corrupt", "a tag or link of the heap is damaged"),
}


cdef object fault_error(str what, void *handle, void *address, int fault):
    """The HeapError for a fault that a checked call of the library returned."""
    word, sentence = FAULTS.get(fault, ("corrupt", f"unknown fault {fault}"))
    if fault == cdmi.DMI_FAULT_STALE_HEAP:
        text = f"{what}({<uintptr_t>address:#x}): heap {<uintptr_t>handle:#x} was destroyed"
    else:
        text = (f"{what}({<uintptr_t>address:#x}) on {heap_name(handle)}: {sentence}; "
                f"{describe(address)}")
    return HeapError(text, address=<uintptr_t>address, fault=word)


# ---- heaps -----------------------------------------------------------------------------------

cdef class HeapCore:
    """The native half of dmi.Heap. It owns the heap unless it was made by attach()."""

    cdef void *_handle
    cdef bint _owner
    cdef bint _no_serialize
    cdef uint64_t _max_size
    # Buffer exports of this heap's blocks: the heap cannot go while there are any.
    cdef Py_ssize_t _exports
    # Calls that are inside the library without the GIL.
    cdef Py_ssize_t _inside
    # Blocks that came from and did not go back through this object: what is busy beyond them is
    # other code's. The other code may pass blocks on, so it is never more than a lower bound.
    cdef uint64_t _blocks
    cdef object __weakref__

    def __cinit__(self, *args, **kwargs):
        self._handle = <void *>UNOPENED

    def open(self, bytes name, size_t max_size, uint32_t flags, tuple policy not None,
             uint32_t lfh_live=0, uint32_t lfh_total=0):
        """Make a new heap. Once for an object."""
        cdef cdmi.dmi_heap_options options
        cdef cdmi.dmi_policy native
        if self._handle != <void *>UNOPENED:
            raise HeapError("the heap is open already")
        policy_from_tuple(&native, policy)
        memset(&options, 0, sizeof(options))
        options.size = sizeof(options)
        options.flags = flags
        options.max_size = max_size
        if name is not None:
            options.name = name
        options.policy = &native
        options.lfh_live = lfh_live
        options.lfh_total = lfh_total
        cdef void *handle = cdmi.dmi_heap_create(&options)
        if handle == NULL:
            error = errno
            if error == ENOMEM:
                raise MemoryError("no memory for a new heap")
            reason = strerror(error).decode()
            if error == EINVAL:
                raise ValueError(f"the options of the heap were refused: {reason}")
            if error == ENOTSUP:
                raise OSError(error, f"no new heap: {_NO_PRESSURE}")
            raise OSError(error, f"no new heap: {reason}")
        self._handle = handle
        self._owner = True
        self._max_size = max_size
        self._no_serialize = flags & cdmi.DMI_HEAP_NO_SERIALIZE != 0

    def attach(self, handle):
        """Look at a heap that somebody else owns; it is not destroyed with this object."""
        cdef cdmi.dmi_heap_info info
        if self._handle != <void *>UNOPENED:
            raise HeapError("the heap is open already")
        memset(&info, 0, sizeof(info))
        info.size = sizeof(info)
        if cdmi.dmi_heap_get_info(<void *><uintptr_t>handle, &info) != 0:
            raise HeapError(f"heap {handle:#x} was destroyed", fault="stale heap")
        self._handle = <void *><uintptr_t>handle
        self._max_size = info.max_size
        self._no_serialize = info.flags & cdmi.DMI_HEAP_NO_SERIALIZE != 0

    def __dealloc__(self):
        # At exit as at any other time: nothing but the library is touched here. A heap in which
        # other code has blocks outlives its object; dmi.heaps() still lists it.
        if self._owner and self._handle != <void *>UNOPENED and self.strangers() == 0:
            cdmi.dmi_heap_destroy(self._handle)

    cdef uint64_t strangers(self) noexcept:
        """Busy blocks that did not come from this object: of C extensions, NumPy, cffi."""
        cdef cdmi.dmi_stats stats
        cdef uint32_t what = 0
        while True:
            memset(&stats, 0, sizeof(stats))
            stats.size = sizeof(stats)
            if cdmi.dmi_heap_stats(self._handle, &stats, what) != 0:
                return 0
            if stats.busy_blocks <= self._blocks:
                return 0
            # Without the detail a count may be a moment old where other threads free.
            if what:
                return stats.busy_blocks - self._blocks
            what = cdmi.DMI_STATS_DETAIL

    cdef inline void block_gone(self) noexcept:
        if self._blocks:
            self._blocks -= 1

    def close(self, bint force=False):
        """Destroy the heap with all its blocks. BufferError while a Block has a live buffer.

        HeapError while blocks live that other code allocated, unless force is true.
        """
        cdef int failed
        cdef uint64_t others
        if self._handle == <void *>UNOPENED or not cdmi.dmi_heap_valid(self._handle):
            return
        if not self._owner:
            raise HeapError(f"{heap_name(self._handle)} belongs to somebody else")
        if self._exports:
            raise BufferError(f"{heap_name(self._handle)}: buffers of its blocks are still "
                              f"exported: {self._exports}")
        if self._inside:
            raise HeapError(f"{heap_name(self._handle)}: another thread is inside")
        if not force:
            others = self.strangers()
            if others:
                raise HeapError(
                    f"{heap_name(self._handle)} cannot be destroyed: {others} of its busy blocks "
                    "belong to other code (a C extension, NumPy or cffi); free them first, or "
                    "destroy(force=True) if nothing will touch them again")
        failed = cdmi.dmi_heap_destroy(self._handle)
        if failed:
            error = errno
            raise HeapError(f"{heap_name(self._handle)} cannot be destroyed: "
                            f"{strerror(error).decode()}")
        self._owner = False

    cdef PyThreadState *enter(self) except? NULL:
        """Go into the library for long: without the GIL if other threads may use the heap."""
        self.need()
        self._inside += 1
        if self._no_serialize:
            return NULL
        return PyEval_SaveThread()

    cdef void leave(self, PyThreadState *state) noexcept:
        if state != NULL:
            PyEval_RestoreThread(state)
        self._inside -= 1

    cdef int need(self) except -1:
        if self._handle == <void *>UNOPENED:
            raise HeapError("the heap was never opened")
        if not cdmi.dmi_heap_valid(self._handle):
            raise HeapError(f"heap {<uintptr_t>self._handle:#x} was destroyed",
                            fault="stale heap")
        return 0

    # ---- state -------------------------------------------------------------------------------

    @property
    def handle(self):
        """The heap's handle, an int; it is what !heap -s shows and what C code takes."""
        return PyLong_FromVoidPtr(self._handle)

    @property
    def closed(self):
        """True once the heap was destroyed."""
        return self._handle == <void *>UNOPENED or not cdmi.dmi_heap_valid(self._handle)

    def info(self):
        """(name, flags, max_size, is_default, clock, policy fields)."""
        cdef cdmi.dmi_heap_info info
        self.need()
        memset(&info, 0, sizeof(info))
        info.size = sizeof(info)
        if cdmi.dmi_heap_get_info(self._handle, &info) != 0:
            raise HeapError(f"heap {<uintptr_t>self._handle:#x} was destroyed",
                            fault="stale heap")
        return (info.name.decode("utf-8", "replace"), info.flags, info.max_size,
                bool(info.is_default), info.clock, policy_to_tuple(&info.policy))

    # ---- raw addresses -----------------------------------------------------------------------

    cdef size_t size_of(self, object size, str argument) except 0:
        """A size from the caller, or the exception that says what is wrong with it."""
        try:
            value = operator.index(size)
        except TypeError:
            raise TypeError(f"{argument} must be an int (bytes, 1 or more), "
                            f"not {type(size).__name__}") from None
        if value <= 0:
            raise ValueError(f"{argument} must be 1 byte or more, not {value}")
        limit = MAX_SIZE
        if self._max_size and self._max_size < limit:
            limit = self._max_size
        if value > limit:
            raise SizeError(f"{argument} must be at most {limit} bytes "
                            f"({'max_size' if limit != MAX_SIZE else 'the address space'}), "
                            f"not {value}")
        return value

    cdef void *fast_address(self, object address, str argument) except? NULL:
        try:
            value = operator.index(address)
        except TypeError:
            raise TypeError(f"{argument} must be an int (an address), "
                            f"not {type(address).__name__}") from None
        if value < 0 or value >= 1 << 64:
            raise ValueError(f"{argument} must be between 0 and 2**64 - 1, not {value}")
        return <void *><uintptr_t>value

    cdef int no_memory(self, size_t size) except -1:
        self.need()
        limit = f" (max_size {self._max_size})" if self._max_size else ""
        raise MemoryError(f"{heap_name(self._handle)}: no memory for {size} bytes{limit}")

    def malloc(self, size, /):
        """Allocate size bytes, uninitialised, 16-byte aligned; returns the address, an int.

        Pair it with free() of the same heap. ValueError for 0 and less, SizeError for more than
        any memory, MemoryError when there is none left.
        """
        cdef size_t n = dmi_fast_size(size)
        if n - 1 >= <size_t>1 << ADDRESS_BITS:
            n = self.size_of(size, "size")
        cdef void *block = cdmi.dmi_heap_malloc_checked(self._handle, n)
        if block == NULL:
            self.size_of(n, "size")
            self.no_memory(n)
        self._blocks += 1
        return PyLong_FromVoidPtr(block)

    def free(self, address, /):
        """Free what malloc() or realloc() returned; 0 is allowed and does nothing.

        A foreign, interior or misaligned address, a block of another heap, and a second free
        of a block not handed out since raise HeapError. A second free after the address was
        handed out again cannot be told from a first one.
        """
        cdef void *block = <void *>dmi_fast_size(address)
        cdef int fault
        if block == NULL:
            block = self.fast_address(address, "address")
            if block == NULL:
                return
        fault = cdmi.dmi_heap_free_checked(self._handle, block)
        if fault:
            raise fault_error("free", self._handle, block, fault)
        self.block_gone()

    def realloc(self, address, size, /):
        """Resize a raw block; returns its address, a new one if it had to move.

        Address 0 allocates. The contents up to the smaller size are kept. On any exception the
        block is as it was.
        """
        cdef void *block = self.fast_address(address, "address")
        cdef size_t n = self.size_of(size, "size")
        cdef void *moved
        cdef int fault
        if block == NULL:
            moved = cdmi.dmi_heap_malloc_checked(self._handle, n)
        else:
            fault = cdmi.dmi_heap_check(self._handle, block)
            if fault:
                raise fault_error("realloc", self._handle, block, fault)
            moved = cdmi.dmi_heap_realloc(self._handle, block, n)
        if moved == NULL:
            self.no_memory(n)
        if block == NULL:
            self._blocks += 1
        return PyLong_FromVoidPtr(moved)

    def check(self, address, /):
        """None when address is a busy block of this heap; HeapError otherwise."""
        cdef void *block = self.fast_address(address, "address")
        cdef int fault = cdmi.dmi_heap_check(self._handle, block)
        if fault:
            raise fault_error("check", self._handle, block, fault)

    def usable_size(self, address, /):
        """Usable bytes of a busy raw block of this heap."""
        self.check(address)
        return cdmi.dmi_usable_size(self.fast_address(address, "address"))

    # ---- blocks ------------------------------------------------------------------------------

    def alloc(self, size, *, align=None):
        """Allocate a Block of size bytes, uninitialised; align is a power of two, in bytes."""
        return make_block(self, self.size_of(size, "size"), align_of(align), False)

    def calloc(self, size, *, align=None):
        """Allocate a Block of size zero bytes; align is a power of two, in bytes."""
        return make_block(self, self.size_of(size, "size"), align_of(align), True)

    # ---- decommit ----------------------------------------------------------------------------

    def set_policy(self, tuple fields not None):
        """Change the policy; it applies to what is free already before this returns."""
        cdef cdmi.dmi_policy policy
        cdef PyThreadState *state
        cdef int failed, error
        policy_from_tuple(&policy, fields)
        state = self.enter()
        failed = cdmi.dmi_heap_set_policy(self._handle, &policy)
        error = errno
        self.leave(state)
        if failed:
            text = f"{policy_format(fields)}: {strerror(error).decode()}"
            if error == EINVAL:
                raise ValueError(f"the policy was refused: {text}")
            if error == ENOMEM:
                raise MemoryError(f"the policy could not be applied: {text}")
            if error == ENOTSUP and policy.when == cdmi.DMI_WHEN_PRESSURE:
                text = f"{policy_format(fields)}: {_NO_PRESSURE}"
            raise OSError(error, f"the policy could not be applied: {text}")

    def advance_clock(self, double seconds):
        """Let seconds pass on a manual clock."""
        cdef PyThreadState *state = self.enter()
        cdef int failed = cdmi.dmi_heap_advance(self._handle, seconds)
        cdef int error = errno
        self.leave(state)
        if failed:
            raise HeapError(f"{heap_name(self._handle)}: {strerror(error).decode()}")

    def trim_report(self):
        """(decommitted, resident before, resident after, calls) of a trim."""
        cdef cdmi.dmi_trim_report report
        cdef PyThreadState *state
        cdef int failed, error
        memset(&report, 0, sizeof(report))
        report.size = sizeof(report)
        state = self.enter()
        failed = cdmi.dmi_heap_trim(self._handle, &report)
        error = errno
        self.leave(state)
        if failed:
            raise HeapError(f"{heap_name(self._handle)}: trim failed: "
                            f"{strerror(error).decode()}")
        return (report.decommitted, report.resident_before, report.resident_after, report.calls)

    # ---- inspection --------------------------------------------------------------------------

    def stats_fields(self, bint detail, bint resident):
        """All counters, then all reasons, in the order of the tables."""
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
        state = self.enter()
        failed = cdmi.dmi_heap_stats(self._handle, &stats, what)
        error = errno
        self.leave(state)
        if failed:
            raise HeapError(f"{heap_name(self._handle)}: no statistics: "
                            f"{strerror(error).decode()}")
        return [fields[i] for i in range(1, DMI_PY_STATS + DMI_PY_REASONS + 1)]

    def walk_ranges(self):
        """Every range as an array of dmi_range, in bytes: by segment and address."""
        cdef PyThreadState *state
        cdef size_t needed, count = 0
        cdef cdmi.dmi_range *out
        cdef bytes array
        cdef int failed, error
        counters = dict(zip((row[0] for row in STATS_TABLE), self.stats_fields(False, False),
                            strict=False))
        needed = counters["busy_blocks"] + counters["list_length"] + 256
        while True:
            needed += needed // 8
            array = PyBytes_FromStringAndSize(NULL, needed * sizeof(cdmi.dmi_range))
            out = <cdmi.dmi_range *>PyBytes_AS_STRING(array)
            state = self.enter()
            failed = cdmi.dmi_heap_walk_array(self._handle, out, needed, &count)
            error = errno
            self.leave(state)
            if failed:
                raise HeapError(f"{heap_name(self._handle)}: the walk failed: "
                                f"{strerror(error).decode()}")
            if count <= needed:
                return memoryview(array)[:count * sizeof(cdmi.dmi_range)]
            needed = count

    def pin_list(self, size_t top):
        """([(address, size, pinned), ...] most first, how many pin anything)."""
        cdef size_t count = 0, i
        cdef cdmi.dmi_pin *found
        cdef PyThreadState *state
        cdef int failed, error
        found = <cdmi.dmi_pin *>PyMem_RawMalloc((top + 1) * sizeof(found[0]))
        if found == NULL:
            raise MemoryError("no memory for the list of blocks")
        try:
            state = self.enter()
            failed = cdmi.dmi_heap_pins(self._handle, found, top, &count)
            error = errno
            self.leave(state)
            if failed:
                raise HeapError(f"{heap_name(self._handle)}: the walk failed: "
                                f"{strerror(error).decode()}")
            return [(found[i].address, found[i].size, found[i].pinned)
                    for i in range(min(top, count))], count
        finally:
            PyMem_RawFree(found)

    def segment_list(self):
        """[(address, reserved, committed, uncommitted ranges, is virtual), ...]."""
        cdef size_t capacity = 256, count, i
        cdef cdmi.dmi_segment_info *found
        cdef PyThreadState *state
        while True:
            found = <cdmi.dmi_segment_info *>PyMem_RawMalloc(capacity * sizeof(found[0]))
            if found == NULL:
                raise MemoryError("no memory for the list of segments")
            try:
                state = self.enter()
                count = cdmi.dmi_heap_segments(self._handle, found, capacity)
                self.leave(state)
                if count <= capacity:
                    return [(found[i].address, found[i].reserved, found[i].committed,
                             found[i].uncommitted_ranges, bool(found[i].is_virtual))
                            for i in range(count)]
            finally:
                PyMem_RawFree(found)
            capacity = count + 16

    def first_fault(self):
        """None for a sound heap, else (fault word, address, message)."""
        cdef cdmi.dmi_fault fault
        cdef PyThreadState *state
        cdef int failed
        memset(&fault, 0, sizeof(fault))
        fault.size = sizeof(fault)
        state = self.enter()
        failed = cdmi.dmi_heap_validate(self._handle, &fault)
        self.leave(state)
        if failed == 0:
            return None
        if failed < 0:
            self.need()
            raise HeapError(f"{heap_name(self._handle)}: validate failed")
        word = FAULTS.get(fault.kind, ("corrupt", ""))[0]
        return word, fault.address, fault.message.decode("utf-8", "replace")


def own_raw_calls(cls):
    """Give a subclass of HeapCore the raw calls as methods of its own; returns the class.

    The interpreter calls a C method directly only where the object's type is exactly the one that
    the method was made for; inherited, h.malloc + h.free take half as long again.
    """
    if not issubclass(cls, HeapCore):
        raise TypeError("the class must be a subclass of HeapCore")
    for name in ("malloc", "free"):
        first = next(base for base in cls.__mro__ if name in base.__dict__)
        ours = HeapCore.__dict__[name]
        found = first.__dict__[name]
        # Only what is still the native call: an override stays what it is.
        if first is not cls and type(found) is type(ours) and same_method(found, ours):
            setattr(cls, name, PyDescr_NewMethod(cls, (<PyMethodDescrObject *>ours).d_method))
    return cls


cdef bint same_method(object one, object two):
    return (<PyMethodDescrObject *>one).d_method == (<PyMethodDescrObject *>two).d_method


# ---- blocks ----------------------------------------------------------------------------------

cdef size_t align_of(object align) except? 0:
    """0 for the default, else a power of two."""
    if align is None:
        return 0
    try:
        value = operator.index(align)
    except TypeError:
        raise TypeError("align must be a power of two (an int, in bytes) or None, "
                        f"not {type(align).__name__}") from None
    if value <= 0 or value & (value - 1):
        raise ValueError(f"align must be a power of two, not {value}")
    if value > MAX_SIZE:
        raise SizeError(f"align must be at most {MAX_SIZE} bytes, not {value}")
    return value


cdef void *allocate(HeapCore heap, size_t size, size_t align, bint zero) except NULL:
    """A block of the heap by whichever call serves it; MemoryError or HeapError if none does."""
    cdef void *address
    if align > DEFAULT_ALIGN:
        address = cdmi.dmi_heap_aligned_alloc(heap._handle, align, size)
        if zero and address != NULL:
            memset(address, 0, size)
    elif zero:
        address = cdmi.dmi_heap_calloc(heap._handle, 1, size)
    else:
        address = cdmi.dmi_heap_malloc_checked(heap._handle, size)
    if address == NULL:
        heap.no_memory(size)
    heap._blocks += 1
    return address


cdef Block make_block(HeapCore heap, size_t size, size_t align, bint zero):
    cdef void *address = allocate(heap, size, align, zero)
    cdef Block block = Block.__new__(Block)
    block._heap = heap
    block._address = address
    block._size = size
    block._align = align
    return block


@cython.final
@cython.no_gc_clear
@cython.freelist(64)
cdef class Block:
    """A block of a heap, made by Heap.alloc() or Heap.calloc(); a writable buffer of bytes.

    It keeps its heap alive, and the memory lives until free(), the end of a with statement, or
    the end of the object, whichever comes first. Not to be used from two threads at once while
    one of them frees or resizes.
    """

    cdef HeapCore _heap
    cdef void *_address
    cdef size_t _size
    cdef size_t _align
    cdef Py_ssize_t _exports

    def __init__(self, *args, **kwargs):
        raise TypeError("a Block is made by Heap.alloc() or Heap.calloc()")

    def __dealloc__(self):
        cdef int fault
        if self._address == NULL or self._heap is None:
            return
        fault = cdmi.dmi_heap_free_checked(self._heap._handle, self._address)
        if not fault:
            self._heap.block_gone()
        # An overflow found here must not pass in silence; a heap that is gone took the block along.
        if fault and fault != cdmi.DMI_FAULT_STALE_HEAP and Py_IsInitialized():
            self._report(fault)

    cdef void _report(self, int fault) noexcept:
        # noexcept: the error goes to sys.unraisablehook.
        raise fault_error("free", self._heap._handle, self._address, fault)

    cdef int _need(self, str what) except -1:
        if self._address == NULL:
            raise HeapError(f"{what}: the block was freed", fault="free")
        self._heap.need()
        return 0

    cdef int _unshared(self, str what) except -1:
        if self._exports:
            raise BufferError(f"{what}: buffers of the block at {<uintptr_t>self._address:#x} "
                              f"are still exported: {self._exports}")
        return 0

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        self._need("buffer")
        PyBuffer_FillInfo(buffer, self, self._address, <Py_ssize_t>self._size, 0, flags)
        self._exports += 1
        self._heap._exports += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self._exports -= 1
        self._heap._exports -= 1

    def __len__(self):
        self._need("len")
        return <Py_ssize_t>self._size

    def __enter__(self):
        self._need("with")
        return self

    def __exit__(self, *exc):
        if self._address != NULL and not self._heap.closed:
            self.free()

    def __repr__(self):
        if self._address == NULL or self._heap.closed:
            return "<dmi.Block, freed>"
        return f"<dmi.Block of {self._size} bytes at {<uintptr_t>self._address:#x}>"

    @property
    def heap(self):
        """The heap the block belongs to."""
        return self._heap

    @property
    def address(self):
        """Where the block begins. HeapError after free()."""
        self._need("address")
        return PyLong_FromVoidPtr(self._address)

    @property
    def size(self):
        """The bytes that were asked for; the length of the buffer."""
        self._need("size")
        return self._size

    @property
    def usable_size(self):
        """The bytes the heap set aside, at least size; what busy counts."""
        self._need("usable_size")
        return cdmi.dmi_usable_size(self._address)

    @property
    def freed(self):
        """True after free(), and once the heap is gone."""
        return self._address == NULL or self._heap.closed

    def free(self):
        """Give the block back. BufferError while a buffer of it lives, HeapError twice."""
        cdef int fault
        self._need("free")
        self._unshared("free")
        cdef void *address = self._address
        fault = cdmi.dmi_heap_free_checked(self._heap._handle, address)
        # Whatever was wrong with it, the block is not to be touched through this object again.
        self._address = NULL
        if fault:
            raise fault_error("free", self._heap._handle, address, fault)
        self._heap.block_gone()

    def resize(self, size):
        """Make the block size bytes; it may move, its alignment and first bytes stay.

        New bytes are uninitialised. On any exception the block is as it was.
        """
        cdef size_t n
        cdef void *moved
        cdef int fault
        self._need("resize")
        self._unshared("resize")
        n = self._heap.size_of(size, "size")
        fault = cdmi.dmi_heap_check(self._heap._handle, self._address)
        if fault:
            raise fault_error("resize", self._heap._handle, self._address, fault)
        if self._align > DEFAULT_ALIGN:
            if n <= cdmi.dmi_usable_size(self._address):
                self._size = n
                return
            # realloc promises 16 bytes only.
            moved = allocate(self._heap, n, self._align, False)
            memcpy(moved, self._address, self._size)
            fault = cdmi.dmi_heap_free_checked(self._heap._handle, self._address)
            self._address = moved
            self._size = n
            if fault:
                raise fault_error("resize", self._heap._handle, self._address, fault)
            self._heap.block_gone()
            return
        moved = cdmi.dmi_heap_realloc(self._heap._handle, self._address, n)
        if moved == NULL:
            self._heap.no_memory(n)
        self._address = moved
        self._size = n
