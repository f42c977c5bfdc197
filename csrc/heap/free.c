/* free.c - the whole path of a free that the fast path did not finish; usable size. */
#include "../block/watch.h"
#include "../decommit/level.h"
#include "cache.h"
#include "check.h"
#include "fast.h"
#include "fault.h"
#include "guarded.h"
#include "hard_fast.h"
#include "hard_large.h"
#include "leave.h"
#include "registry.h"
#include "take.h"
#include "thread.h"
#include "tick.h"

#include <errno.h>

/* ---- LFH ---------------------------------------------------------------------------------------------- */

/* What most remote frees come to: the descriptor's second line, and the first one for the first block only.
 * False: nothing was done. */
static inline bool free_remote(void *block, dmi_run *run, bool quietly) {
    uintptr_t owner = atomic_load_explicit(&run->owner, memory_order_acquire);
    dmi_thread *self = _dmi_self_get();
    if (owner == DMI_OWNER_NONE || owner == (uintptr_t)self || self == &_dmi_no_thread)
        return false;
    if (__builtin_expect(_dmi_fast_bad(run, block), 0)) return false;
    if (_dmi_lfh_push_remote(run, block, 0)) {
        int saved = errno;
        dmi_heap *heap = _dmi_heap_of_run(run); /* which may be gone once its cache knows */
        _dmi_cache_pend(run);
        if (!quietly) _dmi_heap_tick(heap);
        errno = saved;
    }
    return true;
}

/* flipped: of the mark, DMI_MARK_WATCHED or 0. */
static void free_lfh(void *block, dmi_run *run, uint64_t flipped) {
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
        if (_dmi_lfh_push_remote(run, block, flipped)) _dmi_cache_pend(run);
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
    _dmi_fault_tell("free");
    errno = saved;
}

void _dmi_free_settle_quietly(dmi_run *run) {
    int saved = errno;
    (void)settle(run);
    _dmi_fault_tell("free");
    errno = saved;
}

/* ---- the back end --------------------------------------------------------------------------------------- */

static void free_backend(dmi_heap *heap, dmi_run *run, void *block) {
    if (run->kind == DMI_RUN_LIST) {
        unsigned key = _dmi_list_key(block);
        if (heap->bucket_live[key]) heap->bucket_live[key]--;
        dmi_run *freed;
        dmi_tag *tag = _dmi_freelist_free(&heap->list, run, block, &freed);
        if (tag) _dmi_engine_give_freed_block(&heap->engine, run, tag);
        else _dmi_engine_give_freed_run(&heap->engine, freed);
    } else if (run->kind == DMI_RUN_GUARDED) {
        _dmi_guarded_free(heap, run);
    } else if (_dmi_heap_is_hard(heap)) {
        _dmi_observe_free(block);
        if (run->kind == DMI_RUN_LARGE) _dmi_hard_withhold_run(heap, run);
        else _dmi_hard_withhold_map(heap, run);
    } else if (run->kind == DMI_RUN_LARGE) {
        _dmi_observe_free(block);
        _dmi_engine_give_freed_run(&heap->engine, _dmi_run_free(&heap->space, run));
    } else {
        _dmi_observe_free(block);
        _dmi_level_note(&heap->engine);
        _dmi_virtual_keep(&heap->space, run);
        _dmi_engine_give_freed_run(&heap->engine, run);
        _dmi_level_enforce(&heap->engine);
    }
}

static inline dmi_heap *free_any(void *block, dmi_run *run) {
    int fault = DMI_FAULT_FOREIGN;
    if (run->kind == DMI_RUN_NONE) {
        _dmi_fault_tell_found(fault, "free", block);
        return NULL;
    }
    dmi_heap *heap = _dmi_heap_of_run(run);
    if (run->kind == DMI_RUN_LFH) {
        fault = _dmi_check_lfh(run, block);
        if (fault) _dmi_fault_tell_found(fault, "free", block);
        else free_lfh(block, run, 0);
        return heap;
    }
    _dmi_heap_clock(heap);
    _dmi_lock(&heap->lock);
    fault = _dmi_check_backend(heap, run, block);
    if (!fault) free_backend(heap, run, block);
    _dmi_heap_unlock(heap);
    if (fault) _dmi_fault_tell_found(fault, "free", block);
    return heap;
}

