/* hard.h - what is different about the small blocks of a hardened heap.
 *
 * They come from subsegments as everybody's, but all through the heap's shared cache and under its lock, so that no
 * operation is ever in flight and each can be checked whole. Which blocks are busy stands in a bitmap out of line, in
 * metadata of its own: whatever somebody writes into a free block, and whatever he read there, no block is handed out
 * that is busy or none. Behind each block stands a canary. A freed block waits in the heap's quarantine, from which
 * one is drawn at random for each that comes in; it must be as it was left. What is carved is linked in random order.
 * Everything here wants heap->shared_lock held, except where it says otherwise.
 */
#ifndef DMI_HARD_H
#define DMI_HARD_H

#include "heap.h"

/* Give a fresh run its bitmap. False: no memory, or too many runs (65,535). */
bool _dmi_hard_attach(dmi_run *run);
/* It goes back: take the bitmap away. */
void _dmi_hard_detach(dmi_run *run);
/* The first block of the run's list, busy from now on. NULL: there is none, or it is not what it must be. */
void *_dmi_hard_pop(dmi_heap *heap, dmi_run *run);
/* Link what was carved last in random order. */
void _dmi_hard_shuffle(dmi_heap *heap, dmi_run *run);
/* Give the heap its quarantine. False: no memory. No lock is needed. */
bool _dmi_hard_setup(dmi_heap *heap);
/* The heap goes. No lock is needed. */
void _dmi_hard_drop(dmi_heap *heap);
/* Let everything out of the quarantine: its memory is asked for, or looked at. */
void _dmi_hard_flush(dmi_heap *heap);
/* Free, with every check; takes the lock. Returns a fault kind. *tick: a pass should be seen to, once in so many. */
int _dmi_hard_free(dmi_heap *heap, dmi_run *run, void *block, bool *tick);
/* Only the check; takes the lock. */
int _dmi_hard_check(dmi_heap *heap, dmi_run *run, const void *block);
/* Is that block handed out? */
bool _dmi_hard_busy(const dmi_run *run, size_t index);
/* Committed bytes of bitmaps and quarantines. */
size_t _dmi_hard_metadata(void);

#endif
