/* replay.h - recordings: check one, import one, play one on an allocator.
 *
 * A recording is a header and an array of 16-byte records (docs/recordings.md). The functions here work
 * on the array; files, compression and the header belong to the Python package. Nothing in this header
 * is thread-safe: one thread at a time uses an importer or a replay; different ones are independent.
 */
#ifndef DMI_REPLAY_H
#define DMI_REPLAY_H

#include <dmi/dmi.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- records --------------------------------------------------------------------------------- */

#define DMI_OP_ALLOC 1
#define DMI_OP_CALLOC 2
#define DMI_OP_REALLOC 3
#define DMI_OP_FREE 4
#define DMI_OP_TIME 5
#define DMI_OP_RSS 6

/* Little-endian on disk and here; hosts of the other order are refused by the reader. */
typedef struct dmi_record {
    uint8_t op; /* DMI_OP_* */
    uint8_t
        align_log2;  /* alloc, calloc: 0 = what malloc gives; else the logarithm of the alignment */
    uint16_t thread; /* who did it, below the header's threads */
    uint32_t object; /* below the header's objects; 0 in time and rss */
    uint64_t size;   /* bytes asked for; time: microseconds since the start; rss: bytes; free: 0 */
} dmi_record;

/* What no honest recording exceeds: a block of 2^47 bytes, an alignment of 2^40, a clock of 2^53 us. */
#define DMI_TRACE_MAX_SIZE 0x800000000000
#define DMI_TRACE_MAX_ALIGN_LOG2 40
#define DMI_TRACE_MAX_TIME 0x20000000000000

typedef struct dmi_trace_summary {
    uint64_t size;
    uint64_t allocations; /* alloc and calloc */
    uint64_t reallocs;
    uint64_t frees;
    uint64_t duration_us;  /* the last time record; 0 without one */
    uint64_t live_objects; /* at the end */
    uint64_t live_bytes;   /* asked for, at the end */
    uint64_t peak_bytes;   /* asked for, at the highest moment */
    uint64_t fault_record; /* index of the first bad record */
    const char *fault;     /* what is wrong with it; NULL when all are sound */
} dmi_trace_summary;

/* Check count records against the header's objects and threads: known ops, object numbers in range,
 * no alloc of a live object, no free or realloc of a dead one, sane sizes, a clock that never runs
 * backwards. 0 when sound; -1 with EINVAL and summary->fault when not, or ENOMEM. */
DMI_API int dmi_trace_check(const void *records, uint64_t count, uint32_t objects, uint32_t threads,
                            dmi_trace_summary *summary);

/* The same in pieces, when the records should not be in memory before they are known to be good: nothing but a
 * bit an object is kept. NULL with ENOMEM. */
typedef struct dmi_trace_scan dmi_trace_scan;
DMI_API dmi_trace_scan *dmi_trace_scan_open(uint32_t objects, uint32_t threads);
/* Look at the next records. -1 with EINVAL: see dmi_trace_scan_fault. */
DMI_API int dmi_trace_scan_feed(dmi_trace_scan *scan, const void *records, uint64_t count);
/* What was wrong, with the number of that record; NULL when nothing was. */
DMI_API const char *dmi_trace_scan_fault(const dmi_trace_scan *scan, uint64_t *record);
DMI_API void dmi_trace_scan_close(dmi_trace_scan *scan);

/* ---- heaptrack ------------------------------------------------------------------------------- */

typedef struct dmi_heaptrack dmi_heaptrack;

typedef struct dmi_import_result {
    uint64_t size;
    const dmi_record *records; /* owned by the importer, valid until it is closed */
    uint64_t count;
    uint32_t objects;
    uint32_t page_size; /* of the machine that recorded; 0 when the text does not say */
    uint64_t allocations;
    uint64_t reallocs;
    uint64_t frees;
    uint64_t unknown_frees; /* skipped: frees of blocks that the recording never saw */
    uint64_t lost_frees;    /* a block came back without having been freed; a free was put in */
    uint64_t cut_lines;     /* 1 when the text ends in the middle of a line */
    uint64_t adjacent;      /* `-` directly before `+`, the most there can be of reallocs */
} dmi_import_result;

