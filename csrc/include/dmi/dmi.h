/* dmi.h - the whole public C API of dmi: a heap you can see into, and whose memory comes back.
 *
 * Conventions. Byte counts are uint64_t or size_t. A function that returns int returns 0 on success and
 * -1 with errno set on failure; one that returns a pointer returns NULL with errno set. Every struct
 * begins with its size, set by the caller, and is append-only; those that arrays are made of (dmi_range,
 * dmi_segment_info, dmi_pin, dmi_region) have none and stay as they are. Unless a comment says otherwise every
 * function is safe to call from any thread. A heap is named by a handle (void *), which carries a
 * generation: a handle of a destroyed heap is refused with EINVAL, never followed.
 */
#ifndef DMI_H
#define DMI_H

#include <dmi/stats.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define DMI_API __declspec(dllexport)
#else
#define DMI_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define DMI_VERSION_MAJOR 0
#define DMI_VERSION_MINOR 1
#define DMI_VERSION_PATCH 0
#define DMI_VERSION "0.1.0"

DMI_API const char *dmi_version(void);

/* ---- policies -------------------------------------------------------------------------------- */

/* When a free page is given back. Written by tools/generate.py from the rows of csrc/decommit/policies.c. */
typedef enum dmi_when {
    DMI_WHEN_NEVER = 0,
    DMI_WHEN_EAGER = 1,
    DMI_WHEN_LAZY = 2,
    DMI_WHEN_DECAY = 3,
    DMI_WHEN_THRESHOLD = 4,
    DMI_WHEN_BUDGET = 5,
    DMI_WHEN_PRESSURE = 6
} dmi_when;

/* How it is given back. DEFAULT: discard on Linux, decommit on Windows and where
 * vm.overcommit_memory is 2. */
typedef enum dmi_how {
    DMI_HOW_DEFAULT = 0,
    DMI_HOW_DISCARD = 1,
    DMI_HOW_DECOMMIT = 2,
    DMI_HOW_OFFER = 3
} dmi_how;

typedef struct dmi_policy {
    size_t size;
    uint32_t when;       /* dmi_when */
    uint32_t how;        /* dmi_how */
    double delay;        /* lazy, seconds, default 1 */
    double half_life;    /* decay, seconds, default 1 */
    uint64_t block;      /* threshold, bytes, default 4 KiB */
    uint64_t total;      /* threshold, bytes, default 64 KiB */
    uint32_t combine_or; /* threshold: 0 = and (default), 1 = or */
    uint32_t reserved_;
    double ratio;    /* budget, retained / busy, default 0.1 */
    double psi;      /* pressure, percent, default 10 */
    double headroom; /* pressure, fraction, default 0.1 */
} dmi_policy;

/* Read "when{:key=value}" ("lazy:delay=0.1:how=offer"). Sizes take K, M, G suffixes (powers of 1024).
 * On error returns -1 with errno EINVAL and writes a sentence that names what was wrong and what is
 * accepted to error (may be NULL). */
DMI_API int dmi_policy_parse(const char *text, dmi_policy *policy, char *error, size_t error_size);
/* Write the policy in the same grammar; only what is not a default is named. Returns the length
 * without the terminating 0, as snprintf does. */
DMI_API int dmi_policy_format(const dmi_policy *policy, char *text, size_t text_size);
/* What ENOTSUP means for a policy: messages of C and of other languages say it in these words. */
#define DMI_NO_PRESSURE                                                                            \
    "pressure has nothing to go by here: /proc/pressure/memory cannot be read, and no cgroup "     \
    "around this process has a memory limit"

/* ---- heaps ----------------------------------------------------------------------------------- */

#define DMI_HEAP_NO_LFH 1u /* no low-fragmentation front end */
#define DMI_HEAP_HARDENED                                                                          \
    2u /* every bad free is found, and what is written behind a block or after its free */
#define DMI_HEAP_MANUAL_CLOCK 4u /* time passes only through dmi_heap_advance */
#define DMI_HEAP_NO_SERIALIZE 8u /* the caller promises that one thread at a time uses the heap */
#define DMI_HEAP_ZERO                                                                              \
    32u /* hardened: blocks up to 32 KiB are handed out cleared, larger ones are anyway */
#define DMI_HEAP_HUGE_PAGES 16u /* let transparent huge pages of 2 MiB back the segments */

