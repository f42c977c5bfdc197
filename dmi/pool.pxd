# pool.pxd - `from dmi.pool cimport Pool`: blocks that live as long as the pool does.


cdef class Pool:
    cdef readonly size_t size
    cdef readonly dict addresses
    cdef readonly list refs
    cdef readonly object heap
    cdef void *_handle

    cdef void *alloc(self, size_t number, size_t elem_size) except NULL
    cdef void free(self, void *addr) except *
    cdef void *realloc(self, void *addr, size_t new_size) except NULL
    cdef int own_pyref(self, object py_ref) except -1
