/* replay.c - floor 7: plays a recording on an allocator, as fast as the allocator allows.
 *
 * The loop below is compiled once for each kind of allocator and once more for scouting, so that a
 * measured replay holds nothing but the calls of the recording and one write a page.
 */
#include <dmi/replay.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define SLICE_US 50000u    /* how often an idle heap is given the time */
#define SLICES_A_GAP 1200u /* at most, whatever the length of the gap */

typedef struct entry {
    unsigned char *block; /* NULL: dead, or its allocation failed */
    uint64_t size;        /* asked for */
    uint64_t usable;      /* scouting only */
} entry;

struct dmi_replay {
    const unsigned char *records;
    uint64_t count;
    uint64_t gap_start; /* the clock of the last time record */
    uint32_t objects;
    bool scout;
    entry *table;
    dmi_replay_target target;
    dmi_replay_state state;
};

typedef enum kind { ON_NULL, ON_HEAP, ON_FUNCTIONS } kind;

/* The null allocator hands out this address; nothing is written there. */
static unsigned char null_block[16];

/* ---- the allocator's five calls --------------------------------------------------------------- */

static inline void *allocate(const dmi_replay_target *target, kind on, const dmi_record *record) {
    size_t size = (size_t)record->size;
    size_t align = (size_t)1 << record->align_log2;
    if (on == ON_NULL) return null_block;
    if (on == ON_HEAP) {
        if (record->align_log2 == 0)
            return record->op == DMI_OP_CALLOC ? dmi_heap_calloc(target->heap, 1, size)
                                               : dmi_heap_malloc(target->heap, size);
        return dmi_heap_aligned_alloc(target->heap, align, size);
    }
    if (record->align_log2 == 0)
        return record->op == DMI_OP_CALLOC ? target->calloc_fn(1, size) : target->malloc_fn(size);
    /* aligned_alloc takes no alignment below a pointer's, and strict ones want a multiple of it. */
    if (align < sizeof(void *)) align = sizeof(void *);
    return target->aligned_alloc_fn(align, (size + align - 1) & ~(align - 1));
}

static inline void *resize(const dmi_replay_target *target, kind on, void *block, size_t size) {
    if (size == 0) size = 1; /* realloc(p, 0) is a free in some allocators and a block in others */
    if (on == ON_NULL) return null_block;
    if (on == ON_HEAP) return dmi_heap_realloc(target->heap, block, size);
    return target->realloc_fn(block, size);
}

static inline void release(const dmi_replay_target *target, kind on, void *block) {
    if (on == ON_HEAP) dmi_heap_free(target->heap, block);
    if (on == ON_FUNCTIONS) target->free_fn(block);
}

static inline uint64_t usable_of(const dmi_replay_target *target, kind on, const entry *object) {
    if (on == ON_HEAP) return dmi_usable_size(object->block);
    if (on == ON_FUNCTIONS && target->usable_size_fn) return target->usable_size_fn(object->block);
    return object->size;
}

/* ---- touching memory -------------------------------------------------------------------------- */

/* Write value to the first byte of the block and to the first byte of each further page in it. */
static inline void touch(unsigned char *block, uint64_t size, uint64_t page, unsigned char value) {
    if (size == 0) return;
    *(volatile unsigned char *)block = value;
    uint64_t to_next = page - ((uintptr_t)block & (page - 1));
    for (uint64_t at = to_next; at < size; at += page)
        *(volatile unsigned char *)(block + at) = value;
}

/* Does the block still hold what touch() wrote when it lay at `written`? The first `size` bytes count. */
static bool intact(const unsigned char *block, uintptr_t written, uint64_t size, uint64_t page,
                   unsigned char value) {
    if (size == 0) return true;
    if (block[0] != value) return false;
    for (uint64_t at = page - (written & (page - 1)); at < size; at += page)
        if (block[at] != value) return false;
    return true;
}

/* ---- the clock -------------------------------------------------------------------------------- */

/* Let the recording's clock run to `to`, in slices that depend on the gap alone. false when it would
 * pass until_us first; *failed on an error of the heap. */
static bool advance(dmi_replay *replay, uint64_t to, uint64_t until_us, bool *failed) {
    uint64_t gap = to - replay->gap_start;
    uint64_t slice = gap / SLICES_A_GAP + 1;
    if (slice < SLICE_US) slice = SLICE_US;
    while (replay->state.clock_us < to) {
        uint64_t done = (replay->state.clock_us - replay->gap_start) / slice;
        uint64_t next = replay->gap_start + (done + 1) * slice;
        if (next > to) next = to;
        if (next > until_us) return false;
        double seconds = (double)(next - replay->state.clock_us) * 1e-6;
        if (replay->target.heap && dmi_heap_advance(replay->target.heap, seconds) != 0) {
            *failed = true;
            return false;
        }
        replay->state.clock_us = next;
    }
    replay->gap_start = to;
    return true;
}

/* ---- the loop --------------------------------------------------------------------------------- */

static inline void note_busy(dmi_replay_state *state, uint64_t position) {
    if (state->busy <= state->peak_busy) return;
    state->peak_busy = state->busy;
    state->peak_position = position;
}