/* An importer of the text that `heaptrack -r` writes, fed in pieces. NULL with ENOMEM. */
DMI_API dmi_heaptrack *dmi_heaptrack_open(void);
/* One that refuses what the other refuses and keeps nothing: its finish gives no records. */
DMI_API dmi_heaptrack *dmi_heaptrack_open_check(void);
/* Read the next bytes of the text. -1 with EINVAL: see dmi_heaptrack_fault; ENOMEM. */
DMI_API int dmi_heaptrack_feed(dmi_heaptrack *import, const void *bytes, size_t size);
/* All text was fed: tell reallocs from coincidences, number the objects, give the records. */
DMI_API int dmi_heaptrack_finish(dmi_heaptrack *import, dmi_import_result *result);
/* After EINVAL: what was wrong; *offset is the first byte of that line in the text. */
DMI_API const char *dmi_heaptrack_fault(const dmi_heaptrack *import, uint64_t *offset);
DMI_API void dmi_heaptrack_close(dmi_heaptrack *import);

/* ---- replay ---------------------------------------------------------------------------------- */

/* What a recording is played on: a dmi heap, or (heap NULL) the functions of any allocator, or (those
 * NULL too) the null allocator, which costs nothing and shows what the replayer itself costs. */
typedef struct dmi_replay_target {
    uint64_t size;
    void *heap; /* a dmi heap, best on a manual clock, which the recording's clock then drives */
    void *(*malloc_fn)(size_t);
    void *(*calloc_fn)(size_t, size_t);
    void *(*realloc_fn)(void *, size_t);
    void *(*aligned_alloc_fn)(size_t, size_t);
    void (*free_fn)(void *);
    size_t (*usable_size_fn)(void *); /* may be NULL: then busy counts the bytes asked for */
    uint64_t page_size;               /* of this machine */
} dmi_replay_target;

/* Follow busy through the usable size of every block, and verify at each free and realloc that the
 * bytes written to a block are still there. Without it a replay does only what a program would. */
#define DMI_REPLAY_SCOUT 1

typedef struct dmi_replay_state {
    uint64_t size;
    uint64_t position;     /* records played */
    uint64_t clock_us;     /* the recording's clock */
    uint64_t operations;   /* alloc, calloc, realloc, free played */
    uint64_t failed;       /* allocations that returned NULL; their later frees are left out */
    uint64_t recorded_rss; /* the last rss record, bytes */
    /* With DMI_REPLAY_SCOUT: */
    uint64_t busy;          /* usable bytes of live blocks now */
    uint64_t peak_busy;     /* the exact maximum of busy so far */
    uint64_t peak_position; /* the position at which it was first reached */
    uint64_t damaged;       /* blocks whose bytes had changed; 0 in a sound allocator */
} dmi_replay_state;

typedef struct dmi_replay dmi_replay;

/* Begin a replay of checked or unchecked records (they are checked again). The records must outlive it.
 * NULL with EINVAL (bad records or target) or ENOMEM. */
DMI_API dmi_replay *dmi_replay_open(const void *records, uint64_t count, uint32_t objects,
                                    uint32_t threads, const dmi_replay_target *target,
                                    uint32_t flags);
/* Play on until until_record records are played, or the recording's clock would pass until_us, or the
 * end. Silence in the recording passes in slices of 50 ms (longer gaps: 1/1200 of the gap), so that what
 * a heap does over time does not depend on where a replay was stopped. Returns 1 at the end, 0 at
 * another stop, -1 with errno when the heap refused to advance. */
DMI_API int dmi_replay_play(dmi_replay *replay, uint64_t until_record, uint64_t until_us,
                            dmi_replay_state *state);
/* Free every block that is still live. */
DMI_API void dmi_replay_drain(dmi_replay *replay);
/* Forget the replay. Live blocks stay: destroy the heap, or drain first. NULL is allowed. */
DMI_API void dmi_replay_close(dmi_replay *replay);

#ifdef __cplusplus
}
#endif
#endif
