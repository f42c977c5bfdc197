/* run.h - the descriptor of a run: contiguous pages inside a segment, used for one purpose.
 *
 * Descriptors live outside the pages that users write to. The first cache line is what its owner writes with
 * every block and what the counters read. The second is what other threads need to free a block, which the
 * owner seldom writes: so neither waits for the other's line.
 */
#ifndef DMI_RUN_H
#define DMI_RUN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum dmi_run_kind {
    DMI_RUN_NONE = 0,    /* the sentinel that foreign addresses map to */
    DMI_RUN_FREE = 1,    /* pages nobody uses */
    DMI_RUN_LFH = 2,     /* a subsegment: equal blocks of one bucket */
    DMI_RUN_LIST = 3,    /* a region of the back end's free list */
    DMI_RUN_LARGE = 4,   /* one block of whole pages */
    DMI_RUN_GUARDED = 5, /* one sampled block between guards (heap/guarded.h) */
    DMI_RUN_VIRTUAL = 6, /* one block mapped on its own */
    DMI_RUN_KINDS = 7,
    DMI_RUN_SHADOW =
        7 /* of a watched page: in the page map alone, next is the run (block/watch.h) */
} dmi_run_kind;

/* Never the address of a thread record: no fast path takes such a run for its own. */
#define DMI_OWNER_NONE ((uintptr_t)1)
/* A subsegment of a hardened heap: nor this. */
#define DMI_OWNER_HARD ((uintptr_t)2)
#define DMI_OWNER_SHADOW ((uintptr_t)3) /* no run: of a watched page (block/watch.h) */

typedef struct dmi_run dmi_run;
struct dmi_segment;

/* Where an LFH run stands in its cache. */
typedef enum dmi_run_place {
    DMI_PLACE_FULL = 0,    /* no list: nothing to hand out when last looked at */
    DMI_PLACE_CURRENT = 1, /* in a current slot */
    DMI_PLACE_AVAIL = 2,   /* in the list of runs with something to hand out */
    DMI_PLACE_SPARE = 3    /* in the list of runs that can grow */
} dmi_run_place;

struct dmi_run {
    /* -- the owner's -- */
    _Atomic(void *) head; /* local free list, threaded through the blocks; empty: &_dmi_end */
    dmi_run *taken_next;  /* runs of one thread that are taken */
    _Atomic int32_t used; /* LFH: busy blocks plus bias; a free that makes it 0 goes slow.
                                LIST: busy blocks */
    union {
        int32_t bias;   /* LFH: see lfh.h */
        int32_t blocks; /* LIST: free ones included */
        int32_t pass;   /* FREE: the pass that dealt with it, or during which it was formed */
    };
    uint16_t block_size; /* bytes; LFH, GUARDED */
    uint16_t
        seen; /* a digest of head and counts as of the last pass: still the same, then it rested */
    uint16_t
        capacity; /* blocks that fit. GUARDED: where the block begins in the run, 16 bytes each */
    uint16_t carved; /* blocks [0, carved) were linked once. GUARDED: the number of the slot */
    uint8_t kind;    /* dmi_run_kind */
    uint8_t bucket;
    uint8_t place;  /* LFH: dmi_run_place. FREE: dmi_warmth */
    uint8_t flags;  /* DMI_RUN_* */
    uint32_t first; /* page index in the segment */
    uint32_t pages;
    uint16_t parked;      /* carved blocks that overlap an uncommitted page: in no list */
    uint16_t taken_count; /* while taken: remote frees that used does not know of yet */
    struct dmi_segment *segment;
    union {
        uint64_t freed_at;   /* FREE, kept VIRTUAL: the heap's clock when it was freed, ns */
        uint64_t busy_bytes; /* LIST: payload of its busy blocks */
        struct {             /* LFH, while taken: numbers of blocks plus 1, 0: none */
            uint16_t list;   /* the first of the free list behind the recorded head */
            uint16_t taken;  /* the head when it was recorded */
            uint16_t second; /* the one behind it then */
        };
        struct dmi_states *states; /* LFH of hardened heaps, which are never taken (heap/hard.h) */
    };

    /* -- everybody's -- */
    _Atomic uintptr_t owner; /* token of the owning thread, or DMI_OWNER_* */
    _Atomic uint64_t remote; /* blocks other threads freed: see lfh.h */
    _Atomic(struct dmi_run *) pending_next;
    _Atomic(void *) cache; /* the cache that owns it (a pointer of the heap floor) */
    dmi_run *next, *prev;  /* in a bin or an avail list */
    uint64_t inverse,
        origin; /* LFH: block * inverse - origin is the mark of a free block (lfh.h) */
};

#define DMI_RUN_TAKEN 1u         /* head and used belong to an operation that may be in flight */
#define DMI_RUN_ZERO 2u          /* LARGE: every page is known to read as zeroes */
#define DMI_RUN_TAKEN_CURRENT 4u /* it was in a current slot when it was taken */
#define DMI_RUN_TAKEN_GONE 32u   /* the recorded head block was handed out and came back */
#define DMI_RUN_HOT 64u          /* LFH: it had changed at the last pass */
#define DMI_RUN_DONE 128u   /* LFH: the last walk left no free page; nothing to do while it rests */
#define DMI_RUN_KEPT 8u     /* VIRTUAL: freed, kept by the policy. GUARDED: freed, or never used */
#define DMI_RUN_WATCHED 8u  /* LFH: there are, or were, watched pages in it (block/watch.h) */
#define DMI_RUN_WITHHELD 8u /* FREE: in no bin, its addresses are not to be used yet */
#define DMI_RUN_FENCE 2u    /* FREE, withheld: the page behind the LARGE run on its left */
#define DMI_RUN_CLOSED 4u   /* FREE, withheld: an access faults */
#define DMI_RUN_COUNTED 16u /* LFH: busy blocks of each page are counted (eager) */

_Static_assert(offsetof(dmi_run, owner) == 64 && sizeof(dmi_run) == 128,
               "a run descriptor is two cache lines");

/* A shadow of a watched page: told by its owner, which anybody may read at any time. */
static inline bool _dmi_run_is_shadow(const dmi_run *run) {
    return atomic_load_explicit(&run->owner, memory_order_acquire) == DMI_OWNER_SHADOW;
}

/* May its pages be used? */
static inline bool _dmi_run_is_free(const dmi_run *run) {
    return run->kind == DMI_RUN_FREE && !(run->flags & DMI_RUN_WITHHELD);
}
static inline bool _dmi_run_is_hard(const dmi_run *run) {
    return atomic_load_explicit(&run->owner, memory_order_acquire) == DMI_OWNER_HARD;
}

/* What the head and the last link of an empty list point to: two words that no free block begins with, so that
 * one comparison tells an empty list, and a damaged one, from a block to hand out. */
extern const uint64_t _dmi_end[2];

/* What every address outside dmi maps to: owned by nobody, nothing to hand out. */
extern dmi_run _dmi_no_run;
#endif
