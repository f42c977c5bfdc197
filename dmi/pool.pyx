# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: subinterpreters_compatible=shared_gil, autotestdict=False
"""Blocks for Cython code that live as long as an object: cymem's interface on a dmi heap.

A program of cymem's switches with `from dmi.pool cimport Pool` and its requirement. What it may do
with a Pool it may do here; where cymem refuses (shrinking) or overflows (number * elem_size), this
one serves, or raises MemoryError. Methods are safe from several threads as far as the GIL makes
them so; a pool is not to be used while another thread drops it.
"""

from libc.stdint cimport uintptr_t
from libc.string cimport memcpy, memset

cimport cython

from dmi cimport cdmi
from dmi._faults cimport fault_error

import warnings

from dmi._core import HeapCore
from dmi._inspect import default_handle

__all__ = [
    "Address",
    "Default_Free",
    "Default_Malloc",
    "Pool",
    "PyFree",
    "PyMalloc",
    "WARN_ZERO_ALLOC",
]

WARN_ZERO_ALLOC = False

# In whose name a heap is held while there are blocks.
cdef extern from *:
    const char *WHO '"dmi.pool"'


cdef class PyMalloc:
    """A C function to allocate with, made by WrapMalloc() in Cython."""

    cdef void _set(self, malloc_t malloc):
        self.malloc = malloc


cdef class PyFree:
    """A C function to free with, made by WrapFree() in Cython."""

    cdef void _set(self, free_t free):
        self.free = free


cdef PyMalloc WrapMalloc(malloc_t malloc):
    cdef PyMalloc made = PyMalloc()
    made._set(malloc)
    return made


cdef PyFree WrapFree(free_t free):
    cdef PyFree made = PyFree()
    made._set(free)
    return made


cdef void *default_malloc(size_t n) noexcept:
    return cdmi.dmi_malloc(n)


cdef void default_free(void *p) noexcept:
    cdmi.dmi_free(p)


Default_Malloc = WrapMalloc(<malloc_t>default_malloc)
Default_Free = WrapFree(<free_t>default_free)


@cython.no_gc_clear
cdef class Source:
    """The blocks of one Pool or Address, of a heap or of two functions. Not for Python.

    An object of its own, because the garbage collector clears a pool that is part of a cycle before
    the pool can give its blocks back; this one keeps its list to the end.
    """

    def __dealloc__(self):
        for block in self.addresses:
            self.give(<void *><uintptr_t>block)

    cdef void *take(self, size_t number, size_t elem_size) except NULL:
        """A zeroed block of number * elem_size bytes. MemoryError, also where that overflows."""
        cdef void *block = NULL
        cdef size_t size
        if WARN_ZERO_ALLOC and (number == 0 or elem_size == 0):
            warnings.warn("a block of zero bytes", stacklevel=2)
        if self.pymalloc is None:
            block = cdmi.dmi_heap_calloc(self._handle, number, elem_size)
        elif elem_size == 0 or number <= <size_t>-1 / elem_size:
            size = number * elem_size
            block = self.pymalloc.malloc(size)
            if block != NULL:
                memset(block, 0, size)
        if block == NULL:
            raise MemoryError(f"no memory for {number} times {elem_size} bytes")
        self.addresses[<uintptr_t>block] = number * elem_size
        self._blocks += 1
        if self._shared and self._blocks == 1:
            cdmi.dmi_heap_hold(self._handle, WHO)
        return block

    cdef void *grow(self, void *block, size_t size, size_t new_size) except NULL:
        """The block with another size. MemoryError leaves it as it was."""
        cdef void *moved
        if self.pymalloc is None:
            moved = cdmi.dmi_heap_realloc(self._handle, block, new_size)
        else:
            moved = self.pymalloc.malloc(new_size)
            if moved != NULL:
                memcpy(moved, block, min(size, new_size))
                self.pyfree.free(block)
        if moved == NULL:
            raise MemoryError(f"no memory for {new_size} bytes")
        if new_size > size:
            memset(<char *>moved + size, 0, new_size - size)
        return moved

    cdef int give(self, void *block) noexcept:
        """0, or the fault for which the heap refused the block."""
        cdef int fault = 0
        if self.pymalloc is not None:
            self.pyfree.free(block)
            return 0
        # Checked: after destroy(force=True) there is nothing left to give back.
        fault = cdmi.dmi_heap_free_checked(self._handle, block)
        self._blocks -= 1
        if self._shared and self._blocks == 0:
            cdmi.dmi_heap_unhold(self._handle, WHO)
        return fault


