/* take.h - taking another thread's caches, and repairing what was taken.
 *
 * Fast paths take no lock, so somebody else may look at a thread's lists only after that thread was taken: its
 * TLS word points to _dmi_no_thread and it has passed a memory barrier since. Then it has at most one
 * operation in flight, which writes the head and the count of one run and the link of its own block. The taker
 * writes none of those. The owner's next slow path repairs what was taken before it does anything else.
 *
 * Whoever takes a thread holds the lock of its record until it has looked. A thread takes itself by that lock
 * alone. Records are locked one at a time, except by freeze, which locks all, newest first.
 */
#ifndef DMI_TAKE_H
#define DMI_TAKE_H

#include "heap.h"

/* Bring a record that its owner has locked in order. True: runs went to a shared cache. */
bool _dmi_thread_repair_taken(dmi_thread *self);
static inline bool _dmi_thread_repair(dmi_thread *self) {
    return __builtin_expect(self->state == DMI_THREAD_TAKEN, 0) && _dmi_thread_repair_taken(self);
}
/* Lock a record as its owner: brings it in order when it was taken. */
static inline void _dmi_thread_lock(dmi_thread *self) {
    _dmi_lock(&self->lock);
    (void)_dmi_thread_repair(self);
}
/* Lock a record from outside so that its caches may be read and its lists swept: a live thread other
 * than the caller is taken. False: it cannot be had now (no barrier on this OS); nothing is locked. */
bool _dmi_thread_take(dmi_thread *thread);
/* Bring the runs that were taken in order. Locked by the owner, or the owner is gone.
 * True: they went to the heap's shared cache, which is eager. */
bool _dmi_cache_repair(dmi_cache *cache);
/* Lock the cache that owns an LFH run, whoever that is; take: its thread is taken too. NULL: it cannot be
 * taken, or the run has no owner. */
dmi_cache *_dmi_cache_lock_of(dmi_run *run, bool take);
/* Hold every lock of the heap, with all its threads taken; and let go. heap->pass is held. False: some
 * thread cannot be taken on this OS; nothing is held. */
bool _dmi_heap_freeze(dmi_heap *heap);
void _dmi_heap_thaw(dmi_heap *heap);

#endif
