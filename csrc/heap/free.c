/* free.c - the whole path of a free that the fast path did not finish; checking; usable size. */
#include "fast.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void _dmi_die(int fault, const char *call, const void *address) {
    static const char *const what[] = {"no fault",
                                       "the heap was destroyed",
                                       "no heap owns this address",
                                       "another heap owns this address",
                                       "the address is inside a block, not at its start",
                                       "the block is free already",
                                       "the block was written behind its end",
                                       "a tag or link is damaged"};
    char line[160];
    int n = snprintf(line, sizeof line, "dmi: %s(%p): %s\n", call, address, what[fault]);
    _dmi_os_message(line, (size_t)n);
    abort();
}

/* ---- LFH ---------------------------------------------------------------------------------------------- */

/* What most remote frees come to: the descriptor's second line, and the first one for the first block only.
 * False: nothing was done. */
static inline bool free_remote(void *block, dmi_run *run, bool quietly) {
    uintptr_t owner = atomic_load_explicit(&run->owner, memory_order_acquire);
    dmi_thread *self = _dmi_self_get();
    if (owner == DMI_OWNER_NONE || owner == (uintptr_t)self || self == &_dmi_no_thread)
        return false;
    if (_dmi_lfh_push_remote(run, block)) {
        int saved = errno;
        dmi_heap *heap = _dmi_heap_of_run(run); /* which may be gone once its cache knows */
        _dmi_cache_pend(run);
        if (!quietly) _dmi_heap_tick(heap);
        errno = saved;
    }
    return true;
}

static void free_lfh(void *block, dmi_run *run) {
    for (;;) {
        uintptr_t owner = atomic_load_explicit(&run->owner, memory_order_acquire);
        if (owner == DMI_OWNER_NONE) {
            /* Of the shared cache, unless a thread adopts it this moment. */
            dmi_cache *cache = atomic_load_explicit(&run->cache, memory_order_acquire);
            if (cache->thread) continue;
            _dmi_lock(cache->lock);
            bool still = atomic_load_explicit(&run->cache, memory_order_relaxed) == cache;
            if (still) _dmi_cache_free(cache, run, block);
            _dmi_unlock(cache->lock);
            if (still) return;
            continue;
        }
        dmi_thread *self = _dmi_thread_self();
        if (self && owner == (uintptr_t)self) {
            /* Taken before, or a door without the fast path. */
            _dmi_thread_lock(self);
            dmi_cache *cache = atomic_load_explicit(&run->cache, memory_order_relaxed);
            bool still = cache->thread == self;
            if (still) _dmi_cache_free(cache, run, block);
            _dmi_unlock(&self->lock);
            if (still) return;
            continue;
        }
        if (_dmi_lfh_push_remote(run, block)) _dmi_cache_pend(run);
        /* A thread that was taken and allocates nothing would go this way for ever. */
        if (self && _dmi_self_get() == &_dmi_no_thread) {
            _dmi_thread_lock(self);
            _dmi_unlock(&self->lock);
        }
        return;
    }
}

/* Returns the heap, for settling may release the run and its segment. */
static inline dmi_heap *settle(dmi_run *run) {
    dmi_heap *heap = _dmi_heap_of_run(run);
    dmi_thread *self = _dmi_thread_self();
    _dmi_lock(&self->lock);
    /* A taker may have been here since the count fell to 0: then repair settles the run, or hands it over,
     * and it and its segment may be gone. Nobody else gives it back while it is this thread's. */
    bool taken = run->flags & DMI_RUN_TAKEN;
    bool handed_over = _dmi_thread_repair(self);
    if (!taken && !handed_over && atomic_load_explicit(&run->used, memory_order_relaxed) == 0)
        _dmi_cache_settle(atomic_load_explicit(&run->cache, memory_order_relaxed), run);
    _dmi_unlock(&self->lock);
    return heap;
}

void _dmi_free_settle(dmi_run *run) {
    int saved = errno;
    _dmi_heap_tick(settle(run));
    errno = saved;
}

void _dmi_free_settle_quietly(dmi_run *run) {
    int saved = errno;
    (void)settle(run);
    errno = saved;
}

/* ---- the back end --------------------------------------------------------------------------------------- */

/* The heap's lock is held. */
static int check_backend(const dmi_heap *heap, const dmi_run *run, const void *block) {
    switch (run->kind) {
    case DMI_RUN_LIST:
        switch (_dmi_freelist_check(run, block)) {
        case DMI_LIST_BUSY:
            return _dmi_canary_sound(heap, block, _dmi_freelist_usable(block)) ? DMI_OK
                                                                               : DMI_FAULT_OVERFLOW;
        case DMI_LIST_FREE: return DMI_FAULT_FREE;
        case DMI_LIST_INTERIOR: return DMI_FAULT_INTERIOR;
        default: return DMI_FAULT_CORRUPT;
        }
    case DMI_RUN_VIRTUAL:
        if (run->flags & DMI_RUN_KEPT) return DMI_FAULT_FREE; /* fallthrough */
    case DMI_RUN_LARGE:
        if (block != _dmi_run_base(run)) return DMI_FAULT_INTERIOR;
        return _dmi_canary_sound(heap, block, _dmi_run_size(run)) ? DMI_OK : DMI_FAULT_OVERFLOW;
    case DMI_RUN_FREE: return DMI_FAULT_FREE;
    default: return DMI_FAULT_FOREIGN;
    }
}

