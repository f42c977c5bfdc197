# pool.pxd - blocks that live as long as an object does: cymem's interface on dmi's heaps.
#
#     from dmi.pool cimport Pool, Address

ctypedef void *(*malloc_t)(size_t n)
ctypedef void (*free_t)(void *p)


cdef class PyMalloc:
    cdef malloc_t malloc

    cdef void _set(self, malloc_t malloc)


cdef class PyFree:
    cdef free_t free

    cdef void _set(self, free_t free)


cdef PyMalloc WrapMalloc(malloc_t malloc)
cdef PyFree WrapFree(free_t free)


# The blocks of one object, and where they come from: a heap, or a pair of functions.
cdef class Source:
    cdef readonly dict addresses
    cdef readonly object heap
    cdef readonly PyMalloc pymalloc
    cdef readonly PyFree pyfree
    cdef void *_handle
    cdef bint _shared
    cdef size_t _blocks

    cdef void *take(self, size_t number, size_t elem_size) except NULL
    cdef void *grow(self, void *block, size_t size, size_t new_size) except NULL
    cdef int give(self, void *block) noexcept


cdef class Pool:
    cdef readonly size_t size
    cdef readonly dict addresses
    cdef readonly list refs
    cdef readonly PyMalloc pymalloc
    cdef readonly PyFree pyfree
    cdef Source _source

    cdef void *alloc(self, size_t number, size_t elem_size) except NULL
    cdef void free(self, void *addr) except *
    cdef void *realloc(self, void *addr, size_t new_size) except NULL
    cpdef own_pyref(self, object py_ref)


cdef class Address:
    cdef void *ptr
    cdef readonly PyMalloc pymalloc
    cdef readonly PyFree pyfree
    cdef Source _source
