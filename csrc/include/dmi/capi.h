/* capi.h - dmi from another extension module, without linking anything.
 *
 * Put dmi.get_include() on the include path, call dmi_import() once in the module's init function, and
 * use the functions of dmi.h by their names: they go through a table that the dmi package hands out.
 * Every module, and Python, then share one allocator and one list of heaps.
 *
 *     #include <dmi/capi.h>
 *     PyMODINIT_FUNC PyInit_mine(void) {
 *         if (dmi_import() < 0) return NULL;
 *         ...
 *
 * Several translation units: one includes this file as above and calls dmi_import(); the others define
 * DMI_CAPI_EXTERN before they include it. Several modules linked into one binary: each defines
 * DMI_CAPI_SYMBOL as a name of its own. Code that links libdmi itself defines DMI_CAPI_LINKED and gets
 * plain calls.
 *
 * The table only ever grows at its end. A module compiled against an older, shorter table goes on
 * working; one compiled against a longer table than the installed dmi has is refused by dmi_import().
 */
#ifndef DMI_CAPI_H
#define DMI_CAPI_H

/* First: it says which functions the headers of the system declare. */
#include <Python.h>

#include <dmi/dmi.h>

/* Raised only if the meaning of what stands in the table changes. */
#define DMI_CAPI_ABI 1u
#define DMI_CAPI_NAME "dmi._core._C_API"

/* clang-format off */
/* (result, name, parameters). Append only; dmi_version stays first, error messages rely on it. */
#define DMI_CAPI_FUNCTIONS(X)                                                                      \
    X(const char *, dmi_version, (void))                                                           \
    X(void *, dmi_malloc, (size_t size))                                                           \
    X(void *, dmi_calloc, (size_t count, size_t size))                                             \
    X(void *, dmi_realloc, (void *block, size_t size))                                             \
    X(void, dmi_free, (void *block))                                                               \
    X(void *, dmi_aligned_alloc, (size_t align, size_t size))                                      \
    X(void *, dmi_heap_malloc, (void *heap, size_t size))                                          \
    X(void *, dmi_heap_calloc, (void *heap, size_t count, size_t size))                            \
    X(void *, dmi_heap_realloc, (void *heap, void *block, size_t size))                            \
    X(void, dmi_heap_free, (void *heap, void *block))                                              \
    X(void, dmi_heap_free_sized, (void *heap, void *block, size_t size))                           \
    X(void *, dmi_heap_aligned_alloc, (void *heap, size_t align, size_t size))                     \
    X(size_t, dmi_usable_size, (const void *block))                                                \
    X(int, dmi_heap_free_checked, (void *heap, void *block))                                       \
    X(void *, dmi_heap_malloc_checked, (void *heap, size_t size))                                  \
    X(int, dmi_heap_check, (void *heap, const void *block))                                        \
    X(void *, dmi_heap_create, (const dmi_heap_options *options))                                  \
    X(int, dmi_heap_destroy, (void *heap))                                                         \
    X(void *, dmi_heap_default, (void))                                                            \
    X(size_t, dmi_heap_list, (void **handles, size_t capacity))                                    \
    X(int, dmi_heap_valid, (void *heap))                                                           \
    X(int, dmi_heap_get_info, (void *heap, dmi_heap_info *info))                                   \
    X(int, dmi_policy_parse,                                                                       \
      (const char *text, dmi_policy *policy, char *error, size_t error_size))                      \
    X(int, dmi_policy_format, (const dmi_policy *policy, char *text, size_t text_size))            \
    X(int, dmi_heap_set_policy, (void *heap, const dmi_policy *policy))                            \
    X(int, dmi_heap_advance, (void *heap, double seconds))                                         \
    X(int, dmi_heap_trim, (void *heap, dmi_trim_report *report))                                   \
    X(int, dmi_heap_stats, (void *heap, dmi_stats *stats, uint32_t what))                          \
    X(uint64_t, dmi_metadata_committed, (void))                                                    \
    X(int, dmi_heap_walk, (void *heap, dmi_visit visit, void *argument))                           \
    X(size_t, dmi_heap_segments, (void *heap, dmi_segment_info *out, size_t capacity))             \
    X(int, dmi_find, (const void *address, dmi_found *found))                                      \
    X(int, dmi_heap_validate, (void *heap, dmi_fault *fault))                                      \
    X(void, dmi_set_map_limit, (uint64_t most))                                                    \
    X(int, dmi_heap_walk_array,                                                                    \
      (void *heap, dmi_range *out, size_t capacity, size_t *count))                                \
    X(int, dmi_heap_pins, (void *heap, dmi_pin *out, size_t capacity, size_t *count))              \
    X(int, dmi_address_regions,                                                                    \
      (uint64_t pid, dmi_region * out, size_t capacity, size_t *count, uint64_t *total))           \
    X(int, dmi_address_summary, (uint64_t pid, dmi_address_tables * tables))                       \
    X(int, dmi_heap_walk_chunk,                                                                    \
      (void *heap, uint64_t *from, dmi_range *out, size_t capacity, size_t *count))                \
    X(int, dmi_heap_destroy_force, (void *heap))                                                   \
    X(int, dmi_heap_hold, (void *heap, const char *who))                                           \
    X(int, dmi_heap_unhold, (void *heap, const char *who))                                         \
    X(int, dmi_heap_holder,                                                                        \
      (void *heap, size_t index, char *who, size_t size, uint64_t *holds))                         \
    X(int, dmi_outside_heaps,                                                                      \
      (dmi_read read, void *context, uint64_t root, dmi_outside_visit visit, void *argument))      \
    X(void, dmi_set_fault_handler, (dmi_fault_handler handler, void *argument))                    \
    X(int, dmi_outside_walk,                                                                       \
      (dmi_read read, void *context, uint64_t root, uint64_t handle, uint64_t *from,               \
       dmi_range *out, size_t capacity, size_t *count))                                            \
    X(size_t, dmi_heap_threads, (void *heap, dmi_thread_usage *out, size_t capacity))              \
    X(int, dmi_profile_start, (const dmi_profile_options *options))                                \
    X(int, dmi_profile_stop, (void))                                                               \
    X(int, dmi_profile_write, (dmi_profile_output output, void *argument))
