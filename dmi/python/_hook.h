/* _hook.h - where CPython's allocators are changed, and what its allocations pass through.
 *
 * An allocator of CPython may be wrapped: by tracemalloc, by the debug hooks, by both. Their contexts hold the
 * allocator beneath, so a door is put in there and the wrappers stay outermost. Only those two are known; beneath
 * another tool's hooks nothing is put, for that tool would take the door out again with the blocks still there.
 *
 * Everything here wants the GIL, except what an allocation passes through: that has it by CPython's own rule in the
 * domains mem and obj.
 */
#ifndef DMI_PYTHON_HOOK_H
#define DMI_PYTHON_HOOK_H

#include <Python.h>
#include <dlfcn.h>
#include <dmi/door.h>

/* ---- contexts --------------------------------------------------------------------------------------------- */

/* A context: a heap, and what may still be allocated before its limit is looked at again. */
typedef struct dmi_scope {
    void *heap; /* NULL: the process's */
    int64_t left;
    uint64_t limit; /* bytes busy; 0: none */
    int hard;       /* MemoryError; else the callback is told */
    int told;
    uint64_t refused; /* how often there was no memory because of the limit */
    PyObject *owner;  /* the Scope, borrowed */
} dmi_scope;

static dmi_scope dmi_no_scope = {.left = INT64_MAX};
static PyObject *dmi_scope_var;                      /* the context variable; owned */
static dmi_scope *(*dmi_scope_of)(PyObject *value);  /* of a value of that variable */
static int (*dmi_scope_tell)(void *owner);           /* a pending call; takes over a reference */

/* What this thread saw of the context variable, and when. */
typedef struct dmi_seen {
    uint64_t id, version; /* of the thread state and of its context */
    dmi_scope *scope;
} dmi_seen;
static __attribute__((tls_model("initial-exec"))) _Thread_local dmi_seen dmi_seen_now;

#if PY_VERSION_HEX >= 0x030d0000
#define DMI_THREAD_STATE PyThreadState_GetUnchecked
#else
#define DMI_THREAD_STATE _PyThreadState_UncheckedGet
#endif

/* Look the variable up. It allocates nothing: the variable is found in a tree by its own hash. */
static __attribute__((noinline)) void dmi_look(PyThreadState *state) {
    PyObject *value = NULL;
    dmi_scope *scope = &dmi_no_scope;
    dmi_seen_now.id = state->id;
    dmi_seen_now.version = state->context_ver;
    /* Of a sub-interpreter the variable is not. */
    if (state->interp == PyInterpreterState_Main() &&
        PyContextVar_Get(dmi_scope_var, NULL, &value) == 0 && value) {
        scope = dmi_scope_of(value);
        Py_DECREF(value); /* the context has it still */
    }
    dmi_seen_now.scope = scope;
    (void)dmi_door_enter(scope->heap);
}

/* So much was allocated that the limit may be reached. 0: no memory. */
static __attribute__((noinline)) int dmi_look_at_limit(dmi_scope *scope) {
    dmi_stats stats = {.size = sizeof stats};
    if (!scope->limit || dmi_heap_stats(scope->heap, &stats, 0)) {
        scope->left = INT64_MAX;
        return 1;
    }
    uint64_t step = scope->limit / 16 + 1;
    if (stats.busy < scope->limit) {
        uint64_t room = scope->limit - stats.busy;
        scope->left = (int64_t)(room > scope->limit / 256 ? room : scope->limit / 256);
        if (room > scope->limit / 8) scope->told = 0;
        return 1;
    }
    /* Whoever deals with it needs some memory himself. */
    scope->left = (int64_t)step;
    if (scope->hard) {
        scope->refused++;
        return 0;
    }
    if (!scope->told) {
        Py_INCREF(scope->owner);
        if (Py_AddPendingCall(dmi_scope_tell, scope->owner) == 0) scope->told = 1;
        else Py_DECREF(scope->owner); /* the queue is full: at the next step */
    }
    return 1;
}

static inline int dmi_scoped(size_t size) {
    PyThreadState *state = DMI_THREAD_STATE();
    if (__builtin_expect(!state, 0)) return 1;
    if (__builtin_expect(state->id != dmi_seen_now.id || state->context_ver != dmi_seen_now.version, 0))
        dmi_look(state);
    dmi_scope *scope = dmi_seen_now.scope;
    return __builtin_expect((scope->left -= (int64_t)size) >= 0, 1) || dmi_look_at_limit(scope);
}

static void *dmi_scoped_malloc(void *door, size_t size) {
    return dmi_scoped(size) ? dmi_door_malloc(door, size) : NULL;
}
static void *dmi_scoped_calloc(void *door, size_t count, size_t size) {
    return dmi_scoped(count * size) ? dmi_door_calloc(door, count, size) : NULL;
}
static void *dmi_scoped_realloc(void *door, void *block, size_t size) {
    return dmi_scoped(size) ? dmi_door_realloc(door, block, size) : NULL;
}

/* Heaps of scopes without a name that went; the GIL guards them. One that there is no memory to note is lost. */
static void **dmi_gone;
static size_t dmi_gone_count, dmi_gone_room;

static void dmi_gone_add(void *heap) {
    if (dmi_gone_count == dmi_gone_room) {
        size_t room = dmi_gone_room ? 2 * dmi_gone_room : 16;
        void **more = PyMem_RawRealloc(dmi_gone, room * sizeof *more);
        if (!more) return;
        dmi_gone = more;
        dmi_gone_room = room;
    }
    dmi_gone[dmi_gone_count++] = heap;
}
static void *dmi_gone_take(void) {
    return dmi_gone_count ? dmi_gone[--dmi_gone_count] : NULL;
}