static void free_backend(dmi_heap *heap, dmi_run *run, void *block) {
    if (run->kind == DMI_RUN_LIST) {
        unsigned key = _dmi_list_key(block);
        if (heap->bucket_live[key]) heap->bucket_live[key]--;
        dmi_run *freed;
        dmi_tag *tag = _dmi_freelist_free(&heap->list, run, block, &freed);
        if (tag) _dmi_engine_freed_block(&heap->engine, run, tag);
        else _dmi_engine_freed_run(&heap->engine, freed);
    } else if (run->kind == DMI_RUN_LARGE) {
        _dmi_engine_freed_run(&heap->engine, _dmi_run_free(&heap->space, run));
    } else {
        _dmi_virtual_keep(&heap->space, run);
        _dmi_engine_freed_run(&heap->engine, run);
    }
}

static inline dmi_heap *free_any(void *block, dmi_run *run) {
    if (run->kind == DMI_RUN_NONE) _dmi_die(DMI_FAULT_FOREIGN, "free", block);
    dmi_heap *heap = _dmi_heap_of_run(run);
    if (run->kind == DMI_RUN_LFH) {
        free_lfh(block, run);
        return heap;
    }
    _dmi_heap_clock(heap);
    _dmi_lock(&heap->lock);
    int fault = check_backend(heap, run, block);
    if (!fault) free_backend(heap, run, block);
    _dmi_unlock(&heap->lock);
    if (fault) _dmi_die(fault, "free", block);
    return heap;
}

/* free never changes errno. */
void _dmi_free_slow(void *block, dmi_run *run) {
    if (free_remote(block, run, false) || !block) return;
    int saved = errno;
    _dmi_heap_tick(free_any(block, run));
    errno = saved;
}

void _dmi_free_quietly(void *block, dmi_run *run) {
    if (free_remote(block, run, true) || !block) return;
    int saved = errno;
    (void)free_any(block, run);
    errno = saved;
}

void dmi_free(void *block) { _dmi_fast_free(block); }

void dmi_heap_free(void *handle, void *block) {
    (void)handle;
    _dmi_fast_free(block);
}

void dmi_heap_free_sized(void *handle, void *block, size_t size) {
    (void)handle;
    (void)size;
    _dmi_fast_free(block);
}

/* ---- callers that must never crash -------------------------------------------------------------------- */

/* Python's frees mark the second word of an LFH block, so that a second free can be told from a first one
 * without walking; a mark that a new owner left in place is cleared up by walking. */
#define MARK(block) (_dmi_key ^ (uintptr_t)(block))

static bool marked(const void *block) {
    uint64_t word;
    memcpy(&word, (const char *)block + 8, sizeof word);
    return word == MARK(block);
}

static void mark(void *block, uint64_t word) { memcpy((char *)block + 8, &word, sizeof word); }

/* Is the block free? Its cache gets locked. */
static bool is_free(dmi_run *run, size_t index) {
    dmi_cache *cache = _dmi_cache_lock_of(run, true);
    if (!cache) return false;
    _dmi_cache_take_run(cache, run);
    dmi_blockmap map;
    size_t pinned = SIZE_MAX;
    bool result =
        index >= run->carved ||
        (_dmi_lfh_free_map(run, true, &map, &pinned, NULL) && _dmi_map_get(&map, index)) ||
        index == pinned;
    _dmi_unlock(cache->lock);
    return result;
}

static bool on_usable_pages(const dmi_run *run, size_t index) {
    size_t first = index * run->block_size >> _dmi_page_shift;
    size_t last = ((index + 1) * run->block_size - 1) >> _dmi_page_shift;
    for (size_t p = first; p <= last; p++)
        if (!_dmi_page_usable(run->segment, run->first + p)) return false;
    return true;
}

/* The virtual block or the inside of a large one that an address without a run of its own lies in. */
static int owns_virtual(dmi_heap *heap, void *argument) {
    const char *address = *(const char **)argument;
    int found = 0;
    _dmi_lock(&heap->lock);
    for (dmi_run *run = heap->space.virtuals; run && !found; run = run->next)
        found = address >= run->segment->base && address < run->segment->base + run->segment->size;
    _dmi_unlock(&heap->lock);
    return found;
}