cdef Source source_of(object heap, PyMalloc pymalloc, PyFree pyfree):
    cdef Source source = Source.__new__(Source)
    source.addresses = {}
    if isinstance(heap, PyMalloc):
        # As cymem's callers write it: Pool(pymalloc, pyfree).
        if pymalloc is not None:
            raise TypeError("pymalloc was given twice")
        heap, pymalloc = None, heap
    if pymalloc is not None or pyfree is not None:
        if heap is not None:
            raise TypeError("give a heap, or pymalloc and pyfree, not both")
        if pymalloc is None or pyfree is None:
            # A block would go back to where it did not come from.
            raise TypeError("pymalloc and pyfree go together")
        source.pymalloc, source.pyfree = pymalloc, pyfree
    elif heap is None:
        source._handle = <void *><uintptr_t>default_handle()
    elif isinstance(heap, HeapCore):
        source._shared = not heap._info().is_default  # HeapError for a heap that is gone
        source._handle = <void *><uintptr_t>heap.handle
        source.heap = heap
    else:
        raise TypeError(f"heap must be a dmi.Heap or None, not {type(heap).__name__}")
    return source


cdef tuple functions_of(Source source):
    """What an object shows as its pymalloc and pyfree."""
    if source.heap is not None:
        return None, None
    if source.pymalloc is None:
        return Default_Malloc, Default_Free
    return source.pymalloc, source.pyfree


cdef class Pool:
    """Pool(heap=None): zeroed blocks of one heap, the default heap if none is given.

    Pool(pymalloc, pyfree): blocks of two C functions instead, as cymem has it.

    The blocks go back when the pool goes. The pool keeps a dmi.Heap alive, and as long as it has
    blocks it holds that heap, so that nobody destroys it (HeapError).

    size       bytes asked for and not given back
    addresses  {address: bytes} of the live blocks
    refs       objects that the pool keeps alive, see own_pyref()
    heap       the dmi.Heap, None for the process default heap
    pymalloc   the functions, those of the default heap where none were given, None on a dmi.Heap,
    pyfree     of which a function without context cannot know
    """

    def __cinit__(self, heap=None, PyFree pyfree=None, *, PyMalloc pymalloc=None):
        self.size = 0
        self.refs = []
        self._source = source_of(heap, pymalloc, pyfree)
        self.addresses = self._source.addresses
        self.pymalloc, self.pyfree = functions_of(self._source)

    @property
    def heap(self):
        """The dmi.Heap, None for the process default heap."""
        return self._source.heap

    cdef void *alloc(self, size_t number, size_t elem_size) except NULL:
        """A zeroed block of number * elem_size bytes. MemoryError, also where that overflows."""
        cdef void *block = self._source.take(number, elem_size)
        self.size += number * elem_size
        return block

    cdef void free(self, void *addr) except *:
        """Give a block back before the pool goes. KeyError if it is none of the pool's."""
        cdef size_t size = self.addresses.pop(<uintptr_t>addr)
        cdef int fault
        self.size -= size
        fault = self._source.give(addr)
        if fault:
            raise fault_error("free", self._source._handle, addr, fault)

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
        moved = self._source.grow(addr, size, new_size)
        del self.addresses[<uintptr_t>addr]
        self.addresses[<uintptr_t>moved] = new_size
        self.size += new_size
        self.size -= size
        return moved

    cpdef own_pyref(self, object py_ref):
        """Keep an object alive as long as the pool."""
        self.refs.append(py_ref)


cdef class Address:
    """Address(number, elem_size, heap=None): one zeroed block that lives as long as this object.

    Address(number, elem_size, pymalloc, pyfree): of two C functions instead, as cymem has it. In
    Cython `ptr` is the block; `addr` is its address.
    """

    def __cinit__(self, size_t number, size_t elem_size, heap=None, PyFree pyfree=None, *,
                  PyMalloc pymalloc=None):
        self.ptr = NULL
        self._source = source_of(heap, pymalloc, pyfree)
        self.pymalloc, self.pyfree = functions_of(self._source)
        self.ptr = self._source.take(number, elem_size)

    @property
    def addr(self):
        """The address of the block, an int."""
        return <uintptr_t>self.ptr

    @property
    def heap(self):
        """The dmi.Heap, None for the process default heap."""
        return self._source.heap
