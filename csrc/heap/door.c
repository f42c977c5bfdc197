/* door.c - doors for a program that had another allocator before: dmi/door.h.
 *
 * A thread's record names the cache that its doors allocate from, so that the fast path asks for no handle. It is
 * the empty cache after the thread entered another heap, after it was taken up by a new thread, and once the heap
 * is gone: then the slow path looks the heap up and names its cache.
 */
#include "alloc.h"
#include "fast.h"
#include "registry.h"
#include "take.h"
#include "thread.h"

#include <dmi/door.h>
#include <errno.h>
#include <string.h>

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define NOWHERE (&_dmi_no_thread.cache)

static void *process_heap;
static DMI_TLS void *entered;

static inline void *heap_now(void) {
    return entered ? entered : __atomic_load_n(&process_heap, __ATOMIC_RELAXED);
}

/* The heap to allocate from. One that was entered and is gone is left. NULL with errno. */
static dmi_heap *resolve(void) {
    if (entered && !_dmi_heap_resolve(entered)) entered = NULL;
    void *handle = heap_now();
    if (handle) return _dmi_heap_resolve(handle);
    errno = ENOMEM;
    return NULL;
}

/* ---- malloc -------------------------------------------------------------------------------------------- */

static __attribute__((noinline)) void *malloc_slow(size_t size) {
    dmi_thread *self = _dmi_self_get();
    void *block = _dmi_alloc_own(self, self->door, size);
    if (LIKELY(block)) return _dmi_observe_block(block, size, DMI_FRAME);
    dmi_heap *heap = resolve();
    if (!heap) return NULL;
    if (_dmi_heap_is_hard(heap)) return _dmi_heap_malloc_slow(heap->handle, size);
    block = _dmi_heap_alloc(heap, size, 1, NULL);
    /* Where the block came from a cache of this thread's, that is its memo now. */
    self = _dmi_self_get();
    if (self->memo_heap == heap->handle) self->door = self->memo;
    return _dmi_observe_block(block, size, DMI_FRAME);
}

static inline void *door_malloc(size_t size) {
    void *block = NULL;
    if (LIKELY(size <= DMI_DIRECT_MAX))
        block = _dmi_fast_pop(_dmi_self_get()->door->direct[(size + 15) / 16]);
    else if (size <= DMI_BUCKET_MAX)
        block = _dmi_fast_pop(_dmi_self_get()->door->current[_dmi_bucket(size)]);
    return LIKELY(block) ? block : malloc_slow(size);
}

void *dmi_door_malloc(void *door, size_t size) {
    (void)door;
    return door_malloc(size);
}

void *dmi_door_calloc(void *door, size_t count, size_t size) {
    (void)door;
    size_t total;
    if (LIKELY(!__builtin_mul_overflow(count, size, &total) && total <= DMI_BUCKET_MAX)) {
        void *block = door_malloc(total);
        return LIKELY(block) ? memset(block, 0, total) : NULL;
    }
    dmi_heap *heap = resolve();
    return heap ? dmi_heap_calloc(heap->handle, count, size) : NULL;
}

/* ---- free ---------------------------------------------------------------------------------------------- */

static __attribute__((noinline)) void free_slow(const dmi_door *door, void *block, dmi_run *run) {
    if (!block) return;
    if (run->kind == DMI_RUN_NONE) door->other_free(door->other, block);
    else _dmi_free_slow(block, run);
}

static inline void door_free(const dmi_door *door, void *block) {
    /* Of a block that may be anybody's the leaf may go while it is read. */
    dmi_run *run = _dmi_pagemap_look(block);
    if (LIKELY(_dmi_owner_is(run, _dmi_self_get()))) {
        uint64_t mark = _dmi_lfh_mark(run, block);
        if (LIKELY(_dmi_fast_word(block, 1) != mark)) {
            if (__builtin_expect(_dmi_fast_push(run, block, mark) == 0, 0)) _dmi_free_settle(run);
            return;
        }
    }
    free_slow(door, block, run);
}

void dmi_door_free(void *door, void *block) { door_free(door, block); }

/* ---- realloc ------------------------------------------------------------------------------------------- */

/* Its size is not known, so the other allocator makes it as large as it is to be, and then it can be copied. Without
 * memory for the copy it stays there. */
static __attribute__((noinline)) void *take_over(const dmi_door *door, void *block, size_t size) {
    void *theirs = door->other_realloc(door->other, block, size);
    if (!theirs) return NULL;
    void *ours = door_malloc(size);
    if (!ours) return theirs;
    memcpy(ours, theirs, size);
    door->other_free(door->other, theirs);
    return ours;
}

void *dmi_door_realloc(void *door, void *block, size_t size) {
    if (!block) return door_malloc(size);
    if (size == 0) size = 1;
    dmi_run *run = _dmi_pagemap_find(block);
    if (run->kind == DMI_RUN_LFH && LIKELY(!_dmi_run_is_hard(run) && !_dmi_fast_bad(run, block))) {
        /* As in realloc.c: shrinking to less than half moves, so that the memory is not held. */
        size_t have = run->block_size;
        if (size <= have && size >= have / 2) return block;
        if (_dmi_heap_of_run(run) == _dmi_self_get()->door->heap) {
            void *fresh = door_malloc(size);
            if (!fresh) return NULL;
            memcpy(fresh, block, have < size ? have : size);
            door_free(door, block);
            return fresh;
        }
    }
    return run->kind == DMI_RUN_NONE ? take_over(door, block, size) : dmi_realloc(block, size);
}

/* ---- which heap ---------------------------------------------------------------------------------------- */

/* Name the cache that this thread has of the heap, if it has one. */
static void turn_to(void *handle) {
    dmi_thread *self = _dmi_thread_self();
    if (!self) return;
    dmi_cache *found = NOWHERE;
    _dmi_thread_lock(self);
    if (self->memo_heap == handle) {
        found = self->memo;
    } else {
        for (dmi_cache *cache = self->caches; cache && found == NOWHERE;
             cache = cache->next_of_thread)
            if (cache->heap->handle == handle) found = cache;
    }
    self->door = found;
    _dmi_unlock(&self->lock);
}

int dmi_door_set(void *heap) {
    if (heap && !_dmi_heap_resolve(heap)) return -1;
    __atomic_store_n(&process_heap, heap, __ATOMIC_RELAXED);
    if (!entered) turn_to(heap);
    return 0;
}

void *dmi_door_enter(void *heap) {
    void *before = entered;
    if (before != heap) {
        entered = heap;
        turn_to(heap_now());
    }
    return before;
}

void *dmi_door_heap(void) { return heap_now(); }