#if defined(__GNUC__)
__attribute__((always_inline))
#endif
static inline int
play_as(dmi_replay *replay, kind on, bool scout, uint64_t until_record, uint64_t until_us) {
    const dmi_replay_target target = replay->target;
    const uint64_t page = target.page_size;
    entry *table = replay->table;
    dmi_replay_state *state = &replay->state;
    uint64_t operations = 0;
    int result = 0;
    uint64_t at = state->position;

    for (; at < until_record; at++) {
        dmi_record record;
        memcpy(&record, replay->records + at * sizeof record, sizeof record);
        entry *object = &table[record.object];
        /* Never 0: a page that was taken by mistake reads as zeroes. */
        const unsigned char mark = (unsigned char)(record.object * 2654435761u >> 24 | 1u);
        switch (record.op) {
        case DMI_OP_ALLOC:
        case DMI_OP_CALLOC:
            operations++;
            object->block = allocate(&target, on, &record);
            object->size = record.size;
            if (!object->block) {
                state->failed++;
                break;
            }
            if (on != ON_NULL) touch(object->block, record.size, page, mark);
            if (scout) {
                object->usable = usable_of(&target, on, object);
                state->busy += object->usable;
                note_busy(state, at + 1);
            }
            break;
        case DMI_OP_REALLOC: {
            operations++;
            /* realloc keeps the bytes up to the smaller size, wherever it puts them. */
            uint64_t kept = object->size < record.size ? object->size : record.size;
            uintptr_t old = (uintptr_t)object->block;
            unsigned char *moved = resize(&target, on, object->block, (size_t)record.size);
            if (!moved) {
                state->failed++;
                break;
            }
            if (scout) {
                if (on != ON_NULL && old && !intact(moved, old, kept, page, mark)) state->damaged++;
                if (old) state->busy -= object->usable;
            }
            object->block = moved;
            object->size = record.size;
            if (on != ON_NULL) touch(moved, record.size, page, mark);
            if (scout) {
                object->usable = usable_of(&target, on, object);
                state->busy += object->usable;
                note_busy(state, at + 1);
            }
            break;
        }
        case DMI_OP_FREE:
            operations++;
            if (!object->block) break; /* its allocation failed */
            if (scout) {
                if (on != ON_NULL &&
                    !intact(object->block, (uintptr_t)object->block, object->size, page, mark))
                    state->damaged++;
                state->busy -= object->usable;
            }
            release(&target, on, object->block);
            object->block = NULL;
            break;
        case DMI_OP_TIME: {
            bool failed = false;
            if (!advance(replay, record.size, until_us, &failed)) {
                if (failed) result = -1;
                goto stop;
            }
            break;
        }
        default: state->recorded_rss = record.size;
        }
    }
stop:
    state->position = at;
    state->operations += operations;
    return result;
}

int dmi_replay_play(dmi_replay *replay, uint64_t until_record, uint64_t until_us,
                    dmi_replay_state *state) {
    if (!state || state->size < sizeof *state) {
        errno = EINVAL;
        return -1;
    }
    if (until_record > replay->count) until_record = replay->count;
    bool scout = replay->scout;
    int result;
    if (replay->target.heap)
        result = scout ? play_as(replay, ON_HEAP, true, until_record, until_us)
                       : play_as(replay, ON_HEAP, false, until_record, until_us);
    else if (replay->target.malloc_fn)
        result = scout ? play_as(replay, ON_FUNCTIONS, true, until_record, until_us)
                       : play_as(replay, ON_FUNCTIONS, false, until_record, until_us);
    else
        result = scout ? play_as(replay, ON_NULL, true, until_record, until_us)
                       : play_as(replay, ON_NULL, false, until_record, until_us);
    uint64_t size = state->size;
    *state = replay->state;
    state->size = size;
    if (result != 0) return result;
    return replay->state.position == replay->count;
}

/* ---- opening and closing ---------------------------------------------------------------------- */

static bool sound_target(const dmi_replay_target *target) {
    if (!target || target->size < sizeof *target) return false;
    if (target->page_size < 256 || (target->page_size & (target->page_size - 1)) != 0) return false;
    if (target->heap) return dmi_heap_valid(target->heap) == 1;
    if (!target->malloc_fn) return true;
    return target->calloc_fn && target->realloc_fn && target->aligned_alloc_fn && target->free_fn;
}

dmi_replay *dmi_replay_open(const void *records, uint64_t count, uint32_t objects, uint32_t threads,
                            const dmi_replay_target *target, uint32_t flags) {
    dmi_trace_summary summary = {.size = sizeof summary};
    if (!sound_target(target)) {
        errno = EINVAL;
        return NULL;
    }
    if (dmi_trace_check(records, count, objects, threads, &summary) != 0) return NULL;
    dmi_replay *replay = calloc(1, sizeof *replay);
    /* One entry at least: time records look at entry 0 without using it. */
    entry *table = calloc((size_t)objects + 1, sizeof *table);
    if (!replay || !table) {
        free(table);
        free(replay);
        errno = ENOMEM;
        return NULL;
    }
    replay->records = records;
    replay->count = count;
    replay->objects = objects;
    replay->scout = (flags & DMI_REPLAY_SCOUT) != 0;
    replay->table = table;
    replay->target = *target;
    return replay;
}

void dmi_replay_drain(dmi_replay *replay) {
    kind on = replay->target.heap ? ON_HEAP : replay->target.malloc_fn ? ON_FUNCTIONS : ON_NULL;
    for (uint32_t i = 0; i < replay->objects; i++) {
        if (!replay->table[i].block) continue;
        release(&replay->target, on, replay->table[i].block);
        replay->table[i].block = NULL;
    }
    replay->state.busy = 0;
}

void dmi_replay_close(dmi_replay *replay) {
    if (!replay) return;
    free(replay->table);
    free(replay);
}