typedef struct dmi_heap_options {
    size_t size;
    uint32_t flags; /* DMI_HEAP_* */
    uint32_t reserved_;
    uint64_t max_size;        /* upper bound of reserved bytes; 0: none */
    const char *name;         /* UTF-8, copied, cut at 47 bytes; may be NULL */
    const dmi_policy *policy; /* NULL: lazy with defaults */
    uint32_t lfh_live;        /* live blocks of a size that activate its bucket; 0: 17 */
    uint32_t lfh_total;       /* total allocations of a size that activate its bucket; 0: 256 */
    /* DMI_HEAP_HUGE_PAGES: the share of 2 MiB, above 0 and up to 1, that must be free before their huge page
     * is split and the free part goes back; 0: 0.25 */
    double huge_split;
    /* One block in about so many, of those up to 32 KiB, lies between guards: what touches it behind its end, or after it was freed,
     * faults there. At most 256 of a heap at a time, freed ones kept unreadable. Up to DMI_GUARD_MOST; 0: none. */
    uint64_t guard;
} dmi_heap_options;
#define DMI_GUARD_MOST UINT64_C(1000000000)

/* Create a heap. options may be NULL. Errors: EINVAL, ENOMEM, EMFILE (too many heaps), EEXIST (this library is
 * a second copy in its process, and another one serves; said on standard error as well); for a hardened heap ENOSYS
 * and EAGAIN: the system refuses random bytes for its keys, or had none yet when the first heap was made. */
DMI_API void *dmi_heap_create(const dmi_heap_options *options);
/* Destroy a heap with all its blocks. EINVAL for a stale handle, EPERM for the default heap, EBUSY while
 * somebody holds it (below). The caller sees to it that no thread is inside the heap. */
DMI_API int dmi_heap_destroy(void *heap);
/* The same whoever holds it, for callers who know that nobody will touch its blocks again. */
DMI_API int dmi_heap_destroy_force(void *heap);

/* Keep a heap from being destroyed, and say in whose name: who puts blocks into a heap that somebody else
 * made holds it as long as there are any. The name, at most 47 bytes, is what a refusal shows. Holds of a
 * name are counted; beyond DMI_HEAP_HOLDERS names the rest is held by "others". From any thread.
 * Errors: EINVAL for a stale handle or an empty name; of dmi_heap_unhold also ENOENT: not held in that name. */
#define DMI_HEAP_HOLDERS 16
DMI_API int dmi_heap_hold(void *heap, const char *who);
DMI_API int dmi_heap_unhold(void *heap, const char *who);
/* The holder of that index, from 0 on without gaps: the name, cut to size, and how many holds it has.
 * EINVAL for a stale handle, ENOENT beyond the last. who and holds may be NULL. */
DMI_API int dmi_heap_holder(void *heap, size_t index, char *who, size_t size, uint64_t *holds);
/* The process default heap; made at the first call. NULL and errno as from dmi_heap_create. */
DMI_API void *dmi_heap_default(void);
/* Fill handles with the live heaps, oldest first; returns how many there are (may exceed capacity). */
DMI_API size_t dmi_heap_list(void **handles, size_t capacity);
/* 1 when the handle names a live heap, else 0. */
DMI_API int dmi_heap_valid(void *heap);

typedef struct dmi_heap_info {
    size_t size;
    void *handle;
    uint64_t max_size;
    uint32_t flags;      /* DMI_HEAP_* as created */
    uint32_t is_default; /* 1 for the process default heap */
    char name[48];
    double clock; /* the heap's own time, seconds since an arbitrary start */
    dmi_policy policy;
    double huge_split; /* as in dmi_heap_options, the default put in */
    uint64_t guard;    /* as in dmi_heap_options */
} dmi_heap_info;
/* Fields beyond info->size are not written; it must reach huge_split. */
DMI_API int dmi_heap_get_info(void *heap, dmi_heap_info *info);

/* ---- allocation ------------------------------------------------------------------------------ */

/* Default heap. As malloc and friends: 16-byte alignment, size 0 gives a unique block, NULL may be
 * freed, overflow of count*size is ENOMEM. dmi_free serves blocks of every heap, and aborts with a
 * message on a pointer that no heap handed out. */
DMI_API void *dmi_malloc(size_t size);
DMI_API void *dmi_calloc(size_t count, size_t size);
DMI_API void *dmi_realloc(void *block, size_t size);
DMI_API void dmi_free(void *block);
DMI_API void *dmi_aligned_alloc(size_t align, size_t size);

