/* fork.c - every lock of the core is held while the process forks, and the child brings in order what the
 * threads that it does not have left behind. */
#include "fork.h"
#include "cache.h"
#include "owner.h"
#include "records.h"
#include "registry.h"
#include "scavenger.h"
#include "take.h"

#include "../block/watch.h"
#include "../decommit/pressure.h"

static int lock_pass(dmi_heap *heap, void *unused) {
    (void)unused;
    _dmi_lock(&heap->pass);
    return 0;
}
static int unlock_pass(dmi_heap *heap, void *unused) {
    (void)unused;
    _dmi_unlock(&heap->pass);
    return 0;
}
static int lock_heap(dmi_heap *heap, void *unused) {
    (void)unused;
    _dmi_lock(&heap->shared_lock);
    _dmi_lock(&heap->unmapping);
    _dmi_lock(&heap->lock);
    return 0;
}
static int unlock_heap(dmi_heap *heap, void *unused) {
    (void)unused;
    _dmi_unlock(&heap->lock);
    _dmi_unlock(&heap->unmapping);
    _dmi_unlock(&heap->shared_lock);
    return 0;
}

static const dmi_fork_part *parts[DMI_FORK_PARTS];
static size_t part_count; /* changed while libraries are loaded only */

void _dmi_fork_add(const dmi_fork_part *part) {
    if (part_count < DMI_FORK_PARTS) parts[part_count++] = part;
}

static void lock_parts(void) {
    for (size_t i = part_count; i-- > 0;)
        if (parts[i]->lock) parts[i]->lock();
}
static void unlock_parts(bool in_child) {
    for (size_t i = 0; i < part_count; i++) {
        if (in_child && parts[i]->child) parts[i]->child();
        else if (parts[i]->lock) parts[i]->unlock();
    }
}

static void fork_prepare(void) {
    lock_parts();
    _dmi_scavenger_stop();
    _dmi_heaps_lock();
    (void)_dmi_heaps_each_locked(lock_pass,
                                 NULL); /* nobody takes the registry of heaps inside one */
    _dmi_records_lock();
    for (dmi_thread *t = _dmi_threads(); t; t = t->next) {
        _dmi_lock(&t->lock);
        if (t != _dmi_record) _dmi_owner_arrive(t);
    }
    (void)_dmi_heaps_each_locked(lock_heap, NULL);
    _dmi_virtual_lock();
    _dmi_pagemap_lock();
    _dmi_pressure_lock();
    _dmi_watch_lock();
}

static void unlock_heaps(void) {
    _dmi_watch_unlock();
    _dmi_pressure_unlock();
    _dmi_pagemap_unlock();
    _dmi_virtual_unlock();
    (void)_dmi_heaps_each_locked(unlock_heap, NULL);
}
static void unlock_threads(bool in_child) {
    for (dmi_thread *t = _dmi_threads(); t; t = t->next) _dmi_unlock(&t->lock);
    _dmi_records_unlock();
    (void)_dmi_heaps_each_locked(unlock_pass, NULL);
    _dmi_heaps_unlock();
    _dmi_scavenger_rest();
    _dmi_scavenger_resume();
    unlock_parts(in_child);
}

static void fork_parent(void) {
    unlock_heaps();
    unlock_threads(false);
}

static int recount_run(dmi_run *run) {
    dmi_blockmap map;
    size_t free_blocks = 0;
    if (!_dmi_lfh_free_map(run, true, &map, NULL, NULL)) return 0;
    for (size_t w = 0; w < _dmi_bits_words(run->carved); w++)
        free_blocks += (size_t)__builtin_popcountll(map.word[w]);
    unsigned remote = DMI_REMOTE_COUNT(atomic_load_explicit(&run->remote, memory_order_relaxed));
    int32_t busy = (int32_t)(run->carved - free_blocks + remote);
    atomic_store_explicit(&run->used, busy + run->bias, memory_order_relaxed);
    return 0;
}

static int recount(dmi_heap *heap, void *unused) {
    (void)unused;
    for (dmi_segment *segment = heap->space.segments; segment; segment = segment->next)
        for (size_t page = 0; page < segment->pages;) {
            dmi_run *run = _dmi_segment_run(segment, page);
            page += run->pages;
            dmi_cache *cache = run->kind == DMI_RUN_LFH ? run->cache : NULL;
            if (!cache || !cache->thread || cache->thread->state != DMI_THREAD_ABANDONED) continue;
            (void)recount_run(run);
            _dmi_cache_list(cache, run);
        }
    return 0;
}

/* The other threads are gone; one operation of each may have been cut off at any instruction. What it
 * held stays busy for ever; everything else is counted afresh from the lists. */
static void fork_child(void) {
    _dmi_segments_forget_guards();
    unlock_heaps(); /* bringing the runs in order gives some of them back; there is no other thread */
    _dmi_records_forget_abandoned(); /* a thread that was ending or beginning is not there either */
    for (dmi_thread *t = _dmi_threads(); t; t = t->next) {
        if (t == _dmi_record) continue;
        if (t->state != DMI_THREAD_ABANDONED) {
            atomic_store_explicit(&t->guarding, 0, memory_order_relaxed);
            for (dmi_cache *cache = t->caches; cache; cache = cache->next_of_thread) {
                (void)_dmi_cache_repair(cache);
                atomic_fetch_add_explicit(&cache->heap->abandoned, 1, memory_order_relaxed);
            }
            t->state = DMI_THREAD_ABANDONED;
            t->tls = NULL;
            t->memo_heap = DMI_NO_HANDLE;
            t->door = &_dmi_no_thread.cache;
        }
        _dmi_record_put_locked(t);
    }
    (void)_dmi_heaps_each_locked(recount, NULL);
    (void)_dmi_os_barrier_setup();
    unlock_threads(true);
}

int _dmi_fork_setup(void) { return _dmi_os_at_fork(fork_prepare, fork_parent, fork_child); }
