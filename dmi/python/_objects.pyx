# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: subinterpreters_compatible=shared_gil, autotestdict=False
"""Which blocks of Python's heaps are objects, of which type, and who refers to one."""

from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport memset

from dmi cimport cdmi

import gc
import mmap

cdef extern from *:
    """
    #include <dmi/dmi.h>
    """

cdef extern from "_objects.h":
    ctypedef struct dmi_set:
        pass

    ctypedef struct dmi_known:
        dmi_set types
        dmi_set tracked
        size_t before
        size_t behind

    int dmi_set_make(dmi_set *made, size_t members, int valued)
    void dmi_set_add(dmi_set *to, uint64_t address, uint32_t value)
    void dmi_set_free(dmi_set *gone)
    uint64_t dmi_recognise(dmi_known *known, cdmi.dmi_range *range, uint32_t *number)
    void dmi_recognise_all(dmi_known *known, cdmi.dmi_range *ranges, size_t count,
                           uint32_t *numbers)
    void dmi_pins_of(cdmi.dmi_range *ranges, size_t count, double *pinned, uint64_t page)
    uint64_t dmi_word(char *at)

cdef enum:
    # What the debug hooks put around a block: size and letter before it, known bytes behind it.
    BEFORE = 16
    BEHIND = 8


cdef class _Known:
    """The types and the tracked objects of this moment."""

    cdef dmi_known known
    cdef list types
    cdef list objects

    def __cinit__(self, bint debug):
        memset(&self.known, 0, sizeof(self.known))
        self.known.before = BEFORE if debug else 0
        self.known.behind = BEHIND if debug else 0

    def __init__(self, bint debug):
        seen = {object}
        ahead = [object]
        while ahead:
            for each in type.__subclasses__(ahead.pop()):
                if each not in seen:
                    seen.add(each)
                    ahead.append(each)
        self.types = list(seen)
        if dmi_set_make(&self.known.types, len(self.types), True):
            raise MemoryError("no memory for the table of types")
        for i, each in enumerate(self.types):
            dmi_set_add(&self.known.types, <uintptr_t><PyObject *>each, <uint32_t>i)
        self.objects = gc.get_objects()
        if dmi_set_make(&self.known.tracked, len(self.objects), False):
            raise MemoryError("no memory for the table of objects")
        for each in self.objects:
            dmi_set_add(&self.known.tracked, <uintptr_t><PyObject *>each, 0)

    def __dealloc__(self):
        dmi_set_free(&self.known.types)
        dmi_set_free(&self.known.tracked)


cdef cdmi.dmi_range *walk(handle, size_t *count) except NULL:
    """Every range of a heap, in raw memory."""
    cdef size_t capacity = 1 << 14
    cdef cdmi.dmi_range *ranges
    while True:
        ranges = <cdmi.dmi_range *>PyMem_RawMalloc(capacity * sizeof(cdmi.dmi_range))
        if ranges == NULL:
            raise MemoryError("no memory for a walk")
        if cdmi.dmi_heap_walk_array(<void *><uintptr_t>handle, ranges, capacity, count):
            PyMem_RawFree(ranges)
            raise ValueError("the heap was destroyed")
        if count[0] <= capacity:
            return ranges
        capacity = count[0] + count[0] // 8
        PyMem_RawFree(ranges)


def census(handle, bint debug):
    """[(type or None, size, count, busy, pinned), ...] of the busy blocks of a heap."""
    cdef _Known known = _Known(debug)
    cdef size_t count = 0, i
    cdef cdmi.dmi_range *ranges = walk(handle, &count)
    cdef uint32_t *numbers = <uint32_t *>PyMem_RawMalloc((count + 1) * sizeof(uint32_t))
    cdef double *pinned = <double *>PyMem_RawMalloc((count + 1) * sizeof(double))
    try:
        if numbers == NULL or pinned == NULL:
            raise MemoryError("no memory for a census")
        # Nothing is allocated here: the blocks are what they were when they were walked.
        dmi_recognise_all(&known.known, ranges, count, numbers)
        dmi_pins_of(ranges, count, pinned, mmap.PAGESIZE)
        known.objects = None
        rows = {}
        for i in range(count):
            if ranges[i].state != cdmi.DMI_STATE_BUSY:
                continue
            key = (numbers[i], ranges[i].size)
            row = rows.get(key)
            if row is None:
                row = rows[key] = [0, 0.0]
            row[0] += 1
            row[1] += pinned[i]
        none = <uint32_t>-1
        return [(None if key[0] == none else known.types[key[0]], key[1], row[0],
                 key[1] * row[0], row[1]) for key, row in rows.items()]
    finally:
        PyMem_RawFree(ranges)
        PyMem_RawFree(numbers)
        PyMem_RawFree(pinned)


def object_at(address, size, bint debug):
    """The object in a busy block, in a list; an empty list when there is none for certain."""
    cdef _Known known = _Known(debug)
    cdef uint32_t number = 0
    cdef cdmi.dmi_range block
    memset(&block, 0, sizeof(block))
    block.address, block.size = address, size
    cdef uint64_t found = dmi_recognise(&known.known, &block, &number)
    known.objects = None
    return [<object><PyObject *><uintptr_t>found] if found else []


def owners(address, size, handles, bint debug):
    """Objects whose fields point into a block: whose buffer it is, or who refers to what is there.

    Looked at are the objects that the collector tracks, and all that are found in the heaps.
    """
    cdef _Known known = _Known(debug)
    cdef uint64_t low = address, high = address + size, start
    cdef size_t count = 0, i
    cdef uint32_t number = 0
    cdef cdmi.dmi_range *ranges
    found = {}
    for each in known.objects:
        start = <uintptr_t><PyObject *>each
        if each is not known.objects and points(start, type(each).__basicsize__, low, high):
            found[id(each)] = each
    for handle in handles:
        ranges = walk(handle, &count)
        try:
            for i in range(count):
                if ranges[i].state != cdmi.DMI_STATE_BUSY or ranges[i].address == low:
                    continue
                start = dmi_recognise(&known.known, &ranges[i], &number)
                if start and points(start, ranges[i].address + ranges[i].size - start, low, high):
                    each = <object><PyObject *><uintptr_t>start
                    found[id(each)] = each
        finally:
            PyMem_RawFree(ranges)
    known.objects = None
    return list(found.values())


cdef bint points(uint64_t start, Py_ssize_t size, uint64_t low, uint64_t high) noexcept:
    """Whether a word behind an object's header has an address from low up to high."""
    cdef uint64_t at = start + sizeof(PyObject)
    cdef uint64_t word
    while at + 8 <= start + size:
        word = dmi_word(<char *><uintptr_t>at)
        if low <= word < high:
            return True
        at += 8
    return False
