# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: subinterpreters_compatible=shared_gil, autotestdict=False
"""CPython's allocators, and the contexts that its allocations belong to.

Imports nothing of the package, so that a start-up file can load it alone.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.stdint cimport INT64_MAX, int64_t, uint64_t, uintptr_t
from libc.stdio cimport fflush, fprintf, stderr
from libc.string cimport memset

from dmi cimport cdmi

import sys
from contextvars import ContextVar

cdef extern from "_hook.h":
    """
    static inline int dmi_main_interpreter(void) {
        return PyInterpreterState_Get() == PyInterpreterState_Main();
    }
    static inline int dmi_interpreters(void) {
        int n = 0;
        PyInterpreterState *i = PyInterpreterState_Head();
        for (; i; i = PyInterpreterState_Next(i)) n++;
        return n;
    }
    /* PyPy and builds without the GIL have no allocators to change. */
    #if defined(Py_GIL_DISABLED)
    #define DMI_NO_GIL 1
    #else
    #define DMI_NO_GIL 0
    #endif
    """
    const int DMI_NO_GIL
    const int DMI_FOUND
    int dmi_main_interpreter()
    int dmi_interpreters()

    ctypedef struct PyMemAllocatorEx:
        void *ctx
        void *(*malloc)(void *ctx, size_t size) noexcept

    ctypedef struct dmi_scope:
        void *heap
        int64_t left
        uint64_t limit
        int hard
        int told
        uint64_t refused
        PyObject *owner

    ctypedef struct dmi_place:
        int there
        void *(*other_malloc)(void *other, size_t size) noexcept

    ctypedef struct PyThreadState:
        pass

    dmi_place *dmi_places
    void *dmi_process_heap
    PyObject *dmi_told_by_cpython
    void dmi_gone_add(void *heap)
    void *dmi_gone_take()
    dmi_scope *(*dmi_scope_of)(PyObject *value) noexcept
    int (*dmi_scope_tell)(void *owner) noexcept
    PyObject *dmi_scope_var
    PyThreadState *DMI_THREAD_STATE() nogil
    void dmi_look(PyThreadState *state)
    int dmi_descend(int domain, int traced, dmi_place *place, PyMemAllocatorEx *outer,
                    PyMemAllocatorEx *found, PyMemAllocatorEx **inside, int *debug)
    const char *dmi_whose(PyMemAllocatorEx *)
    void dmi_install(int domain, PyMemAllocatorEx *before, PyMemAllocatorEx *inside)
    void dmi_put(int domain, PyMemAllocatorEx *inside, int scoped)
    void dmi_put_malloc(int domain, PyMemAllocatorEx *inside,
                        void *(*function)(void *, size_t) noexcept)
    int dmi_is_malloc()

cdef extern from "dmi/door.h" nogil:
    int dmi_door_set(void *heap)
    void *dmi_door_heap()

# As CPython numbers them.
DOMAINS = {"raw": 0, "mem": 1, "obj": 2}
FREE_THREADED = bool(DMI_NO_GIL)


def is_main_interpreter():
    """Whether the caller runs in the process's first interpreter."""
    return bool(dmi_main_interpreter())


def interpreters():
    """How many interpreters the process has."""
    return dmi_interpreters()


def is_preloaded():
    """Whether malloc is dmi's in this process."""
    return bool(dmi_is_malloc())


def make_heap(bytes name):
    """A heap for Python's objects, for the life of the process; its handle."""
    cdef cdmi.dmi_heap_options options
    memset(&options, 0, sizeof(options))
    options.size = sizeof(options)
    options.name = name
    cdef void *handle = cdmi.dmi_heap_create(&options)
    if handle == NULL:
        raise MemoryError("no memory for a heap")
    return <uintptr_t>handle


def hold(handle):
    """Keep a heap from being destroyed, for the life of the process."""
    if cdmi.dmi_heap_hold(<void *><uintptr_t>handle, "dmi.python"):
        raise ValueError("the heap was destroyed")


def installed():
    """The domains that dmi serves, in CPython's order."""
    return [name for name, domain in DOMAINS.items() if dmi_places[domain].there]


def process_heap():
    """The handle of the heap of threads that are in no context."""
    return <uintptr_t>dmi_process_heap


def destroy(handle):
    """Destroy an empty heap that no thread can enter."""
    cdmi.dmi_heap_destroy(<void *><uintptr_t>handle)


def heap_now():
    """The handle of the heap that this thread allocates from; 0 before install()."""
    return <uintptr_t>dmi_door_heap()


def look(str domain, bint traced):
    """(state, debug, whose) of a domain's allocator: "bottom", "door" or "unknown"."""
    cdef PyMemAllocatorEx outer, found
    cdef PyMemAllocatorEx *inside = NULL
    cdef int debug = 0
    cdef dmi_place *place = &dmi_places[DOMAINS[domain]]
    cdef int result = dmi_descend(DOMAINS[domain], traced, place, &outer, &found, &inside, &debug)
    whose = dmi_whose(&outer).decode(errors="replace")
    if result != DMI_FOUND:
        return "unknown", bool(debug), whose
    return ("door" if found.ctx == <void *>place else "bottom"), bool(debug), whose


def put(domains, heap, bint traced):
    """Serve the domains from the heap with that handle. look() said that it can be done."""
    cdef PyMemAllocatorEx outer, found
    cdef PyMemAllocatorEx *inside
    cdef int debug, domain
    global dmi_process_heap
    if dmi_door_set(<void *><uintptr_t>heap):
        raise ValueError("the heap was destroyed")
    dmi_process_heap = <void *><uintptr_t>heap
    for name in domains:
        domain = DOMAINS[name]
        if dmi_descend(domain, traced, &dmi_places[domain], &outer, &found, &inside, &debug):
            raise RuntimeError(f"{name} has another tool's allocator")
        if found.ctx != <void *>&dmi_places[domain]:
            dmi_install(domain, &found, inside)
    tell_of_both()


