/* guarded.h - one allocation in N on pages of its own, between pages that nobody may touch.
 *
 * A slot is a run of the heap: a page in front, room for the largest block, a page behind. Only the pages of the block
 * are committed, and the block ends where the page behind begins. When it is freed its pages go and stay unreadable,
 * until all slots were used and this one is the oldest. Whoever touches what is no block's faults at that instruction, and
 * the handler of such faults says what it was and where.
 *
 * What is sampled: places that come into the lists from which the fast path allocates. After about N of them the
 * next allocation that finds its list empty is moved to a slot. So the fast paths have no instruction more. The bias
 * that is left: a program that frees and allocates the same few blocks in turn never finds a list empty, and is never
 * sampled there; and blocks of sizes that are seldom allocated go through slow paths more often than others.
 *
 * All of it under heap->lock, but for what says otherwise.
 */
#ifndef DMI_GUARDED_H
#define DMI_GUARDED_H

#include "heap.h"

/* A heap has so many slots at most. */
#define DMI_GUARDED_SLOTS 256
/* Larger blocks are not sampled. */
#define DMI_GUARDED_MAX DMI_BUCKET_MAX

struct dmi_guarded {
    _Atomic int64_t left; /* places until the next sample; without the lock */
    uint64_t every;
    uint64_t random;
    uint64_t frees;
    size_t count;
    dmi_run *slot[DMI_GUARDED_SLOTS];
};

/* Let one allocation in `every` be sampled. No lock: the heap is new. False: out of memory. */
bool _dmi_guarded_setup(dmi_heap *heap, uint64_t every);
void _dmi_guarded_drop(dmi_heap *heap);
/* So many places came into a list. No lock is needed for this and the next one. */
static inline void _dmi_guarded_note_places(dmi_heap *heap, int64_t places) {
    if (__builtin_expect(heap->guarded != NULL, 0))
        atomic_fetch_sub_explicit(&heap->guarded->left, places, memory_order_relaxed);
}
static inline bool _dmi_guarded_due(const dmi_heap *heap) {
    return __builtin_expect(heap->guarded != NULL, 0) &&
           atomic_load_explicit(&heap->guarded->left, memory_order_relaxed) <= 0;
}
/* A block of a slot, which reads as zeroes; takes the lock. NULL: none is to be had, and the ordinary way is gone. */
void *_dmi_guarded_alloc(dmi_heap *heap, size_t size, size_t align);
void _dmi_guarded_free(dmi_heap *heap, dmi_run *run);
/* The heap's pages are LAZY again: uncommitted ones are writable, but for those of slots. */
void _dmi_guarded_protect(dmi_heap *heap);
/* Committed bytes of the tables of all heaps. */
size_t _dmi_guarded_metadata(void);
#endif
