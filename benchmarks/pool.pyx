# cython: language_level=3
"""cymem's Pool has no Python methods: this is the thinnest way to them."""

from cymem.cymem cimport Pool


cdef class Caller:
    cdef Pool pool

    def __cinit__(self):
        self.pool = Pool()

    def alloc(self, size_t size):
        return <size_t>self.pool.alloc(1, size)

    def free(self, size_t address):
        self.pool.free(<void *>address)