# ---- what CPython tells --------------------------------------------------------------------------

cdef tell_of_both():
    """Have sys._debugmallocstats() show what lies with CPython, and what with dmi."""
    global dmi_told_by_cpython
    found = getattr(sys, "_debugmallocstats", None)
    if dmi_places[2].there and found is not None and dmi_told_by_cpython == NULL:
        Py_INCREF(found)
        dmi_told_by_cpython = <PyObject *>found
        sys._debugmallocstats = _debugmallocstats


def _debugmallocstats():
    """Print debug info to stderr about the state of CPython's and dmi's allocators."""
    cdef PyMemAllocatorEx outer, found
    cdef PyMemAllocatorEx *inside = NULL
    cdef int debug = 0
    cdef dmi_place *place = &dmi_places[2]
    if dmi_told_by_cpython == NULL:
        raise RuntimeError("objects are not on dmi: sys._debugmallocstats() is CPython's own")
    told_by_cpython = <object>dmi_told_by_cpython
    # Beneath tracemalloc CPython tells of its allocator no more than without dmi.
    if dmi_descend(2, False, place, &outer, &found, &inside, &debug) == DMI_FOUND and (
            found.ctx == <void *>place):
        dmi_put_malloc(2, inside, place.other_malloc)
        try:
            told_by_cpython()
        finally:
            dmi_put_malloc(2, inside, found.malloc)
    else:
        told_by_cpython()
    tell_of_heaps()


cdef tell_of_heaps():
    """A row for each of dmi's heaps, where CPython's own lines go."""
    cdef void *handles[64]
    cdef cdmi.dmi_heap_info info
    cdef cdmi.dmi_stats stats
    cdef size_t there = cdmi.dmi_heap_list(handles, 64)
    fprintf(stderr, "\nHeaps of dmi, bytes:\n%-32s%14s%14s%14s%14s\n", b"name", b"blocks", b"busy",
            b"retained", b"committed")
    for index in range(min(there, <size_t>64)):
        info.size = sizeof(info)
        stats.size = sizeof(stats)
        # A heap may go meanwhile.
        if (cdmi.dmi_heap_get_info(handles[index], &info) or
                cdmi.dmi_heap_stats(handles[index], &stats, 0)):
            continue
        fprintf(stderr, "%-32s%14llu%14llu%14llu%14llu\n", info.name,
                <unsigned long long>stats.busy_blocks, <unsigned long long>stats.busy,
                <unsigned long long>(stats.committed - stats.busy),
                <unsigned long long>stats.committed)
    if there > 64:
        fprintf(stderr, "and %zu more\n", there - 64)
    fflush(stderr)


# ---- contexts ------------------------------------------------------------------------------------

cdef class Scope:
    """A heap that allocations of a context come from, with its limit."""

    cdef dmi_scope scope
    cdef readonly object name
    cdef public object on_limit
    cdef object __weakref__

    def __init__(self, name, handle, limit=0, bint hard=False, on_limit=None):
        self.name = name
        self.on_limit = on_limit
        self.scope.heap = <void *><uintptr_t>handle
        self.scope.owner = <PyObject *>self
        self.set_limit(limit, hard)

    def __dealloc__(self):
        if self.name is None and self.scope.heap != NULL:
            dmi_gone_add(self.scope.heap)

    def set_limit(self, limit, bint hard):
        """Bytes busy; 0 for none. hard: MemoryError beyond it."""
        self.scope.limit = limit
        self.scope.hard = hard
        self.scope.told = False
        # The next allocation looks what there is.
        self.scope.left = 0 if limit else INT64_MAX

    @property
    def handle(self):
        """The heap's."""
        return <uintptr_t>self.scope.heap

    @property
    def limit(self):
        """Bytes; 0 for none."""
        return self.scope.limit

    @property
    def refused(self):
        """How often there was no memory because of the limit."""
        return self.scope.refused


cdef dmi_scope *scope_of(PyObject *value) noexcept:
    return &(<Scope>value).scope


cdef int tell(void *owner) noexcept:
    scope = <Scope>owner
    Py_DECREF(scope)  # the pending call's
    try:
        if scope.on_limit is not None:
            scope.on_limit()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    return 0


def left_heaps():
    """The heaps of scopes that went since the last call; nothing can enter them any more."""
    found = []
    while (heap := <uintptr_t>dmi_gone_take()) != 0:
        found.append(heap)
    return found


current = ContextVar("dmi.python.heap")


def follow_contexts(bint traced):
    """From now on look at each allocation which context it belongs to."""
    global dmi_scope_var, dmi_scope_of, dmi_scope_tell
    cdef PyMemAllocatorEx outer, found
    cdef PyMemAllocatorEx *places[3]
    cdef int debug, domain
    if dmi_scope_var != NULL:
        return
    for domain in (1, 2):
        if dmi_places[domain].there and (
            dmi_descend(domain, traced, &dmi_places[domain], &outer, &found, &places[domain],
                        &debug) or found.ctx != <void *>&dmi_places[domain]):
            raise RuntimeError(
                "contexts cannot be followed while another tool's allocator hooks are in place: "
                + dmi_whose(&outer).decode(errors="replace"))
    Py_INCREF(current)
    dmi_scope_var = <PyObject *>current
    dmi_scope_of = scope_of
    dmi_scope_tell = tell
    sync()
    for domain in (1, 2):
        if dmi_places[domain].there:
            dmi_put(domain, places[domain], True)


def sync():
    """The context variable was set: allocate accordingly."""
    dmi_look(DMI_THREAD_STATE())