/* The same with a heap first: they drop into PyMemAllocatorEx and NumPy's handler. */
DMI_API void *dmi_heap_malloc(void *heap, size_t size);
DMI_API void *dmi_heap_calloc(void *heap, size_t count, size_t size);
DMI_API void *dmi_heap_realloc(void *heap, void *block, size_t size);
DMI_API void dmi_heap_free(void *heap, void *block);
/* size is a hint that is never trusted. */
DMI_API void dmi_heap_free_sized(void *heap, void *block, size_t size);
/* align: a power of two. EINVAL when it is not. */
DMI_API void *dmi_heap_aligned_alloc(void *heap, size_t align, size_t size);
/* Usable bytes of a busy block of any heap; 0 for NULL or a pointer that dmi does not own. */
DMI_API size_t dmi_usable_size(const void *block);

/* What may be wrong with a pointer that is freed. */
typedef enum dmi_fault_kind {
    DMI_OK = 0,
    DMI_FAULT_STALE_HEAP = 1,
    DMI_FAULT_FOREIGN = 2,
    DMI_FAULT_OTHER_HEAP = 3,
    DMI_FAULT_INTERIOR = 4,
    DMI_FAULT_FREE = 5,
    DMI_FAULT_OVERFLOW = 6,
    DMI_FAULT_CORRUPT = 7
} dmi_fault_kind;
/* What each of them is, X(name, "word", "sentence"): for messages in C and in other languages. */
#define DMI_FAULTS(X)                                                                              \
    X(STALE_HEAP, "stale heap", "the heap was destroyed")                                          \
    X(FOREIGN, "foreign", "no heap owns this address")                                             \
    X(OTHER_HEAP, "other heap", "another heap owns this address")                                  \
    X(INTERIOR, "interior", "the address is inside a block, not at its start")                     \
    X(FREE, "free", "the block is free already")                                                   \
    X(OVERFLOW, "overflow", "bytes behind the end of the block were overwritten")                  \
    X(CORRUPT, "corrupt", "a tag or link is damaged")

/* Free with every check, for callers that must never crash (Python). Does nothing and returns one of
 * these when the pointer is not a busy block of that heap that begins there. */
DMI_API int dmi_heap_free_checked(void *heap, void *block);
/* Allocate for a caller that frees with dmi_heap_free_checked. */
DMI_API void *dmi_heap_malloc_checked(void *heap, size_t size);
/* Only the check: DMI_OK when block is a busy block of heap. */
DMI_API int dmi_heap_check(void *heap, const void *block);

/* One function of a stack: native code, or Python's. What is not known is NULL or 0. */
typedef struct dmi_fault_frame {
    const void *address;  /* native: of the call; NULL: it is Python's */
    const char *file;     /* native: the program or library it lies in; Python: its source */
    uint64_t offset;      /* native: the address as the file's own tables have it, for addr2line */
    const char *function; /* Python's */
    int32_t line;         /* Python's */
    uint32_t reserved_;
} dmi_fault_frame;
/* The innermost frames of a thread, the innermost first. count 0: the stack is not known. */
typedef struct dmi_fault_stack {
    const dmi_fault_frame *frames;
    size_t count;
    uint32_t cut; /* 1: there are more, further out */
    uint32_t reserved_;
} dmi_fault_stack;

/* What was found wrong. block, block_size and heap are 0 where they are not known. */
typedef struct dmi_fault_report {
    size_t size;
    uint32_t kind; /* dmi_fault_kind */
    uint32_t reserved_;
    const char *
        call; /* which function found it: "free", "malloc", "realloc", "pass"; "access": a touch of a guard,
                          * by an instruction of the program's; then this is called in a signal handler */
    const char *message; /* one line without its end */
    const void *address; /* what was freed, or the damaged word's block */
    const void *block;   /* the block that holds it */
    size_t block_size;
    void *heap;
    /* Of a block that lies between guards (guard in dmi_heap_options): who allocated it, who freed it, and who touched it
     * or made the call that found it. They are there until the handler returns. */
    dmi_fault_stack allocated, freed, found;
} dmi_fault_report;
typedef void (*dmi_fault_handler)(const dmi_fault_report *report, void *argument);
/* One handler for the process, called without any lock of dmi on the thread that found the fault: it may
 * allocate and free. If it returns, a free frees nothing, a realloc returns NULL with EINVAL, and an allocation
 * or a pass goes on without what is damaged. NULL, the default: one line on standard error, then abort(). */
DMI_API void dmi_set_fault_handler(dmi_fault_handler handler, void *argument);

/* ---- decommit -------------------------------------------------------------------------------- */