static int owns_segment(dmi_heap *heap, void *argument) {
    const char *address = *(const char **)argument;
    int found = 0;
    _dmi_lock(&heap->lock);
    for (dmi_segment *s = heap->space.segments; s && !found; s = s->next)
        found = address >= s->base && address < s->base + s->size;
    _dmi_unlock(&heap->lock);
    return found;
}

/* No run covers it: the inside of a virtual block or of a free run, or foreign. */
static int check_unmapped(dmi_heap *heap, const void *block) {
    if (heap && owns_virtual(heap, &block)) return DMI_FAULT_INTERIOR;
    if (heap && owns_segment(heap, &block)) return DMI_FAULT_FREE;
    if (_dmi_heaps_each(owns_virtual, &block) || _dmi_heaps_each(owns_segment, &block))
        return DMI_FAULT_OTHER_HEAP;
    return DMI_FAULT_FOREIGN;
}

/* Segments are held: what the page map names stays a descriptor. */
static int check_run(dmi_heap *heap, const void *block, dmi_run *run) {
    dmi_heap *owner = _dmi_heap_of_run(run);
    if (heap && owner != heap) return DMI_FAULT_OTHER_HEAP;
    if (run->kind != DMI_RUN_LFH) {
        _dmi_lock(&owner->lock);
        int fault = check_backend(owner, run, block);
        _dmi_unlock(&owner->lock);
        return fault;
    }
    size_t offset = (size_t)((const char *)block - _dmi_run_base(run));
    size_t index = offset / run->block_size;
    if (index >= run->carved) return DMI_FAULT_FREE;
    if (offset % run->block_size) return DMI_FAULT_INTERIOR;
    if (!on_usable_pages(run, index)) return DMI_FAULT_FREE;
    if (marked(block) && is_free(run, index)) return DMI_FAULT_FREE;
    return DMI_OK;
}

int _dmi_check(dmi_heap *heap, const void *block, dmi_run **where) {
    dmi_thread *held = _dmi_hold();
    dmi_run *run = *where = _dmi_pagemap_find(block);
    bool none = run->kind == DMI_RUN_NONE;
    int fault = none ? DMI_OK : check_run(heap, block, run);
    _dmi_let_go(held);
    return none ? check_unmapped(heap, block) : fault;
}

int dmi_heap_check(void *handle, const void *block) {
    int saved = errno;
    dmi_heap *heap = _dmi_heap_resolve(handle);
    errno = saved;
    dmi_run *run;
    return heap ? _dmi_check(heap, block, &run) : DMI_FAULT_STALE_HEAP;
}

/* The common case in few steps: a block of a run of this thread's. The run tells the heap, and a live one by its
 * handle. False: nothing was done, and the whole check is to say why. */
static bool free_own(void *handle, void *block) {
    dmi_thread *held = _dmi_hold();
    dmi_run *run = _dmi_pagemap_find(block);
    bool own = held != &_dmi_no_thread && _dmi_owner_is(run, held) &&
               _dmi_heap_of_run(run)->handle == handle;
    if (own) {
        /* A run is short: 32 bits, which are divided faster. */
        uint32_t offset = (uint32_t)((char *)block - _dmi_run_base(run));
        uint32_t index = offset / run->block_size;
        own = index < run->carved && index * run->block_size == offset && run->parked == 0 &&
              !marked(block);
    }
    int32_t used = 1;
    if (own) {
        mark(block, MARK(block));
        used = _dmi_fast_push(run, block);
    }
    _dmi_let_go(held);
    if (used == 0) _dmi_free_settle(run);
    return own;
}

int dmi_heap_free_checked(void *handle, void *block) {
    if (__builtin_expect(free_own(handle, block), 1)) return DMI_OK;
    int saved = errno;
    dmi_heap *heap = _dmi_heap_resolve(handle);
    errno = saved;
    if (!heap) return DMI_FAULT_STALE_HEAP;
    dmi_run *run;
    int fault = _dmi_check(heap, block, &run);
    if (fault) return fault;
    if (run->kind == DMI_RUN_LFH) mark(block, MARK(block));
    _dmi_fast_free(block);
    return DMI_OK;
}

void *dmi_heap_malloc_checked(void *handle, size_t size) {
    void *block = _dmi_fast_heap_malloc(handle, size);
    if (block) mark(block, 0);
    return block;
}

/* ---- size ------------------------------------------------------------------------------------------------- */

size_t dmi_usable_size(const void *block) {
    dmi_run *run = _dmi_pagemap_find(block);
    switch (run->kind) {
    case DMI_RUN_LFH: return run->block_size;
    case DMI_RUN_LIST: return _dmi_freelist_usable(block) - _dmi_heap_of_run(run)->tail;
    case DMI_RUN_LARGE:
    case DMI_RUN_VIRTUAL: return _dmi_run_size(run) - _dmi_heap_of_run(run)->tail;
    default: return 0;
    }
}