/* clang-format on */

#define DMI_CAPI_FIELD(result, name, parameters) result(*name##_) parameters;
typedef struct dmi_capi {
    uint32_t abi;
    uint32_t struct_size;
    DMI_CAPI_FUNCTIONS(DMI_CAPI_FIELD)
} dmi_capi;

#ifdef DMI_CAPI_LINKED

/* Nothing to import where the library is linked; the call stays, so that code can be built both ways. */
static inline int dmi_import(void) { return 0; }

#else

#ifndef DMI_CAPI_SYMBOL
#define DMI_CAPI_SYMBOL dmi_capi_table
#endif

#if defined(_WIN32)
#define DMI_CAPI_HIDDEN
#define DMI_CAPI_RARE(condition) (condition)
#else
#define DMI_CAPI_HIDDEN __attribute__((visibility("hidden")))
#define DMI_CAPI_RARE(condition) __builtin_expect(!!(condition), 0)
#endif

#ifdef __cplusplus
extern "C" {
#endif
/* Hidden: each module has its own, even where modules are loaded with RTLD_GLOBAL. */
extern DMI_CAPI_HIDDEN const dmi_capi *DMI_CAPI_SYMBOL;
#ifndef DMI_CAPI_EXTERN
DMI_CAPI_HIDDEN const dmi_capi *DMI_CAPI_SYMBOL = NULL;
#endif
#ifdef __cplusplus
}
#endif

/* Import dmi and its table: 0, or -1 with ImportError set, which names both versions if they do not go
 * together, and what to install where there is no dmi. Needs the GIL; calling it again is harmless. */
static inline int dmi_import(void) {
    const dmi_capi *table;
    /* Not left to PyCapsule_Import, which hides why a module could not be imported. */
    PyObject *core = PyImport_ImportModule("dmi._core");
    if (core == NULL) {
        if (PyErr_ExceptionMatches(PyExc_ModuleNotFoundError)) {
            PyObject *type, *missing, *trace;
            PyErr_Fetch(&type, &missing, &trace);
            PyErr_Format(
                PyExc_ImportError,
                "this module was compiled for dmi %s and needs the distribution dmi-heap (\"dmi\" "
                "on PyPI is another project): %S",
                DMI_VERSION, missing);
            Py_XDECREF(type);
            Py_XDECREF(missing);
            Py_XDECREF(trace);
        }
        return -1;
    }
    Py_DECREF(core);
    table = (const dmi_capi *)PyCapsule_Import(DMI_CAPI_NAME, 0);
    if (table == NULL) {
        if (PyErr_ExceptionMatches(PyExc_AttributeError)) {
            PyErr_Clear();
            PyErr_SetString(PyExc_ImportError, "the installed dmi has no C API (" DMI_CAPI_NAME
                                               "); this module was compiled for dmi " DMI_VERSION);
        }
        return -1;
    }
    if (table->abi != DMI_CAPI_ABI || table->struct_size < sizeof(dmi_capi)) {
        PyErr_Format(
            PyExc_ImportError,
            "this module was compiled for dmi %s (C API %u, table of %u bytes), but dmi %s (C API "
            "%u, table of %u bytes) is installed: %s",
            DMI_VERSION, (unsigned)DMI_CAPI_ABI, (unsigned)sizeof(dmi_capi), table->dmi_version_(),
            (unsigned)table->abi, (unsigned)table->struct_size,
            table->abi > DMI_CAPI_ABI ? "compile the module again" : "update dmi-heap");
        return -1;
    }
    DMI_CAPI_SYMBOL = table;
    return 0;
}

