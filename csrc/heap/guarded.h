/* guarded.h - one allocation in N on pages of its own, between pages that nobody may touch.
 *
 * A guard slot is a run of the heap: a page in front, room for the largest block, a page behind. Only the pages of the
 * block are committed, and the block ends where the page behind begins, or up to its alignment before. When it is freed
 * its pages go and stay unreadable, until all slots were used and this one was freed first. Code that touches what is
 * no block's faults at that instruction, and the handler of such faults says what was touched and where, and who
 * allocated and freed it.
 *
 * The free blocks that come into the lists from which the fast path allocates are counted, and so is each block of the
 * free list. After about N of them the next allocation that finds its list empty is moved to a slot. So the fast paths
 * have no instruction more. A bias is left. A program that frees and allocates the same few blocks in turn never finds a
 * list empty, and is never sampled there. Blocks of sizes that are seldom allocated go through slow paths more often than
 * others.
 *
 * heap->lock is held, except where a function says otherwise.
 */
#ifndef DMI_GUARDED_H
#define DMI_GUARDED_H

#include "heap.h"
#include "trace.h"

/* The most slots that a heap has. */
#define DMI_GUARDED_SLOTS 256
/* Larger blocks are not sampled. */
#define DMI_GUARDED_MAX DMI_BUCKET_MAX

struct dmi_guarded {
    _Atomic int64_t left; /* places until the next sample; needs no lock */
    uint64_t every;
    uint64_t random;
    uint64_t frees;
    size_t count, busy;
    dmi_run *slot[DMI_GUARDED_SLOTS];
    /* Of the block that lies, or lay last, in each slot. */
    struct {
        dmi_trace allocated, freed;
    } trace[DMI_GUARDED_SLOTS];
};

/* Let one allocation in `every` be sampled. No lock: the heap is new. False: out of memory. */
bool _dmi_guarded_setup(dmi_heap *heap, uint64_t every);
void _dmi_guarded_drop(dmi_heap *heap);
/* Note that so many free blocks came into a list. No lock is needed. */
static inline void _dmi_guarded_note_places(dmi_heap *heap, int64_t places) {
    if (__builtin_expect(heap->guarded != NULL, 0))
        atomic_fetch_sub_explicit(&heap->guarded->left, places, memory_order_relaxed);
}
/* Is the next allocation to be sampled? No lock is needed. */
static inline bool _dmi_guarded_due(const dmi_heap *heap) {
    return __builtin_expect(heap->guarded != NULL, 0) &&
           atomic_load_explicit(&heap->guarded->left, memory_order_relaxed) <= 0;
}
/* A block of a slot, which reads as zeroes. Takes the lock. NULL: there is none, so allocate in the ordinary way. */
void *_dmi_guarded_alloc(dmi_heap *heap, size_t size, size_t align);
/* Free the block of a slot. */
void _dmi_guarded_free(dmi_heap *heap, dmi_run *run);
/* Who allocated the block of a slot, and who freed it; NULL: not known, or it is busy. No lock is needed, and a signal
 * handler may ask: then they may be those of the slot's next block. */
void _dmi_guarded_traces(const dmi_run *run, const dmi_trace **allocated, const dmi_trace **freed);
/* The heap's pages became LAZY again, which made uncommitted pages writable: protect those of slots. */
void _dmi_guarded_protect(dmi_heap *heap);
/* Committed bytes of the tables of all heaps. */
size_t _dmi_guarded_metadata(void);
#endif
