/* hard.h - what is different about the small blocks of a hardened heap.
 *
 * They come from subsegments as in every heap, and each thread has its own. But the usual fast paths do not see these:
 * to hand out a block, or to take one back, means to hold the lock of the cache that owns its run, or to be its thread
 * and inside (owner.h). So no operation is ever in flight, no run is ever taken, and each operation can be checked whole.
 *
 * Whether a block is free, busy or waiting stands out of line, in metadata of its own. So no block is handed out that
 * is busy, and no address that is no block, whatever a program writes into a free one. A canary stands behind each
 * block.
 *
 * A freed block waits in the quarantine of its run's cache (quarantine.h): first in a place, then on a stack. A stack that
 * is full gives some back to their runs, and one that is empty is filled from the current run. A block that waits counts
 * as busy in its run, and keeps its canary. When it leaves the quarantine its first two words must be as they were left.
 *
 * Blocks that are carved are linked in random order, a few neighbours at a time.
 *
 * The cache's lock is held, except where a function says otherwise.
 */
#ifndef DMI_HARD_H
#define DMI_HARD_H

#include "heap.h"

/* Give a fresh run its states. False: out of memory. */
bool _dmi_hard_attach(dmi_run *run);
/* Take them away: the run goes back. */
void _dmi_hard_detach(dmi_run *run);
/* Take the first block of the run's list: it is busy from now on, but not cleared, and has no canary yet. NULL: there
 * is none, or it is damaged. */
void *_dmi_hard_pop(dmi_quarantine *quarantine, dmi_run *run);
/* Link what was carved last in random order. */
void _dmi_hard_shuffle(dmi_cache *cache, dmi_run *run);
/* Give the cache its quarantine. False: out of memory. No lock is needed. */
bool _dmi_hard_setup(dmi_cache *cache);
/* Drop the cache's quarantine, if it has one: the cache goes. */
void _dmi_hard_drop(dmi_cache *cache);
/* Drop the states of all runs and the shared cache's quarantine: the heap goes. No lock is needed. */
void _dmi_hard_drop_all(dmi_heap *heap);
/* Let everything out of the quarantine, if there is one: its memory is wanted, or somebody looks at it. */
void _dmi_hard_flush(dmi_cache *cache);
/* Hand out a block, one that waited or another. NULL: out of memory. */
void *_dmi_hard_alloc(dmi_cache *cache, unsigned bucket);
/* A block that waited in that cache of this thread's, for a path that was not the shortest. NULL: go the whole way. Takes
 * the lock if it must. */
void *_dmi_hard_draw(dmi_thread *self, dmi_cache *cache, size_t size);
/* Check a block and free it. Takes the lock. Returns the kind of a fault, in which case nothing is freed, or DMI_OK. */
int _dmi_hard_free_slow(dmi_run *run, void *block);
/* Only the check. Takes the lock. */
int _dmi_hard_check(dmi_run *run, const void *block);
/* Is that block handed out? */
bool _dmi_hard_busy(const dmi_run *run, size_t index);
/* Committed bytes of states and quarantines. */
size_t _dmi_hard_metadata(void);

#endif