/* The table, or a clear end of the program where dmi_import() was forgotten. */
static inline const dmi_capi *dmi_capi_get(void) {
    if (DMI_CAPI_RARE(DMI_CAPI_SYMBOL == NULL))
        Py_FatalError("a dmi function was called before dmi_import() succeeded in this module");
    return DMI_CAPI_SYMBOL;
}

/* Names, not calls: they can be passed as function pointers too. */
#define dmi_version (dmi_capi_get()->dmi_version_)
#define dmi_malloc (dmi_capi_get()->dmi_malloc_)
#define dmi_calloc (dmi_capi_get()->dmi_calloc_)
#define dmi_realloc (dmi_capi_get()->dmi_realloc_)
#define dmi_free (dmi_capi_get()->dmi_free_)
#define dmi_aligned_alloc (dmi_capi_get()->dmi_aligned_alloc_)
#define dmi_heap_malloc (dmi_capi_get()->dmi_heap_malloc_)
#define dmi_heap_calloc (dmi_capi_get()->dmi_heap_calloc_)
#define dmi_heap_realloc (dmi_capi_get()->dmi_heap_realloc_)
#define dmi_heap_free (dmi_capi_get()->dmi_heap_free_)
#define dmi_heap_free_sized (dmi_capi_get()->dmi_heap_free_sized_)
#define dmi_heap_aligned_alloc (dmi_capi_get()->dmi_heap_aligned_alloc_)
#define dmi_usable_size (dmi_capi_get()->dmi_usable_size_)
#define dmi_heap_free_checked (dmi_capi_get()->dmi_heap_free_checked_)
#define dmi_heap_malloc_checked (dmi_capi_get()->dmi_heap_malloc_checked_)
#define dmi_heap_check (dmi_capi_get()->dmi_heap_check_)
#define dmi_heap_create (dmi_capi_get()->dmi_heap_create_)
#define dmi_heap_destroy (dmi_capi_get()->dmi_heap_destroy_)
#define dmi_heap_default (dmi_capi_get()->dmi_heap_default_)
#define dmi_heap_list (dmi_capi_get()->dmi_heap_list_)
#define dmi_heap_valid (dmi_capi_get()->dmi_heap_valid_)
#define dmi_heap_get_info (dmi_capi_get()->dmi_heap_get_info_)
#define dmi_policy_parse (dmi_capi_get()->dmi_policy_parse_)
#define dmi_policy_format (dmi_capi_get()->dmi_policy_format_)
#define dmi_heap_set_policy (dmi_capi_get()->dmi_heap_set_policy_)
#define dmi_heap_advance (dmi_capi_get()->dmi_heap_advance_)
#define dmi_heap_trim (dmi_capi_get()->dmi_heap_trim_)
#define dmi_heap_stats (dmi_capi_get()->dmi_heap_stats_)
#define dmi_metadata_committed (dmi_capi_get()->dmi_metadata_committed_)
#define dmi_heap_walk (dmi_capi_get()->dmi_heap_walk_)
#define dmi_heap_segments (dmi_capi_get()->dmi_heap_segments_)
#define dmi_find (dmi_capi_get()->dmi_find_)
#define dmi_heap_validate (dmi_capi_get()->dmi_heap_validate_)
#define dmi_set_map_limit (dmi_capi_get()->dmi_set_map_limit_)
#define dmi_heap_walk_array (dmi_capi_get()->dmi_heap_walk_array_)
#define dmi_heap_pins (dmi_capi_get()->dmi_heap_pins_)
#define dmi_address_regions (dmi_capi_get()->dmi_address_regions_)
#define dmi_address_summary (dmi_capi_get()->dmi_address_summary_)
#define dmi_heap_walk_chunk (dmi_capi_get()->dmi_heap_walk_chunk_)
#define dmi_heap_destroy_force (dmi_capi_get()->dmi_heap_destroy_force_)
#define dmi_heap_hold (dmi_capi_get()->dmi_heap_hold_)
#define dmi_heap_unhold (dmi_capi_get()->dmi_heap_unhold_)
#define dmi_heap_holder (dmi_capi_get()->dmi_heap_holder_)
#define dmi_outside_heaps (dmi_capi_get()->dmi_outside_heaps_)
#define dmi_set_fault_handler (dmi_capi_get()->dmi_set_fault_handler_)
#define dmi_outside_walk (dmi_capi_get()->dmi_outside_walk_)
#define dmi_heap_threads (dmi_capi_get()->dmi_heap_threads_)
#define dmi_profile_start (dmi_capi_get()->dmi_profile_start_)
#define dmi_profile_stop (dmi_capi_get()->dmi_profile_stop_)
#define dmi_profile_write (dmi_capi_get()->dmi_profile_write_)

#endif /* DMI_CAPI_LINKED */
#endif
