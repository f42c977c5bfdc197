# cdmi.pxd - the public C API for Cython: `from dmi cimport cdmi`, then `cdmi.dmi_import()` at the
# top of the module, before any other call. dmi.get_include() on the include path is all; nothing is
# linked. Conventions, errors and thread safety are those of dmi/dmi.h, which documents every name.

from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t


cdef extern from *:
    """
    #if defined(DMI_CAPI_LINKED) && !defined(_WIN32)
    /* For dmi's own modules. With CYTHON_USE_MODULE_STATE the collector visits a type that is not
       ready yet, when it runs while the module is imported; such a type must have a type itself. */
    #undef PyVarObject_HEAD_INIT
    #define PyVarObject_HEAD_INIT(type, size) {PyObject_HEAD_INIT(&PyType_Type) (size)},
    #endif
    """


cdef extern from "dmi/capi.h":
    # ImportError when the installed dmi is older than the headers.
    int dmi_import() except -1


cdef extern from "dmi/capi.h" nogil:
    enum:
        DMI_VERSION_MAJOR
        DMI_VERSION_MINOR
        DMI_VERSION_PATCH

    const char *DMI_VERSION
    const char *dmi_version()

    enum:
        DMI_WHEN_NEVER
        DMI_WHEN_EAGER
        DMI_WHEN_LAZY
        DMI_WHEN_DECAY
        DMI_WHEN_THRESHOLD
        DMI_WHEN_BUDGET
        DMI_WHEN_PRESSURE

    enum:
        DMI_HOW_DEFAULT
        DMI_HOW_DISCARD
        DMI_HOW_DECOMMIT
        DMI_HOW_OFFER

    ctypedef struct dmi_policy:
        size_t size
        uint32_t when
        uint32_t how
        double delay
        double half_life
        uint64_t block
        uint64_t total
        uint32_t combine_or
        double ratio
        double psi
        double headroom

    int dmi_policy_parse(const char *text, dmi_policy *policy, char *error, size_t error_size)
    int dmi_policy_format(const dmi_policy *policy, char *text, size_t text_size)

    enum:
        DMI_HEAP_NO_LFH
        DMI_HEAP_HARDENED
        DMI_HEAP_MANUAL_CLOCK
        DMI_HEAP_NO_SERIALIZE
        DMI_HEAP_HUGE_PAGES
        DMI_HEAP_ZERO

    ctypedef struct dmi_heap_options:
        size_t size
        uint32_t flags
        uint64_t max_size
        const char *name
        const dmi_policy *policy
        uint32_t lfh_live
        uint32_t lfh_total
        double huge_split
        uint64_t guard

    void *dmi_heap_create(const dmi_heap_options *options)
    int dmi_heap_destroy(void *heap)
    int dmi_heap_destroy_force(void *heap)

    enum:
        DMI_HEAP_HOLDERS

    int dmi_heap_hold(void *heap, const char *who)
    int dmi_heap_unhold(void *heap, const char *who)
    int dmi_heap_holder(void *heap, size_t index, char *who, size_t size, uint64_t *holds)
    void *dmi_heap_default()
    size_t dmi_heap_list(void **handles, size_t capacity)
    int dmi_heap_valid(void *heap)

    ctypedef struct dmi_heap_info:
        size_t size
        void *handle
        uint64_t max_size
        uint32_t flags
        uint32_t is_default
        char name[48]
        double clock
        dmi_policy policy
        double huge_split
        uint64_t guard

    int dmi_heap_get_info(void *heap, dmi_heap_info *info)

    void *dmi_malloc(size_t size)
    void *dmi_calloc(size_t count, size_t size)
    void *dmi_realloc(void *block, size_t size)
    void dmi_free(void *block)
    void *dmi_aligned_alloc(size_t align, size_t size)

    void *dmi_heap_malloc(void *heap, size_t size)
    void *dmi_heap_calloc(void *heap, size_t count, size_t size)
    void *dmi_heap_realloc(void *heap, void *block, size_t size)
    void dmi_heap_free(void *heap, void *block)
    void dmi_heap_free_sized(void *heap, void *block, size_t size)
    void *dmi_heap_aligned_alloc(void *heap, size_t align, size_t size)
    size_t dmi_usable_size(const void *block)

    enum:
        DMI_OK
        DMI_FAULT_STALE_HEAP
        DMI_FAULT_FOREIGN
        DMI_FAULT_OTHER_HEAP
        DMI_FAULT_INTERIOR
        DMI_FAULT_FREE
        DMI_FAULT_OVERFLOW
        DMI_FAULT_CORRUPT

    int dmi_heap_free_checked(void *heap, void *block)
    void *dmi_heap_malloc_checked(void *heap, size_t size)
    int dmi_heap_check(void *heap, const void *block)

    int dmi_heap_set_policy(void *heap, const dmi_policy *policy)
    int dmi_heap_advance(void *heap, double seconds)
    void dmi_set_map_limit(uint64_t most)

    ctypedef struct dmi_trim_report:
        size_t size
        uint64_t decommitted
        uint64_t resident_before
        uint64_t resident_after
        uint64_t calls

    int dmi_heap_trim(void *heap, dmi_trim_report *report)

    enum:
        DMI_STATS_DETAIL
        DMI_STATS_RESIDENT

    # The tables of dmi/stats.h, which says what they mean.
    # Written by tools/generate.py.
    ctypedef struct dmi_stats:
        uint64_t size
        uint64_t reserved
        uint64_t uncommitted
        uint64_t committed
        uint64_t busy
        uint64_t free_lfh
        uint64_t free_list
        uint64_t free_pages
        uint64_t offered
        uint64_t overhead
        uint64_t metadata_committed
        uint64_t busy_blocks
        uint64_t segments
        uint64_t segment_reserved
        uint64_t segment_committed
        uint64_t segment_virtual
        uint64_t list_length
        uint64_t uncommitted_ranges
        uint64_t virtual_blocks
        uint64_t virtual_committed
        uint64_t lock_contention
        uint64_t lfh_active
        uint64_t flags
        uint64_t commit_calls
        uint64_t commit_bytes
        uint64_t decommit_calls
        uint64_t decommit_bytes
        uint64_t recommit_calls
        uint64_t recommit_bytes
        uint64_t recommit_churn_bytes
        uint64_t offer_calls
        uint64_t offer_bytes
        uint64_t unoffer_bytes
        uint64_t refused_calls
        uint64_t decommit_refused_bytes
        uint64_t reclaimable
        uint64_t pinned
        uint64_t page_bound
        uint64_t resident
        uint64_t reason_pinned
        uint64_t reason_in_flight
        uint64_t reason_delay
        uint64_t reason_decay
        uint64_t reason_budget
        uint64_t reason_pressure
        uint64_t reason_never
        uint64_t reason_block_threshold
        uint64_t reason_total_threshold
        uint64_t reason_commit_granularity
        uint64_t reason_offered
        uint64_t reason_refused
        uint64_t reason_overhead
        uint64_t age_unseen
        uint64_t age_under_250ms
        uint64_t age_under_1s
        uint64_t age_under_4s
        uint64_t age_under_16s
        uint64_t age_under_64s
        uint64_t age_under_256s
        uint64_t age_older

    int dmi_heap_stats(void *heap, dmi_stats *stats, uint32_t what)
    uint64_t dmi_metadata_committed()

    enum:
        DMI_RANGE_LFH
        DMI_RANGE_LIST
        DMI_RANGE_PAGES
        DMI_RANGE_VIRTUAL
        DMI_RANGE_UNCOMMITTED
        DMI_RANGE_OVERHEAD

    enum:
        DMI_STATE_BUSY
        DMI_STATE_FREE
        DMI_STATE_UNCOMMITTED
        DMI_STATE_OFFERED
        DMI_STATE_OVERHEAD

    enum:
        DMI_RANGE_DAMAGED

    uint32_t DMI_RANGE_REASON(uint32_t flags)

    ctypedef struct dmi_range:
        uint64_t address
        uint64_t size
        uint32_t kind
        uint32_t state
        uint32_t bucket
        uint32_t flags
        uint64_t segment

    ctypedef int (*dmi_visit)(void *argument, const dmi_range *range) noexcept nogil
    int dmi_heap_walk(void *heap, dmi_visit visit, void *argument)

    int dmi_heap_walk_array(void *heap, dmi_range *out, size_t capacity, size_t *count)

    ctypedef struct dmi_segment_info:
        uint64_t address
        uint64_t reserved
        uint64_t committed
        uint64_t uncommitted_ranges
        uint32_t is_virtual

    ctypedef struct dmi_thread_usage:
        uint64_t thread
        uint64_t committed
        uint64_t busy
        uint64_t free
        uint64_t in_flight
        uint64_t unknown

    size_t dmi_heap_threads(void *heap, dmi_thread_usage *out, size_t capacity)
    size_t dmi_heap_segments(void *heap, dmi_segment_info *out, size_t capacity)

    ctypedef struct dmi_found:
        size_t size
        void *heap
        dmi_range range

    ctypedef struct dmi_fault_frame:
        const void *address
        const char *file
        uint64_t offset
        const char *function
        int32_t line

    ctypedef struct dmi_fault_stack:
        const dmi_fault_frame *frames
        size_t count
        uint32_t cut

    ctypedef struct dmi_fault_report:
        size_t size
        uint32_t kind
        const char *call
        const char *message
        const void *address
        const void *block
        size_t block_size
        void *heap
        dmi_fault_stack allocated
        dmi_fault_stack freed
        dmi_fault_stack found

    ctypedef void (*dmi_fault_handler)(const dmi_fault_report *report, void *argument) noexcept
    void dmi_set_fault_handler(dmi_fault_handler handler, void *argument)

    int dmi_find(const void *address, dmi_found *found)

    ctypedef struct dmi_fault:
        size_t size
        uint32_t kind
        uint64_t address
        char message[192]

    int dmi_heap_validate(void *heap, dmi_fault *fault)

    ctypedef struct dmi_pin:
        uint64_t address
        uint64_t size
        uint64_t pinned

    int dmi_heap_pins(void *heap, dmi_pin *out, size_t capacity, size_t *count)

    enum:
        DMI_USAGE_FREE
        DMI_USAGE_DMI
        DMI_USAGE_HEAP
        DMI_USAGE_STACK
        DMI_USAGE_TEB_PEB
        DMI_USAGE_IMAGE
        DMI_USAGE_MAPPED_FILE
        DMI_USAGE_OTHER
        DMI_USAGE_COUNT

    enum:
        DMI_MEM_COMMIT
        DMI_MEM_RESERVE
        DMI_MEM_FREE
        DMI_MEM_PRIVATE
        DMI_MEM_MAPPED
        DMI_MEM_IMAGE

    # Windows only, ENOSYS elsewhere.
    ctypedef struct dmi_region:
        uint64_t address
        uint64_t size
        uint64_t allocation
        uint32_t usage
        uint32_t state
        uint32_t type
        uint32_t protect
        char name[160]

    ctypedef struct dmi_address_tables:
        size_t size
        uint64_t total
        uint64_t free
        uint64_t regions
        uint64_t reserved
        uint64_t committed
        uint64_t private_
        uint64_t mapped
        uint64_t image
        uint64_t usage[16]

    int dmi_address_regions(
        uint64_t pid, dmi_region *out, size_t capacity, size_t *count, uint64_t *total)
    int dmi_address_summary(uint64_t pid, dmi_address_tables *tables)

    enum:
        DMI_WALK_CHUNK

    int dmi_heap_walk_chunk(void *heap, uint64_t *start, dmi_range *out, size_t capacity,
                            size_t *count)