/* Change the policy of a live heap; applies to what is free already before it returns. */
DMI_API int dmi_heap_set_policy(void *heap, const dmi_policy *policy);
/* Manual clock only (EINVAL otherwise): let seconds >= 0 pass and do what became due. */
DMI_API int dmi_heap_advance(void *heap, double seconds);

/* Linux allows a process vm.max_map_count mappings. dmi stops cutting its own at `most` of them, whatever the
 * heap; from there on how = decommit discards (decommit_refused_bytes). 0: half of the OS's limit. */
DMI_API void dmi_set_map_limit(uint64_t most);

typedef struct dmi_trim_report {
    size_t size;
    uint64_t decommitted;                     /* bytes this trim took from committed */
    uint64_t resident_before, resident_after; /* of the heap's ranges, asked from the OS */
    uint64_t calls;                           /* system calls */
} dmi_trim_report;
/* Give back every page that holds nothing, whatever the policy says. report may be NULL. */
DMI_API int dmi_heap_trim(void *heap, dmi_trim_report *report);

/* ---- inspection ------------------------------------------------------------------------------ */

#define DMI_STATS_DETAIL 1u   /* walk: reclaimable, pinned, page_bound, reasons */
#define DMI_STATS_RESIDENT 2u /* ask the OS: resident */
/* Fill stats (stats->size set by the caller). Cheap without DETAIL. */
DMI_API int dmi_heap_stats(void *heap, dmi_stats *stats, uint32_t what);
/* Metadata of the process that belongs to no heap (page map, tables), committed bytes. */
DMI_API uint64_t dmi_metadata_committed(void);

/* What a walked range is, and its state. */
typedef enum dmi_range_kind {
    DMI_RANGE_LFH = 1,         /* a block of a subsegment */
    DMI_RANGE_LIST = 2,        /* a back-end block (payload without its tag) */
    DMI_RANGE_PAGES = 3,       /* a run of pages: busy large block or free run */
    DMI_RANGE_VIRTUAL = 4,     /* a block mapped on its own */
    DMI_RANGE_UNCOMMITTED = 5, /* a UCR */
    DMI_RANGE_OVERHEAD = 6     /* tags, tails, gaps */
} dmi_range_kind;
typedef enum dmi_range_state {
    DMI_STATE_BUSY = 1,
    DMI_STATE_FREE = 2,
    DMI_STATE_UNCOMMITTED = 3,
    DMI_STATE_OFFERED = 4,
    DMI_STATE_OVERHEAD = 5
} dmi_range_state;

typedef struct dmi_range {
    uint64_t address;
    uint64_t size;    /* bytes */
    uint32_t kind;    /* dmi_range_kind */
    uint32_t state;   /* dmi_range_state */
    uint32_t bucket;  /* block size of the bucket for LFH, else 0 */
    uint32_t flags;   /* see DMI_RANGE_REASON, DMI_RANGE_DAMAGED */
    uint64_t segment; /* base of the segment or virtual block it lies in */
} dmi_range;

/* Why a range is retained: its place in DMI_REASONS, counted from 1; 0 when it is busy or uncommitted. A free
 * block that lies on several pages has the reason of the first one that it shares with no busy block. */
#define DMI_RANGE_REASON(flags) ((flags)&0xffu)
/* What lies there makes no sense (see dmi_heap_validate): it is reported as overhead. */
#define DMI_RANGE_DAMAGED 0x100u

/* Call visit for every range of the heap, by address, each segment without gap or overlap: the sizes sum
 * to reserved. A free block that lies partly on uncommitted pages is reported in parts. visit runs with
 * the heap's locks held: it must not allocate from or free to this heap; it returns 0 to go on.
 * Returns 0, or what visit returned when it stopped the walk. */
typedef int (*dmi_visit)(void *argument, const dmi_range *range);
DMI_API int dmi_heap_walk(void *heap, dmi_visit visit, void *argument);

typedef struct dmi_segment_info {
    uint64_t address, reserved, committed, uncommitted_ranges;
    uint32_t is_virtual, reserved_;
} dmi_segment_info;
/* Segments, freed virtual blocks that the policy keeps among them; then virtual blocks. Returns how many
 * there are. */
DMI_API size_t dmi_heap_segments(void *heap, dmi_segment_info *out, size_t capacity);

/* What the subsegments of one thread hold, bytes; of all threads that ended together, thread 0. in_flight:
 * free, and on pages that stay because the thread may have stopped half way through an operation;
 * unknown: free bytes of which that could not be told. */