/* Of a subsegment of a hardened heap. */
static void free_hardened(void *block, dmi_run *run, bool quietly) {
    int saved = errno;
    dmi_heap *heap = _dmi_heap_of_run(run);
    int fault = _dmi_hard_free_slow(run, block);
    if (__builtin_expect(fault, 0)) _dmi_fault_tell_found(fault, "free", block);
    else if (!quietly) _dmi_heap_tick(heap);
    _dmi_fault_tell("free");
    errno = saved;
}

static void free_hardened_loudly(void *block, dmi_run *run) { free_hardened(block, run, false); }
static void free_hardened_quietly(void *block, dmi_run *run) { free_hardened(block, run, true); }

/* A block of a watched page: what is known of it goes, and it goes the long way. */
static __attribute__((noinline, cold)) void free_watched(void *block, dmi_run *shadow,
                                                         bool quietly) {
    int saved = errno;
    dmi_run *run = shadow->next;
    dmi_heap *heap = _dmi_heap_of_run(run);
    int fault = _dmi_check_lfh(run, block);
    if (fault) {
        _dmi_fault_tell_found(fault, "free", block);
    } else if (_dmi_watch_note_free(shadow, block)) {
        /* It sits out on the list of remote frees, which is looked at when there is nothing else. */
        if (_dmi_lfh_push_remote(run, block, DMI_MARK_WATCHED)) _dmi_cache_pend(run);
    } else {
        bool own = _dmi_owner_is(run, _dmi_self_get());
        free_lfh(block, run, DMI_MARK_WATCHED);
        quietly |= own; /* as a free of one's own on any other page */
    }
    if (!quietly) _dmi_heap_tick(heap);
    _dmi_fault_tell("free");
    errno = saved;
}

/* free never changes errno. */
void _dmi_free_slow(void *block, dmi_run *run) {
    if (__builtin_expect(_dmi_run_is_shadow(run), 0)) {
        free_watched(block, run, false);
        return;
    }
    if (_dmi_run_is_hard(run)) {
        _dmi_hard_free_or(block, run, free_hardened_loudly);
        return;
    }
    if (free_remote(block, run, false) || !block) return;
    int saved = errno;
    dmi_heap *heap = free_any(block, run);
    if (heap) _dmi_heap_tick(heap);
    _dmi_fault_tell("free");
    errno = saved;
}

void _dmi_free_quietly(void *block, dmi_run *run) {
    if (__builtin_expect(_dmi_run_is_shadow(run), 0)) {
        free_watched(block, run, true);
        return;
    }
    if (_dmi_run_is_hard(run)) {
        _dmi_hard_free_or(block, run, free_hardened_quietly);
        return;
    }
    if (free_remote(block, run, true) || !block) return;
    int saved = errno;
    (void)free_any(block, run);
    _dmi_fault_tell("free");
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

size_t dmi_usable_size(const void *block) {
    dmi_run *run = _dmi_pagemap_find(block);
    switch (run->kind) {
    /* Of what is no block, nothing: some ask before they write. */
    case DMI_RUN_LFH:
        if (!_dmi_lfh_fits(run, _dmi_lfh_mark(run, block))) return 0;
        return run->block_size - (_dmi_run_is_hard(run) ? _dmi_heap_of_run(run)->tail : 0);
    case DMI_RUN_LIST: {
        /* Whoever asks while the heap is locked, from a walk say, is told what the tag says. */
        dmi_heap *heap = _dmi_heap_of_run(run);
        bool locked = _dmi_lock_try(&heap->lock);
        bool busy = !locked || _dmi_freelist_check(run, block) == DMI_LIST_BUSY;
        size_t usable = busy ? _dmi_freelist_usable(block) - heap->tail : 0;
        if (locked) _dmi_unlock(&heap->lock);
        return usable;
    }
    case DMI_RUN_GUARDED:
        if (block != _dmi_guarded_block(run) || run->flags & DMI_RUN_KEPT) return 0;
        return run->block_size;
    case DMI_RUN_LARGE:
    case DMI_RUN_VIRTUAL:
        if (block != _dmi_run_base(run)) return 0;
        return _dmi_run_size(run) - _dmi_heap_of_run(run)->tail;
    default: return 0;
    }
}
