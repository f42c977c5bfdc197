/* quarantine.h - where the freed small blocks of one cache of a hardened heap wait.
 *
 * There is one bin for each bucket. It has places, a power of two of them, and a stack. A freed block takes a place, and
 * the block that waited there comes onto the stack, from which allocations pop. Places form banks of two. Each free
 * turns to the next bank, and takes one of its places at random: so a block waits until as many others were freed as
 * there are banks, at least, and nobody can tell when it is handed out again.
 *
 * One step of one generator gives both: of a linear congruential one modulo 2^32 the lowest bits count through all
 * their values in turn, and the highest bit is as good as random.
 */
#ifndef DMI_QUARANTINE_H
#define DMI_QUARANTINE_H

#include "heap.h"

typedef struct dmi_waiting {
    void *block;
    uint8_t *state;
} dmi_waiting;

typedef struct dmi_bin {
    dmi_waiting *top; /* behind the block on the stack that is popped next */
    /* With top here a free takes the slow path: the stack is full, or a place is empty. */
    dmi_waiting *limit;
    uint32_t random;
    uint32_t mask; /* of the place of a number, in bytes */
    /* Of the stack. In front of it is an item that is never intact: what is popped when it is empty. */
    dmi_waiting *bottom;
    uint32_t places, young; /* how many there are; how many hold a block */
    uint16_t room, most; /* how high the stack may be now, and at most; no room: nothing may wait */
    uint16_t size;       /* bytes of a block */
    dmi_waiting place[]; /* and behind them that item, and the stack */
} dmi_bin;

struct dmi_quarantine {
    dmi_cache *cache;
    uint32_t random;
    bool any;       /* some bin has room */
    uint8_t *state; /* of the block that was popped from a run last */
    dmi_bin *bin[DMI_BUCKETS];
};

/* What a thread finds that is not favoured: of no cache, and nothing waits in it. */
extern dmi_quarantine _dmi_no_quarantine;

#endif