# Their callbacks may be Python functions, so they are called with the GIL.
cdef extern from "dmi/capi.h":
    const char *DMI_LAYOUT_MAGIC
    ctypedef int (*dmi_read)(
        void *context, uint64_t address, void *to, size_t size) noexcept

    ctypedef struct dmi_outside_heap:
        size_t size
        uint64_t handle
        char name[48]
        uint64_t reserved
        uint64_t uncommitted
        uint64_t committed
        uint64_t busy
        uint64_t free_lfh
        uint64_t free_list
        uint64_t free_pages
        uint64_t offered
        uint64_t overhead
        uint64_t busy_blocks

    ctypedef int (*dmi_outside_visit)(
        void *argument, const dmi_outside_heap *heap, const dmi_segment_info *place) noexcept
    int dmi_outside_heaps(
        dmi_read read, void *context, uint64_t root, dmi_outside_visit visit, void *argument)
    int dmi_outside_walk(
        dmi_read read, void *context, uint64_t root, uint64_t handle, uint64_t *start,
        dmi_range *out, size_t capacity, size_t *count)


# The callback is called without the GIL, unless the caller holds it.
cdef extern from "dmi/capi.h" nogil:
    ctypedef struct dmi_profile_options:
        size_t size
        uint32_t one_in
        uint32_t most_ppm
        uint64_t seed
    ctypedef int (*dmi_profile_output)(void *argument, const void *bytes, size_t size) noexcept
    int dmi_profile_start(const dmi_profile_options *options)
    int dmi_profile_stop()
    int dmi_profile_write(dmi_profile_output output, void *argument)
