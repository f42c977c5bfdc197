# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: subinterpreters_compatible=shared_gil, autotestdict=False
"""NumPy's data memory from a heap: the handler of NEP 49, without NumPy's headers.

What is needed of NumPy's C API are two functions whose places in its table are fixed and the struct
that NEP 49 lays down; both are found at run time, so dmi builds without NumPy.
"""

from cpython.mem cimport PyMem_RawCalloc, PyMem_RawFree
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport uint8_t, uintptr_t
from libc.string cimport memcpy

from dmi cimport cdmi
from dmi._faults cimport fault_error

from dmi._core import HeapCore

cdef extern from "Python.h":
    int Py_IsInitialized() nogil

cdef struct Allocator:
    void *ctx
    void *(*malloc)(void *ctx, size_t size) noexcept nogil
    void *(*calloc)(void *ctx, size_t count, size_t size) noexcept nogil
    void *(*realloc)(void *ctx, void *block, size_t size) noexcept nogil
    void (*free)(void *ctx, void *block, size_t size) noexcept nogil

# PyDataMem_Handler, version 1.
cdef struct Handler:
    char name[127]
    uint8_t version
    Allocator allocator
    # Behind what NumPy reads: the heap's object, which lives as long as any array needs it, and
    # how many blocks the arrays have.
    PyObject *heap
    void *handle
    long long blocks

cdef enum:
    HANDLER_VERSION = 1
    # Places in NumPy's table of functions, unchanged since 1.22.
    SET_HANDLER = 304
    GET_HANDLER = 305

ctypedef PyObject *(*SetHandler)(PyObject *handler) except NULL
ctypedef PyObject *(*GetHandler)() except NULL


cdef extern from *:
    """
    /* Arrays come and go on any thread, with the GIL or without. */
    static inline long long dmi_np_add(long long *count, long long n) {
        return __atomic_add_fetch(count, n, __ATOMIC_RELAXED);
    }
    """
    long long dmi_np_add(long long *count, long long n) noexcept nogil


# In whose name the heap is held while arrays have blocks of it.
cdef extern from *:
    const char *WHO '"dmi.numpy"'


cdef inline void *counted(Handler *handler, void *block) noexcept nogil:
    if block != NULL and dmi_np_add(&handler.blocks, 1) == 1:
        cdmi.dmi_heap_hold(handler.handle, WHO)
    return block


cdef void *handler_malloc(void *ctx, size_t size) noexcept nogil:
    cdef Handler *handler = <Handler *>ctx
    return counted(handler, cdmi.dmi_heap_malloc_checked(handler.handle, size if size else 1))


cdef void *handler_calloc(void *ctx, size_t count, size_t size) noexcept nogil:
    cdef Handler *handler = <Handler *>ctx
    return counted(handler, cdmi.dmi_heap_calloc(handler.handle, count, size))


cdef void *handler_realloc(void *ctx, void *block, size_t size) noexcept nogil:
    cdef Handler *handler = <Handler *>ctx
    cdef int fault
    if block == NULL:
        return counted(handler, cdmi.dmi_heap_malloc_checked(handler.handle, size if size else 1))
    fault = cdmi.dmi_heap_check(handler.handle, block)
    if fault:
        refused("realloc by NumPy", handler.handle, block, fault)
        return NULL
    return cdmi.dmi_heap_realloc(handler.handle, block, size)


cdef void handler_free(void *ctx, void *block, size_t size) noexcept nogil:
    # The size is what the array believes; the heap knows better.
    cdef Handler *handler = <Handler *>ctx
    cdef int fault
    if block == NULL:
        return
    fault = cdmi.dmi_heap_free_checked(handler.handle, block)
    if not fault and dmi_np_add(&handler.blocks, -1) == 0:
        cdmi.dmi_heap_unhold(handler.handle, WHO)
    if fault:
        refused("free by NumPy", handler.handle, block, fault)


cdef void refused(const char *call, void *handle, void *block, int fault) noexcept nogil:
    if fault != cdmi.DMI_FAULT_STALE_HEAP and Py_IsInitialized():
        report(call, handle, block, fault)


cdef void report(const char *call, void *handle, void *block, int fault) noexcept with gil:
    # noexcept: the error goes to sys.unraisablehook, for nobody can catch what a free raises.
    raise fault_error(call.decode(), handle, block, fault)


cdef extern from "Python.h":
    # For a capsule that is being torn down, which no reference may be taken of.
    void *pointer_of "PyCapsule_GetPointer"(PyObject *capsule, const char *name) noexcept
    ctypedef void (*Destructor "PyCapsule_Destructor")(PyObject *capsule) noexcept
    int set_destructor "PyCapsule_SetDestructor"(object capsule, Destructor destroy) except -1


cdef void release(PyObject *capsule) noexcept:
    cdef Handler *handler = <Handler *>pointer_of(capsule, "mem_handler")
    cdef PyObject *heap = handler.heap
    PyMem_RawFree(handler)
    Py_DECREF(<object>heap)


cdef void **table() except NULL:
    """NumPy's table of functions. ImportError without NumPy."""
    try:
        from numpy._core import _multiarray_umath as module
    except ModuleNotFoundError:
        from numpy.core import _multiarray_umath as module  # before NumPy 2
    return <void **>PyCapsule_GetPointer(module._ARRAY_API, NULL)


def make_handler(heap):
    """A capsule "mem_handler" whose arrays live on the heap; it keeps the heap alive."""
    cdef Handler *handler
    if not isinstance(heap, HeapCore):
        raise TypeError(f"heap must be a dmi.Heap, not {type(heap).__name__}")
    heap._info()  # HeapError for a heap that is gone
    handler = <Handler *>PyMem_RawCalloc(1, sizeof(Handler))
    if handler == NULL:
        raise MemoryError("no memory for a handler")
    memcpy(handler.name, b"dmi", 4)
    handler.version = HANDLER_VERSION
    handler.handle = <void *><uintptr_t>heap.handle
    handler.allocator.ctx = handler
    handler.allocator.malloc = handler_malloc
    handler.allocator.calloc = handler_calloc
    handler.allocator.realloc = handler_realloc
    handler.allocator.free = handler_free
    try:
        capsule = PyCapsule_New(handler, "mem_handler", NULL)
    except BaseException:
        PyMem_RawFree(handler)
        raise
    handler.heap = <PyObject *>heap
    Py_INCREF(heap)
    set_destructor(capsule, release)
    return capsule


def set_handler(capsule):
    """Make the handler NumPy's in this context; returns the one before. TypeError if it is none."""
    PyCapsule_GetPointer(capsule, "mem_handler")
    cdef PyObject *before = (<SetHandler>table()[SET_HANDLER])(<PyObject *>capsule)
    result = <object>before
    Py_DECREF(result)
    return result


def get_handler():
    """The handler that NumPy uses in this context."""
    cdef PyObject *now = (<GetHandler>table()[GET_HANDLER])()
    result = <object>now
    Py_DECREF(result)
    return result
