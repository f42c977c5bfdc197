/* python_end.c - the profile of a Python program, before Python takes its objects apart.
 *
 * An interpreter that ends frees what the program held, long before a destructor of this library runs. A profile taken
 * there would show nothing. So when the sampler first meets a Python frame it asks Python for a pending call, and that
 * call registers a function with the module atexit. Py_AddPendingCall may be called from anywhere and takes no memory.
 */
#include "preload.h"

#include "../os/frames.h"
#include "../profile/pyframes.h"
#include "../profile/sampler.h"

#include <stdatomic.h>
#include <string.h>

/* Python's headers are not used: the program brings the interpreter, of any version. */
typedef struct method {
    const char *name;
    void *(*function)(void *, void *);
    int flags;
    const char *doc;
} method;
#define TAKES_NOTHING 4 /* METH_NOARGS */

static int (*add_pending)(int (*)(void *), void *);
static void *(*import)(const char *);
static void *(*make_function)(method *, void *, void *);
static void *(*call_method)(void *, const char *, const char *, ...);
static void *(*build)(const char *, ...);
static void (*release)(void *);
static void (*clear_error)(void);

static _Atomic bool ended;
static unsigned tries; /* under the interpreter's lock */
#define TRIES 1000
#define LOOKED_AT 128 /* frames, the innermost first */

static bool find(const char *name, void *to) {
    void *symbol = _dmi_os_symbol(name);
    memcpy(to, &symbol, sizeof symbol);
    return symbol != NULL;
}

static bool find_all(void) {
    return find("Py_AddPendingCall", &add_pending) && find("PyImport_ImportModule", &import) &&
           find("PyCFunction_NewEx", &make_function) && find("PyObject_CallMethod", &call_method) &&
           find("Py_BuildValue", &build) && find("Py_DecRef", &release) &&
           find("PyErr_Clear", &clear_error);
}

static void *at_end(void *self, void *arguments) {
    (void)self, (void)arguments;
    _dmi_preload_write(DMI_ASKED_PROFILE, "when Python ends");
    atomic_store_explicit(&ended, true, memory_order_relaxed);
    return build("");
}
static method end_method = {"dmi_profile", at_end, TAKES_NOTHING, NULL};

static void ask_python(void);

static bool ends_with(const char *text, size_t length, const char *end) {
    size_t n = strlen(end);
    return length >= n && memcmp(text + length - n, end, n) == 0;
}

/* Is this thread in the midst of taking or letting go the lock of a module? Another import would take away what it has
 * noted there, and end it with a KeyError. Code that a module runs while it is imported is not meant. */
static bool is_locking_module(void) {
    static const char *const lockers[] = {"acquire", "release", "__enter__", "__exit__",
                                          "_lock_unlock_module"};
    static const char importer[] = "<frozen importlib";
    dmi_frame frames[LOOKED_AT];
    uintptr_t places[LOOKED_AT];
    dmi_python_where where;
    size_t n = _dmi_python_frames(frames, places, LOOKED_AT);
    for (size_t i = 0; i < n; i++) {
        if (!_dmi_python_where(&frames[i], &where) || where.file_length < sizeof importer - 1 ||
            memcmp(where.file, importer, sizeof importer - 1) != 0)
            continue;
        if (i == 0) return true;
        for (size_t k = 0; k < sizeof lockers / sizeof *lockers; k++)
            if (ends_with(where.function, where.function_length, lockers[k])) return true;
    }
    return false;
}

/* Called on the main thread, between two instructions of Python code. While the interpreter starts nothing can be
 * imported yet: then the next sample asks again. */
static int ask_to_be_called(void *unused) {
    (void)unused;
    if (is_locking_module()) {
        _dmi_sampler_call_at_python(ask_python);
        return 0;
    }
    void *module = import("atexit");
    void *function = module ? make_function(&end_method, NULL, NULL) : NULL;
    void *done = function ? call_method(module, "register", "O", function) : NULL;
    if (!done) {
        clear_error();
        if (tries++ < TRIES) _dmi_sampler_call_at_python(ask_python);
    }
    if (done) release(done);
    if (function) release(function);
    if (module) release(module);
    return 0;
}

static void ask_python(void) { (void)add_pending(ask_to_be_called, NULL); }

void _dmi_preload_expect_python(void) {
    if (find_all()) _dmi_sampler_call_at_python(ask_python);
}

bool _dmi_preload_python_ended(void) { return atomic_load_explicit(&ended, memory_order_relaxed); }
