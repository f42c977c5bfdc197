# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: subinterpreters_compatible=shared_gil, autotestdict=False
"""The thin layer between Python and libdmi: heaps, blocks, and plain calls.

What a number means and how it is shown is decided in the modules above; this one converts,
checks, and turns faults into exceptions. Calls that can take long release the GIL, but for heaps
made with thread_safe=False, whose only lock the GIL is.
"""

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.object cimport PyTypeObject
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport Py_INCREF, Py_XDECREF, PyObject
from libc.errno cimport EAGAIN, EBUSY, EEXIST, EINVAL, ENOMEM, ENOSYS, errno
from libc.stdint cimport uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy, memset, strerror

cimport cython

from dmi cimport cdmi
from dmi._faults cimport fault_error, heap_name

import operator

from dmi._faults import NO_PRESSURE as _NO_PRESSURE
from dmi._records import HeapFields as _HeapFields, PolicyFields as _PolicyFields
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
    size_t dmi_fast_size(PyObject *o) noexcept

cdef extern from "Python.h":
    object PyLong_FromVoidPtr(void *p)
    PyThreadState *PyEval_SaveThread() nogil
    void PyEval_RestoreThread(PyThreadState *state) nogil
    int Py_IsInitialized() nogil
    int METH_FASTCALL, METH_KEYWORDS
    ctypedef struct PyMethodDef:
        void *ml_meth
        int ml_flags
    ctypedef struct PyMethodDescrObject:
        PyMethodDef *d_method
    object PyDescr_NewMethod(PyTypeObject *type, PyMethodDef *method)


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

# The C API for other extensions; see dmi/capi.h.
_C_API = PyCapsule_New(<void *>&dmi_py_capi, DMI_CAPI_NAME, NULL)


# ---- heaps -----------------------------------------------------------------------------------

# In whose name a heap is held: by the object that made it; by Blocks of one made elsewhere.
cdef extern from *:
    const char *OWNER '"dmi.Heap"'
    const char *BLOCKS '"dmi.Block"'


cdef inline void block_gone(HeapCore heap) noexcept:
    if heap._blocks:
        heap._blocks -= 1


cdef inline void object_made(HeapCore heap) noexcept:
    heap._objects += 1
    if heap._view and heap._objects == 1:
        cdmi.dmi_heap_hold(heap._handle, BLOCKS)


cdef inline void object_gone(HeapCore heap) noexcept:
    block_gone(heap)
    heap._objects -= 1
    if heap._view and heap._objects == 0:
        cdmi.dmi_heap_unhold(heap._handle, BLOCKS)


