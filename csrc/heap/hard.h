/* hard.h - what is different about the small blocks of a hardened heap.
 *
 * They come from subsegments as everybody's, and each thread has its own. But no fast path sees these: whoever hands
 * out a block, or takes one back, holds the lock of the cache that owns its run, that thread's or any other. So no
 * operation is ever in flight, no run is ever taken, and each operation can be checked whole. What each block is stands
 * out of line, in metadata of its own: whatever somebody writes into a free block, and whatever he read there, no block
 * is handed out that is busy or none. Behind each block stands a canary. A freed block waits in the quarantine of its
 * run's cache, one bin for each bucket: first in a ring, until so many others were freed, then in a pool, from which an
 * allocation draws one at random, and which gives some back to the runs when it is full. What waits counts as busy in its run. When it leaves, it must be as it was left.
 * What is carved is linked in random order.
 * Everything here wants the cache's lock held, except where it says otherwise.
 */
#ifndef DMI_HARD_H
#define DMI_HARD_H

#include "heap.h"

/* Give a fresh run its states. False: no memory. */
bool _dmi_hard_attach(dmi_run *run);
/* It goes back: take them away. */
void _dmi_hard_detach(dmi_run *run);
/* The first block of the run's list, busy from now on, but neither cleared nor closed by a canary. NULL: there is none,
 * or it is not what it must be. */
void *_dmi_hard_pop(dmi_quarantine *quarantine, dmi_run *run);
/* Link what was carved last in random order. */
void _dmi_hard_shuffle(dmi_cache *cache, dmi_run *run);
/* Give the cache its quarantine. False: no memory. No lock is needed. */
bool _dmi_hard_setup(dmi_cache *cache);
/* The cache goes: so does its quarantine, if it has one. */
void _dmi_hard_drop(dmi_cache *cache);
/* The heap goes, with what its runs have. No lock is needed. */
void _dmi_hard_drop_all(dmi_heap *heap);
/* Let everything out of the quarantine, if there is one: its memory is asked for, or looked at. */
void _dmi_hard_flush(dmi_cache *cache);
/* Hand out a block, one that waited or another. NULL: no memory. */
void *_dmi_hard_alloc(dmi_cache *cache, unsigned bucket);
/* Free with every check. Takes the lock. Returns a fault kind. */
int _dmi_hard_free_slow(dmi_run *run, void *block);
/* Only the check. Takes the lock. */
int _dmi_hard_check(dmi_run *run, const void *block);
/* Is that block handed out? */
bool _dmi_hard_busy(const dmi_run *run, size_t index);
/* Committed bytes of states and quarantines. */
size_t _dmi_hard_metadata(void);

#endif