/* ---- the places ------------------------------------------------------------------------------------------- */

#define DMI_DOMAINS 3
typedef struct dmi_place {
    dmi_door door;
    int there;
    void *(*other_malloc)(void *other, size_t size);
} dmi_place;
static dmi_place dmi_places[DMI_DOMAINS];
static void *dmi_process_heap;            /* of threads that are in no context */
static PyObject *dmi_told_by_cpython;     /* sys._debugmallocstats, CPython's own; owned */

static PyMemAllocatorEx dmi_door_functions(dmi_place *place, int scoped) {
    PyMemAllocatorEx made = {&place->door, dmi_door_malloc, dmi_door_calloc, dmi_door_realloc,
                             dmi_door_free};
    if (scoped) {
        made.malloc = dmi_scoped_malloc;
        made.calloc = dmi_scoped_calloc;
        made.realloc = dmi_scoped_realloc;
    }
    return made;
}

/* Does the function belong to the interpreter itself? */
static int dmi_is_python(void *function) {
    Dl_info it, ours;
    return dladdr(function, &it) && dladdr((void *)PyObject_Malloc, &ours) &&
           it.dli_fbase == ours.dli_fbase;
}

/* What the debug hooks' context looks like in every CPython since 3.6. */
typedef struct dmi_debug_context {
    char domain;
    PyMemAllocatorEx beneath;
} dmi_debug_context;

static int dmi_is_bottom(const PyMemAllocatorEx *a) {
    return !a->ctx && a->malloc && a->calloc && a->realloc && a->free &&
           dmi_is_python((void *)a->malloc);
}
static int dmi_is_door(const PyMemAllocatorEx *a, const dmi_place *place) {
    return a->ctx == &place->door;
}

enum { DMI_FOUND = 0, DMI_UNKNOWN = 1 };

/* Find the allocator of the domain that is beneath the known wrappers. *inside is where it stands, NULL: it is the
 * domain's own. *debug: the debug hooks are among the wrappers. *outer is the outermost. */
static int dmi_descend(int domain, int traced, const dmi_place *place, PyMemAllocatorEx *outer,
                       PyMemAllocatorEx *found, PyMemAllocatorEx **inside, int *debug) {
    static const char letters[DMI_DOMAINS] = {'r', 'm', 'o'};
    PyMem_GetAllocator((PyMemAllocatorDomain)domain, outer);
    *found = *outer;
    *inside = NULL;
    *debug = 0;
    for (int depth = 0; depth < 3; depth++) {
        if (dmi_is_bottom(found) || dmi_is_door(found, place)) return DMI_FOUND;
        if (!found->ctx) return DMI_UNKNOWN;
        dmi_debug_context *hooks = found->ctx;
        if (dmi_is_python((void *)found->malloc) && hooks->domain == letters[domain] &&
            (dmi_is_bottom(&hooks->beneath) || dmi_is_door(&hooks->beneath, place))) {
            *debug = 1;
            *inside = &hooks->beneath;
        } else if (traced) {
            /* tracemalloc's context is the allocator beneath. */
            Dl_info it;
            if (!dladdr((void *)found->malloc, &it)) return DMI_UNKNOWN;
            if (!dmi_is_python((void *)found->malloc) &&
                !(it.dli_fname && strstr(it.dli_fname, "_tracemalloc")))
                return DMI_UNKNOWN;
            *inside = found->ctx;
            traced = 0;
        } else {
            return DMI_UNKNOWN;
        }
        *found = **inside;
    }
    return DMI_UNKNOWN;
}

static const char *dmi_whose(const PyMemAllocatorEx *a) {
    Dl_info it;
    return dladdr((void *)a->malloc, &it) && it.dli_fname ? it.dli_fname : "code of an unknown library";
}

static void dmi_put(int domain, PyMemAllocatorEx *inside, int scoped) {
    PyMemAllocatorEx ours = dmi_door_functions(&dmi_places[domain], scoped);
    if (inside) *inside = ours;
    else PyMem_SetAllocator((PyMemAllocatorDomain)domain, &ours);
}

static void dmi_install(int domain, const PyMemAllocatorEx *before, PyMemAllocatorEx *inside) {
    dmi_place *place = &dmi_places[domain];
    place->door.size = sizeof place->door;
    place->door.other = before->ctx;
    place->door.other_realloc = before->realloc;
    place->door.other_free = before->free;
    place->other_malloc = before->malloc;
    place->there = 1;
    dmi_put(domain, inside, 0);
}

/* CPython says what its own allocator holds only while that allocator's malloc stands in the domain. So it is put there
 * for that time, and nothing else of the door is taken away: what is allocated meanwhile, by an interpreter with a GIL
 * of its own too, comes from the allocator of before, which has no context that it would look at, and is freed through
 * the door as every old block. */
static void dmi_put_malloc(int domain, PyMemAllocatorEx *inside, void *(*function)(void *, size_t)) {
    PyMemAllocatorEx all;
    if (inside) {
        inside->malloc = function;
        return;
    }
    PyMem_GetAllocator((PyMemAllocatorDomain)domain, &all);
    all.malloc = function;
    PyMem_SetAllocator((PyMemAllocatorDomain)domain, &all);
}

/* Is a library preloaded that serves malloc itself? Then what malloc gives is a heap's block. */
static int dmi_is_malloc(void) {
    void *block = calloc(1, 1);
    dmi_found found = {.size = sizeof found};
    int is = block && dmi_find(block, &found) == 0;
    free(block);
    return is;
}
#endif
