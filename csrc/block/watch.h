/* watch.h - floor 3: watched pages, on which a profiler knows who has each block.
 *
 * Places are sampled, not events. When a run is carved, one page in so many is drawn to be watched; no lifetime and no
 * order of frees has a say in that. A watched page is like any other: its blocks stand on the run's own list, at the
 * same place, and are handed out when they would have been. Two things are different, and both turn away a fast path
 * that was there before:
 *  - The page map leads to a shadow of the page, a descriptor that nobody owns: so every free takes the slow path.
 *    Whoever looks a run up gets the real one (_dmi_pagemap_find).
 *  - A free block on it carries its mark with one bit flipped (DMI_MARK_WATCHED), which no allocation takes for its
 *    run's: so it is handed out by the slow path. Its link is the usual one: whoever walks a list sees no difference.
 * Watched are the blocks that begin on the page. Pages are those of the page map, 4 KiB, whatever the system's are.
 *
 * A page that is hit very often for a while would cost too much: a tight pair of malloc and free uses one block
 * over and over. Then the block that is freed sits out: it goes to the list of remote frees, from where it comes back
 * when the run's own list is empty. The page stays watched, and nothing about its other blocks changes.
 *
 * What all pages together cost is for the profiler to bound: it thins them out (_dmi_watch_thin), which is fair for the
 * same reason that drawing them is. Free blocks of a page that was given up are handed out by the slow path once more.
 *
 * A shadow lives as long as a block of its page may be busy: until the run is given back, or the page is carved
 * afresh.
 */
#ifndef DMI_WATCH_H
#define DMI_WATCH_H

#include "../segment/segment.h"
#include "lfh.h"

#define DMI_WATCH_PAGE ((size_t)1 << DMI_UNIT_SHIFT)
#define DMI_WATCH_BLOCKS (DMI_WATCH_PAGE / 16)
/* A holder: who has a block, as the profiler has it. */
#define DMI_HOLDER_TOLD (UINT32_C(1) << 31) /* an agent was told of the block (os/probes.h) */
#define DMI_HOLDER_RARER_SHIFT 28           /* 3 bits: the profiler's */
#define DMI_HOLDER_CLASS_SHIFT 16           /* 12 bits: its frees are counted by that */
#define DMI_HOLDER_STACK UINT32_C(0xffff)   /* the profiler's */
#define DMI_WATCH_CLASSES 4096u

typedef struct dmi_watch dmi_watch;
struct dmi_watch {
    dmi_run shadow; /* first: what the page map leads to */
    dmi_watch *next, *prev;
    uint32_t page;           /* of the run, in units of DMI_WATCH_PAGE */
    uint16_t first, blocks;  /* the blocks that begin on it */
    _Atomic uint32_t every;  /* one page in so many was drawn, and is watched still */
    bool given_up;           /* it is no longer watched, but a free may know it */
    _Atomic uint32_t hits;   /* blocks freed since it was last asked whether one should sit out */
    _Atomic uint32_t before; /* hits of all pages at that time */
    _Atomic uint32_t holder[DMI_WATCH_BLOCKS]; /* who has the block; 0: not known */
};

extern _Atomic uint32_t _dmi_watch_period;
/* One page in how many is watched; 0: no new ones are. */
static inline uint32_t _dmi_watch_every(void) {
    return atomic_load_explicit(&_dmi_watch_period, memory_order_relaxed);
}
/* Watch one page in every that are carved from now on, drawn by that seed (0: drawing goes on). 0: no more. */
void _dmi_watch_begin(uint32_t every, uint64_t seed);
/* Give up every second page that is watched, at random: what is left stands for twice as many. */
void _dmi_watch_thin(void);
/* Blocks [run->carved, last) are about to be carved: draw among the pages that they begin on. The caller owns the run's
 * lists. */
void _dmi_watch_carve(dmi_run *run, size_t last);
/* Draw among the pages of a run that were carved before, and are not watched. Its lists are at rest and the caller's;
 * map: its free blocks; in_flight: one of them that an operation may hold (SIZE_MAX: none), which is left alone. */
void _dmi_watch_carved(dmi_run *run, const dmi_blockmap *map, size_t in_flight);
/* Forget the pages of a run that goes. It has no busy block, and the page map still knows it. */
void _dmi_watch_release(dmi_run *run);
/* Forget the pages of all runs of the space: they go. */
void _dmi_watch_forget(const dmi_space *space);
/* The watched page that the block begins on; NULL: none. The block is busy, and the caller's. */
static inline dmi_watch *_dmi_watch_of(const void *block) {
    dmi_run *run = _dmi_pagemap_look(block);
    return _dmi_run_is_shadow(run) ? (dmi_watch *)(void *)run : NULL;
}
static inline dmi_run *_dmi_watch_run(const dmi_watch *watch) { return watch->shadow.next; }
/* Its place among the page's blocks. */
static inline size_t _dmi_watch_index(const dmi_watch *watch, const void *block) {
    const dmi_run *run = _dmi_watch_run(watch);
    return (size_t)((const char *)block - _dmi_run_base(run)) / run->block_size - watch->first;
}
/* Blocks of watched pages that were freed, by the class of their holder. */
extern _Atomic uint32_t _dmi_watch_freed[DMI_WATCH_CLASSES];
/* Note who has it. */
static inline void _dmi_watch_hold(dmi_watch *watch, const void *block, uint32_t holder) {
    atomic_store_explicit(&watch->holder[_dmi_watch_index(watch, block)], holder,
                          memory_order_relaxed);
}
/* After so many hits of a page it is asked whether a block should sit out. Tests that compare places set it so high
 * that it is never asked. */
extern uint32_t _dmi_watch_patience;
/* Note that a block of a watched page is about to be freed. True: let it sit out, see above. */
bool _dmi_watch_note_free(dmi_run *shadow, const void *block);
/* Visit every watched page, with all of them locked: visit must take no lock. Stops at the first answer that is not 0,
 * and returns it. */
int _dmi_watch_each(int (*visit)(void *argument, dmi_watch *watch), void *argument);
/* How many are watched. */
size_t _dmi_watch_count(void);
/* Pages that were drawn and could not be watched, for want of memory. */
uint64_t _dmi_watch_lost(void);
/* Committed bytes. */
size_t _dmi_watch_metadata(void);
void _dmi_watch_lock(void);   /* around fork */
void _dmi_watch_unlock(void); /* around fork */

#endif
