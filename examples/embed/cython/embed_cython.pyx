# cython: language_level=3
"""A histogram on dmi's default heap, and vectors whose blocks live as long as their Pool."""

from dmi cimport cdmi
from dmi.pool cimport Pool

cdmi.dmi_import()


cdef class Histogram:
    """Counts of small numbers, in memory of its own."""

    cdef unsigned long *counts
    cdef size_t bins

    def __cinit__(self, size_t bins):
        self.counts = <unsigned long *>cdmi.dmi_calloc(bins, sizeof(unsigned long))
        if self.counts == NULL:
            raise MemoryError
        self.bins = bins

    def __dealloc__(self):
        cdmi.dmi_free(self.counts)

    def add(self, size_t bin):
        if bin >= self.bins:
            raise IndexError(bin)
        self.counts[bin] += 1
        return self.counts[bin]


cdef class Vector:
    """A growing array of doubles; no __dealloc__, the pool sees to it."""

    cdef readonly Pool pool
    cdef double *items
    cdef size_t length, room

    def __cinit__(self, heap=None):
        self.pool = Pool(heap)
        self.room = 4
        self.items = <double *>self.pool.alloc(self.room, sizeof(double))

    def append(self, double item):
        if self.length == self.room:
            self.items = <double *>self.pool.realloc(self.items, 2 * self.room * sizeof(double))
            self.room *= 2
        self.items[self.length] = item
        self.length += 1

    def sum(self):
        cdef double total = 0
        cdef size_t i
        for i in range(self.length):
            total += self.items[i]
        return total
