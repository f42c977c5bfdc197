/* cache.h - one thread's subsegments of one heap: where a block comes from when the fast path is empty.
 *
 * A run of a cache is in exactly one place: in a bucket's current slot, in its avail list (its free list is
 * not empty), in its spare list (empty, but it can grow), or in none (full: its bias says how many frees list
 * it again). Its count is 0 exactly when it must be settled.
 *
 * The cache's lock protects its slots, its lists and the lists of its runs; it is the lock of the thread's
 * record, or heap->shared_lock. The pending lists alone are anybody's: frees by other threads enter them
 * without a lock.
 */
#ifndef DMI_CACHE_H
#define DMI_CACHE_H

#include "heap.h"

/* Let nothing be handed out: every slot of the fast path becomes _dmi_no_run. */
void _dmi_cache_clear(dmi_cache *cache);
void _dmi_cache_init(dmi_cache *cache, dmi_heap *heap, dmi_thread *thread, dmi_lock *lock);
/* The cache of this thread for that heap; made if need be. NULL: no memory. Self is locked. */
dmi_cache *_dmi_cache_get(dmi_thread *self, dmi_heap *heap);
/* Hand out a block. NULL: no memory. The cache is locked. */
void *_dmi_cache_alloc(dmi_cache *cache, unsigned bucket);
/* Free a block of one of its runs. The cache is locked, the run not taken. */
void _dmi_cache_free(dmi_cache *cache, dmi_run *run, void *block);
/* used became 0: release the run or list it. Locked. */
void _dmi_cache_settle(dmi_cache *cache, dmi_run *run);
/* A full run's count is new: list it, whatever it was waiting for. Locked. */
void _dmi_cache_list(dmi_cache *cache, dmi_run *run);
/* Take in all runs with remote frees. Locked. */
void _dmi_cache_drain(dmi_cache *cache);
/* Is there anything to take in? A hint. */
static inline bool _dmi_cache_waits(const dmi_cache *cache) {
    return atomic_load_explicit(&cache->any_pending, memory_order_relaxed);
}
/* Enter a run in the pending list of the cache that owns it. No lock. */
void _dmi_cache_pend(dmi_run *run);
/* Settle a run whose count changed by more than one at once, if it is time. Locked. */
void _dmi_cache_review(dmi_cache *cache, dmi_run *run);
/* Mark the run as taken if its cache's thread is. The cache is locked. */
void _dmi_cache_take_run(dmi_cache *cache, dmi_run *run);
/* Give its empty subsegments back to their segments, the ones it allocates from too; true when there were any.
 * Cache locked; it is nobody's or the caller's own. */
bool _dmi_cache_shed(dmi_cache *cache);
/* Move every run of a thread's cache to the heap's shared one: the heap became eager. The thread's lock
 * is held and it is at rest. */
void _dmi_cache_hand_over(dmi_cache *cache);
/* Forget a cache: its heap goes. Its thread's lock is held and it is taken or the caller's. */
void _dmi_cache_drop(dmi_cache *cache);
/* Committed bytes of the caches. */
size_t _dmi_caches_metadata(void);

#endif