cdef class HeapCore:
    """The native half of dmi.Heap. It owns the heap unless it was made by _attach()."""

    def __cinit__(self, *args, **kwargs):
        self._handle = <void *>UNOPENED
        Py_INCREF(Block)
        self._block_type = <PyObject *>Block

    def _open(self, bytes name, size_t max_size, uint32_t flags, object policy not None,
              uint32_t lfh_live=0, uint32_t lfh_total=0, double huge_split=0,
              uint64_t guard=0):
        """Make a new heap. Once for an object."""
        cdef cdmi.dmi_heap_options options
        cdef cdmi.dmi_policy native
        if self._handle != <void *>UNOPENED:
            raise HeapError("the heap is open already")
        policy_from_fields(&native, policy)
        memset(&options, 0, sizeof(options))
        options.size = sizeof(options)
        options.flags = flags
        options.max_size = max_size
        if name is not None:
            options.name = name
        options.policy = &native
        options.lfh_live = lfh_live
        options.lfh_total = lfh_total
        options.huge_split = huge_split
        options.guard = guard
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
            if error == EEXIST:
                raise OSError(error, "no new heap: another copy of dmi serves this process")
            if flags & cdmi.DMI_HEAP_HARDENED and error in (EAGAIN, ENOSYS):
                raise OSError(
                    error, "no hardened heap: the system gives no random bytes for its keys"
                )
            raise OSError(error, f"no new heap: {reason}")
        self._handle = handle
        self._owner = True
        cdmi.dmi_heap_hold(handle, OWNER)
        self._max_size = max_size
        self._no_serialize = flags & cdmi.DMI_HEAP_NO_SERIALIZE != 0

    def _attach(self, handle):
        """Look at a heap that somebody else owns; it is not destroyed with this object."""
        cdef cdmi.dmi_heap_info info
        if self._handle != <void *>UNOPENED:
            raise HeapError("the heap is open already")
        memset(&info, 0, sizeof(info))
        info.size = sizeof(info)
        if cdmi.dmi_heap_get_info(<void *><uintptr_t>handle, &info) != 0:
            raise HeapError(f"heap {handle:#x} was destroyed", fault="stale heap")
        self._handle = <void *><uintptr_t>handle
        self._view = not info.is_default
        self._max_size = info.max_size
        self._no_serialize = info.flags & cdmi.DMI_HEAP_NO_SERIALIZE != 0

    def __dealloc__(self):
        # At exit as at any other time: nothing but the library is touched here. A heap that other
        # code holds or has blocks in outlives its object; dmi.heaps() still lists it.
        if self._owner and self._handle != <void *>UNOPENED:
            cdmi.dmi_heap_unhold(self._handle, OWNER)
            if self.strangers() == 0:
                cdmi.dmi_heap_destroy(self._handle)
        Py_XDECREF(self._block_type)

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

    def _close(self, bint force=False):
        """Destroy the heap with all its blocks. BufferError while a Block has a live buffer.

        HeapError while other code holds it or has blocks in it, unless force is true.
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
        if force:
            failed = cdmi.dmi_heap_destroy_force(self._handle)
        else:
            others = self.strangers()
            if others:
                self.refuse(others)
            cdmi.dmi_heap_unhold(self._handle, OWNER)
            failed = cdmi.dmi_heap_destroy(self._handle)
        if failed:
            error = errno
            if cdmi.dmi_heap_hold(self._handle, OWNER) == 0 and error == EBUSY:
                self.refuse(0)
            raise HeapError(f"{heap_name(self._handle)} cannot be destroyed: "
                            f"{strerror(error).decode()}")
        self._owner = False

    cdef int refuse(self, uint64_t others) except -1:
        """Say why the heap is not destroyed: holders, and busy blocks of others."""
        reasons = [f"{who} holds it" + (f" {times} times" if times > 1 else "")
                   for who, times in self.holders().items() if who != OWNER.decode()]
        if others:
            reasons.append(f"{others} of its busy blocks belong to other code (a C extension, "
                           "NumPy or cffi)")
        raise HeapError(f"{heap_name(self._handle)} cannot be destroyed: {'; '.join(reasons)}. "
                        "Free them first, or destroy(force=True) if nothing will touch them again")

    def holders(self):
        """{name: times} of all who keep the heap from being destroyed; "dmi.Heap" is the object
        that made it, "dmi.Block" the Blocks of one made elsewhere."""
        cdef char who[64]
        cdef uint64_t holds = 0
        cdef size_t i = 0
        self.need()
        found = {}
        while cdmi.dmi_heap_holder(self._handle, i, who, sizeof(who), &holds) == 0:
            found[(<bytes>who).decode("utf-8", "replace")] = holds
            i += 1
        return found

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

    def _info(self):
        """The HeapFields."""
        cdef cdmi.dmi_heap_info info
        self.need()
        memset(&info, 0, sizeof(info))
        info.size = sizeof(info)
        if cdmi.dmi_heap_get_info(self._handle, &info) != 0:
            raise HeapError(f"heap {<uintptr_t>self._handle:#x} was destroyed",
                            fault="stale heap")
        return _HeapFields(info.name.decode("utf-8", "replace"), info.flags, info.max_size,
                           bool(info.is_default), info.clock,
                           policy_to_fields(_PolicyFields, &info.policy), info.huge_split,
                           info.guard)

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
        cdef size_t n = dmi_fast_size(<PyObject *>size)
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
        cdef void *block = <void *>dmi_fast_size(<PyObject *>address)
        cdef int fault
        if block == NULL:
            block = self.fast_address(address, "address")
            if block == NULL:
                return
        fault = cdmi.dmi_heap_free_checked(self._handle, block)
        if fault:
            raise fault_error("free", self._handle, block, fault)
        block_gone(self)

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

    def hand_over(self, address, /):
        """Leave a raw block to other code: from now on it is not this object's.

        It keeps destroy() from taking the heap, until the other code frees it. HeapError if it is
        no busy block of this heap.
        """
        self.check(address)
        block_gone(self)

    def take_over(self, address, /):
        """Take a raw block of other code's: from now on it is this object's, like one of malloc().

        HeapError if it is no busy block of this heap.
        """
        self.check(address)
        self._blocks += 1

    # ---- blocks ------------------------------------------------------------------------------

    def alloc(self, size, *, align=None):
        """Allocate a Block of size bytes, uninitialised; align is a power of two, in bytes."""
        return make_block(self, self.size_of(size, "size"), align_of(align), False)

    def calloc(self, size, *, align=None):
        """Allocate a Block of size zero bytes; align is a power of two, in bytes."""
        return make_block(self, self.size_of(size, "size"), align_of(align), True)


def own_calls(cls):
    """Give a subclass of HeapCore the fast calls as methods of its own; returns the class.

    The interpreter calls a C method directly only where the object's type is exactly the one that
    the method was made for; inherited, h.malloc + h.free take half as long again.
    """
    if not issubclass(cls, HeapCore):
        raise TypeError("the class must be a subclass of HeapCore")
    for name in ("malloc", "free", "alloc", "calloc"):
        first = next(base for base in cls.__mro__ if name in base.__dict__)
        ours = HeapCore.__dict__[name]
        found = first.__dict__[name]
        # Only what is still the native call: an override stays what it is.
        if first is not cls and type(found) is type(ours) and same_method(found, ours):
            method = (<PyMethodDescrObject *>ours).d_method
            setattr(cls, name, PyDescr_NewMethod(<PyTypeObject *>cls, method))
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


cdef extern from *:
    """
    /* Objects of Block come and go: a few are kept. Cython's own list is found through the
     * interpreter, which costs more than all the rest. This one is the main interpreter's; others
     * may have an allocator of their own. */
    #ifndef Py_GIL_DISABLED
    #define DMI_KEPT 64
    static PyObject *dmi_kept[DMI_KEPT];
    static size_t dmi_kept_count;

    static PyObject *dmi_kept_alloc(PyTypeObject *type, Py_ssize_t items) {
        if (dmi_kept_count == 0) return PyType_GenericAlloc(type, items);
        PyObject *o = dmi_kept[--dmi_kept_count];
        memset(o + 1, 0, (size_t)type->tp_basicsize - sizeof *o);
        PyObject_Init(o, type);
        PyObject_GC_Track(o);
        return o;
    }
    static void dmi_kept_free(void *o) {
        if (dmi_kept_count == DMI_KEPT) PyObject_GC_Del(o);
        else dmi_kept[dmi_kept_count++] = (PyObject *)o;
    }
    static inline void dmi_keep_objects(PyObject *type) {
        if (PyInterpreterState_Get() != PyInterpreterState_Main()) return;
        ((PyTypeObject *)type)->tp_alloc = dmi_kept_alloc;
        ((PyTypeObject *)type)->tp_free = dmi_kept_free;
    }
    #else
    static inline void dmi_keep_objects(PyObject *type) { (void)type; }
    #endif

    /* type.__new__(type), for a native type whose __new__ looks at no arguments. */
    static inline PyObject *dmi_make_object(PyObject *type) {
        return ((PyTypeObject *)type)->tp_new((PyTypeObject *)type, NULL, NULL);
    }

    /* What the doors below lead to, in every interpreter. */
    static _PyCFunctionFastWithKeywords dmi_whole_alloc, dmi_whole_calloc;
    """
    void dmi_keep_objects(PyObject *type)
    object dmi_make_object(PyObject *type)
    ctypedef object (*FastMethod "_PyCFunctionFastWithKeywords")(
        PyObject *self, PyObject **args, Py_ssize_t nargs, PyObject *names)
    FastMethod dmi_whole_alloc
    FastMethod dmi_whole_calloc


cdef inline Block new_block(HeapCore heap):
    """An object without a block; first, so that nothing can fail once there is one."""
    return <Block>dmi_make_object(heap._block_type)


cdef inline Block filled(Block block, HeapCore heap, void *address, size_t size, size_t align):
    block._heap = heap
    block._address = address
    block._size = size
    block._align = align
    object_made(heap)
    return block


cdef Block make_block(HeapCore heap, size_t size, size_t align, bint zero):
    cdef Block block = new_block(heap)
    return filled(block, heap, allocate(heap, size, align, zero), size, align)


# The doors of alloc() and calloc(): a call with nothing but a good size needs no look at keywords.
# All others, and those for which there is no memory, go on to the method itself.

cdef inline object through(HeapCore heap, PyObject **args, Py_ssize_t nargs, PyObject *names,
                           bint zero, FastMethod whole):
    cdef size_t size
    cdef void *address
    cdef Block block
    if nargs == 1 and names == NULL:
        size = dmi_fast_size(args[0])
        if size - 1 < <size_t>1 << ADDRESS_BITS:
            block = new_block(heap)
            if zero:
                address = cdmi.dmi_heap_calloc(heap._handle, 1, size)
            else:
                address = cdmi.dmi_heap_malloc_checked(heap._handle, size)
            if address != NULL:
                heap._blocks += 1
                return filled(block, heap, address, size, 0)
    return whole(<PyObject *>heap, args, nargs, names)


cdef object alloc_door(PyObject *heap, PyObject **args, Py_ssize_t nargs, PyObject *names):
    return through(<HeapCore>heap, args, nargs, names, False, dmi_whole_alloc)


cdef object calloc_door(PyObject *heap, PyObject **args, Py_ssize_t nargs, PyObject *names):
    return through(<HeapCore>heap, args, nargs, names, True, dmi_whole_calloc)


cdef FastMethod put_door(str name, FastMethod door, FastMethod behind):
    """Put a door before a method of HeapCore; returns what is behind it.

    The table of methods is one for all interpreters, so it may stand there already.
    """
    cdef PyMethodDef *method = (<PyMethodDescrObject *>HeapCore.__dict__[name]).d_method
    if method.ml_meth == <void *>door or method.ml_flags != METH_FASTCALL | METH_KEYWORDS:
        return behind
    behind = <FastMethod>method.ml_meth
    method.ml_meth = <void *>door
    return behind


@cython.final
@cython.no_gc_clear
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
            object_gone(self._heap)
        # An overflow found here must not pass in silence; a heap that is gone took the block along.
        if fault and fault != cdmi.DMI_FAULT_STALE_HEAP and Py_IsInitialized():
            self._report(fault)

    cdef void _report(self, int fault) noexcept:
        # noexcept: the error goes to sys.unraisablehook.
        raise fault_error("free", self._heap._handle, self._address, fault)

    cdef int _need(self, const char *what) except -1:
        if self._address == NULL:
            raise HeapError(f"{what.decode()}: the block was freed", fault="free")
        self._heap.need()
        return 0

    cdef int _unshared(self, const char *what) except -1:
        if self._exports:
            raise BufferError(f"{what.decode()}: buffers of the block at "
                              f"{<uintptr_t>self._address:#x} are still exported: {self._exports}")
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
        cdef void *address = self._address
        if address == NULL or self._exports:
            self._need("free")
            self._unshared("free")
        fault = cdmi.dmi_heap_free_checked(self._heap._handle, address)
        if fault == cdmi.DMI_FAULT_STALE_HEAP:
            self._heap.need()
        # Whatever was wrong with it, the block is not to be touched through this object again.
        self._address = NULL
        if fault:
            raise fault_error("free", self._heap._handle, address, fault)
        object_gone(self._heap)

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
            block_gone(self._heap)
            return
        moved = cdmi.dmi_heap_realloc(self._heap._handle, self._address, n)
        if moved == NULL:
            self._heap.no_memory(n)
        self._address = moved
        self._size = n


dmi_keep_objects(<PyObject *>Block)
dmi_whole_alloc = put_door("alloc", <FastMethod>alloc_door, dmi_whole_alloc)
dmi_whole_calloc = put_door("calloc", <FastMethod>calloc_door, dmi_whole_calloc)