typedef struct dmi_thread_usage {
    uint64_t thread; /* Windows: its number; Linux: an address in its thread-local storage */
    uint64_t committed, busy, free, in_flight, unknown;
} dmi_thread_usage;
/* Returns how many threads there are, at least; rows beyond capacity are left out. */
DMI_API size_t dmi_heap_threads(void *heap, dmi_thread_usage *out, size_t capacity);

/* The block that holds address (interior too): its heap, start, usable size and state. Returns -1 with
 * errno ENOENT when no heap owns the address. */
typedef struct dmi_found {
    size_t size;
    void *heap;
    dmi_range range;
} dmi_found;
DMI_API int dmi_find(const void *address, dmi_found *found);

typedef struct dmi_fault {
    size_t size;
    uint32_t kind; /* dmi_fault_kind */
    uint32_t reserved_;
    uint64_t address;  /* of the first fault */
    char message[192]; /* names it and its neighbours */
} dmi_fault;
/* Check every tag, list and counter. 0 when sound; 1 with fault filled when not; -1 on a stale handle. */
DMI_API int dmi_heap_validate(void *heap, dmi_fault *fault);

/* The same ranges as dmi_heap_walk, into an array: faster than a call for each. *count is how many there
 * are, which may exceed capacity; then those beyond it were left out. */
DMI_API int dmi_heap_walk_array(void *heap, dmi_range *out, size_t capacity, size_t *count);

/* The same in parts, so that the heap's locks are held for a part only: the ranges from address *from on (0
 * at first) that come in whole runs and fit; *from becomes where the next call goes on, UINT64_MAX when
 * that was all. capacity is DMI_WALK_CHUNK at least. Each part is consistent in itself; a block that is
 * busy from the first call to the last is reported exactly once; addresses rise from call to call. What
 * changed in between may be missing, never twice there; an uncommitted range may be cut in two. */
#define DMI_WALK_CHUNK 20480
DMI_API int dmi_heap_walk_chunk(void *heap, uint64_t *from, dmi_range *out, size_t capacity,
                                size_t *count);

typedef struct dmi_pin {
    uint64_t address, size; /* a busy block and its usable bytes */
    uint64_t pinned;        /* free bytes on pages that could go back but for this block alone */
} dmi_pin;
/* The busy blocks that pin most, most first, at most capacity of them; *count (may be NULL) is how many
 * pin anything. */
DMI_API int dmi_heap_pins(void *heap, dmi_pin *out, size_t capacity, size_t *count);

/* ---- heaps seen from outside ------------------------------------------------------------------ */

/* Reads size bytes at that address of a process, or of a copy of one, into to. 0, or an errno. */
typedef int (*dmi_read)(void *context, uint64_t address, void *to, size_t size);

/* A heap by its descriptors, of a process that may be at work; bytes, as in dmi_stats. */
typedef struct dmi_outside_heap {
    size_t size;
    uint64_t handle;
    char name[48];
    uint64_t reserved, uncommitted, committed;
    uint64_t busy, free_lfh, free_list, free_pages, offered, overhead; /* they sum to committed */
    uint64_t busy_blocks;
} dmi_outside_heap;
/* place: a segment or virtual block of the heap, whose sums are not complete yet; NULL when they are. Returns
 * 0 to go on. */
typedef int (*dmi_outside_visit)(void *argument, const dmi_outside_heap *heap,
                                 const dmi_segment_info *place);
/* Visit the heaps of the process that read reads and in which the symbol dmi_layout_root lies at root. What it
 * says is checked and not trusted, and no block is read. Returns 0, or what visit returned when it stopped;
 * -1 with ENOTSUP: its dmi was built otherwise than this one; or the errno of read. */
DMI_API int dmi_outside_heaps(dmi_read read, void *context, uint64_t root, dmi_outside_visit visit,
                              void *argument);
/* The ranges of one of these heaps in parts, as dmi_heap_walk_chunk has them. -1 with ESRCH: there is no heap of
 * that handle; or as above. */
DMI_API int dmi_outside_walk(dmi_read read, void *context, uint64_t root, uint64_t handle,
                             uint64_t *from, dmi_range *out, size_t capacity, size_t *count);
/* What dmi_layout_root begins with, so that it can be found where names are gone. */
#define DMI_LAYOUT_MAGIC "dmi-layout-root"

/* ---- the address space ------------------------------------------------------------------------ */

