# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: subinterpreters_compatible=shared_gil, autotestdict=False
"""Blocks for Cython code that live as long as their Pool: cymem's interface on a dmi heap.

A program of cymem's switches with `from dmi.pool cimport Pool`. Not to be used from two threads at
once; different pools are independent, also on one heap.
"""

from libc.string cimport memset

from dmi cimport cdmi

from libc.stdint cimport uintptr_t

from dmi._core import HeapCore
from dmi._inspect import default_handle
from dmi.errors import HeapError

__all__ = ["Pool"]


cdef class Pool:
    """Pool(heap=None): zeroed blocks of one heap, the default heap if none is given.

    The blocks go back when the pool goes. The pool keeps a dmi.Heap alive, and its blocks keep
    that heap from being destroyed (HeapError) as those of other C code do.

    size       bytes asked for and not given back
    addresses  {address: bytes} of the live blocks
    refs       objects that the pool keeps alive, see own_pyref()
    heap       the dmi.Heap, None for the process default heap
    """

    def __cinit__(self, heap=None):
        self.size = 0
        self.addresses = {}
        self.refs = []
        self.heap = heap
        if heap is None:
            self._handle = <void *><uintptr_t>default_handle()
        elif isinstance(heap, HeapCore):
            heap.info()  # HeapError for a heap that is gone
            self._handle = <void *><uintptr_t>heap.handle
        else:
            raise TypeError(f"heap must be a dmi.Heap or None, not {type(heap).__name__}")

    def __dealloc__(self):
        # Checked frees: after destroy(force=True) there is nothing left to give back.
        if self.addresses is not None:
            for address in self.addresses:
                cdmi.dmi_heap_free_checked(self._handle, <void *><uintptr_t>address)

    cdef void *alloc(self, size_t number, size_t elem_size) except NULL:
        """A zeroed block of number * elem_size bytes. MemoryError, also where that overflows."""
        cdef void *block = cdmi.dmi_heap_calloc(self._handle, number, elem_size)
        if block == NULL:
            raise MemoryError(f"no memory for {number} times {elem_size} bytes")
        self.addresses[<uintptr_t>block] = number * elem_size
        self.size += number * elem_size
        return block

    cdef void free(self, void *addr) except *:
        """Give a block back before the pool goes. KeyError if it is none of the pool's."""
        cdef size_t size = self.addresses.pop(<uintptr_t>addr)
        cdef int fault = cdmi.dmi_heap_free_checked(self._handle, addr)
        self.size -= size
        if fault:
            raise HeapError(f"the block at {<uintptr_t>addr:#x} could not be freed (fault {fault})",
                            address=<uintptr_t>addr)

    cdef void *realloc(self, void *addr, size_t new_size) except NULL:
        """Resize a block; new bytes are zero. ValueError if it is none of the pool's.

        On MemoryError the block is as it was.
        """
        cdef void *moved
        cdef size_t size
        old = self.addresses.get(<uintptr_t>addr)
        if old is None:
            raise ValueError(f"the pool has no block at {<uintptr_t>addr:#x}")
        size = old
        moved = cdmi.dmi_heap_realloc(self._handle, addr, new_size)
        if moved == NULL:
            raise MemoryError(f"no memory for {new_size} bytes")
        if new_size > size:
            memset(<char *>moved + size, 0, new_size - size)
        del self.addresses[<uintptr_t>addr]
        self.addresses[<uintptr_t>moved] = new_size
        self.size += new_size
        self.size -= size
        return moved

    cdef int own_pyref(self, object py_ref) except -1:
        """Keep an object alive as long as the pool."""
        self.refs.append(py_ref)
        return 0