/* What a range of addresses is for, where it can be told. */
typedef enum dmi_usage {
    DMI_USAGE_FREE = 0,        /* nothing has reserved it */
    DMI_USAGE_DMI = 1,         /* dmi's segments, virtual blocks and tables; of this process only */
    DMI_USAGE_HEAP = 2,        /* the system's own heaps */
    DMI_USAGE_STACK = 3,       /* threads' stacks, guard and reserve included */
    DMI_USAGE_TEB_PEB = 4,     /* environment blocks of threads and process, which share a place */
    DMI_USAGE_IMAGE = 5,       /* programs and libraries */
    DMI_USAGE_MAPPED_FILE = 6, /* views of files */
    DMI_USAGE_OTHER = 7,
    DMI_USAGE_COUNT = 8
} dmi_usage;

/* Values of VirtualQuery. */
#define DMI_MEM_COMMIT 0x1000u
#define DMI_MEM_RESERVE 0x2000u
#define DMI_MEM_FREE 0x10000u
#define DMI_MEM_PRIVATE 0x20000u
#define DMI_MEM_MAPPED 0x40000u
#define DMI_MEM_IMAGE 0x1000000u

typedef struct dmi_region {
    uint64_t address, size; /* bytes */
    uint64_t allocation;    /* where the reservation begins that it is a part of; 0 when free */
    uint32_t usage;         /* dmi_usage */
    uint32_t state;         /* DMI_MEM_COMMIT, _RESERVE or _FREE */
    uint32_t type;          /* DMI_MEM_PRIVATE, _MAPPED or _IMAGE; 0 when free */
    uint32_t protect;       /* PAGE_* of the system; 0 unless committed */
    char name[160];         /* the file's, UTF-8, its end where it is too long; empty without one */
} dmi_region;

/* Every region of a process's user address space from 0 up, free ones too, without gap or overlap: the sizes
 * sum to *total (may be NULL). pid 0 is this process. *count is how many there are, which may exceed
 * capacity; then those beyond it were left out. The process goes on meanwhile, so a region may
 * be from before or after a change. Windows only: ENOSYS elsewhere (on Linux /proc/PID/maps says it, and the
 * Python package reads that). ESRCH: no such process; EPERM: it may not be looked at; ENOMEM. Thread-safe. */
DMI_API int dmi_address_regions(uint64_t pid, dmi_region *out, size_t capacity, size_t *count,
                                uint64_t *total);

/* The three tables of `!address -summary`, bytes. Each sums to total; reserved + committed and
 * private_ + mapped + image are total - free. */
typedef struct dmi_address_tables {
    size_t size;
    uint64_t total, free, regions;
    uint64_t reserved, committed;
    uint64_t private_, mapped, image;
    uint64_t usage[16]; /* by dmi_usage; usage[DMI_USAGE_FREE] is free */
} dmi_address_tables;
/* The same regions summed; errors as above, and EINVAL for a struct of the wrong size. */
DMI_API int dmi_address_summary(uint64_t pid, dmi_address_tables *tables);

/* ---- which code holds the memory ---------------------------------------------------------------- */

typedef struct dmi_profile_options {
    size_t size;
    uint32_t one_in; /* one page in so many is sampled, up to 2^20; 0: 64 */
    /* When it has long cost more of the time than so many millionths, half of the pages that are sampled are given up,
     * at random, and what is left counts twice; 0: 8,000; UINT32_MAX: no bound. Where one_in is below 64 it may cost as
     * many times more, up to eight times. */
    uint32_t most_ppm;
    uint64_t seed; /* what pages are drawn with; 0: a random one */
} dmi_profile_options;

/* Sample from now on: on one page in so many, of those that are used for the first time, every block gets the stack of
 * whoever asked for it; larger blocks (above 32 KiB) are sampled by bytes. Hardened heaps are not sampled. options
 * may be NULL. EINVAL, ENOMEM, EBUSY: it samples already. */
DMI_API int dmi_profile_start(const dmi_profile_options *options);
/* Sample no more. Blocks that are known stay so until they are freed. ENOENT: it did not sample. */
DMI_API int dmi_profile_stop(void);
/* Takes size bytes; returns 0 to go on. */
typedef int (*dmi_profile_output)(void *argument, const void *bytes, size_t size);
/* What is held at this moment and by which stacks, as JSON (docs/profile-format.md), handed to output piece by piece,
 * without a lock that an allocation would need. ENOENT: nothing was sampled yet; ENOMEM; ECANCELED: output said no. */
DMI_API int dmi_profile_write(dmi_profile_output output, void *argument);

#ifdef __cplusplus
}
#endif
#endif
