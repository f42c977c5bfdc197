/* engine.h - floor 4: finding what a heap could give back, and giving it back in batches.
 *
 * Works on what floors 2 and 3 recorded: engine.c on the back end, subsegments.c on LFH runs, units.c on huge pages;
 * judge.h says what becomes of each page, policies.h what a policy wants. Nothing here knows about threads. The heap
 * floor calls with the locks that each function names: those of the runs that it looks at, and they stay locked until
 * the batch in which their pages stand is flushed.
 */
#ifndef DMI_ENGINE_H
#define DMI_ENGINE_H

#include "../block/freelist.h"
#include "../block/lfh.h"
#include "../block/virtual.h"
#include "policy.h"

/* What a pass does with a free page. */
typedef enum dmi_pass_kind {
    DMI_PASS_AGE = 0,     /* give back what the last pass found free too, mark the rest */
    DMI_PASS_ALL = 1,     /* give back everything */
    DMI_PASS_LIMIT = 2,   /* leave limit bytes of free pages, give back the rest */
    DMI_PASS_COUNT = 3,   /* only count: found */
    DMI_PASS_DEFERRED = 4 /* give back what was deferred for units that are split by now */
} dmi_pass_kind;

/* At least half of DMI_RUN_PAGES_MAX: the ranges of one run fit. */
#define DMI_BATCH 64
/* Pages of free runs that go before the heap's lock is let go for a moment. */
#define DMI_SLICE 256
/* decay: steps a half-life, and half-lives until the rest goes. */
#define DMI_DECAY_RATE 4
#define DMI_DECAY_STEPS (6 * DMI_DECAY_RATE)

/* See level.h. */
typedef struct dmi_level {
    uint64_t began;              /* the period that runs, ns of the heap's clock */
    uint64_t most[2], served[2]; /* in it, and in the one before */
} dmi_level;

/* What a heap's policy is, and what it remembers from pass to pass. */
typedef struct dmi_engine {
    dmi_space *space;
    dmi_freelist *list;
    dmi_policy policy; /* written with the heap's lock and its shared cache's held */
    dmi_how how;       /* resolved */
    /* decay: free bytes that appeared in each of the last steps */
    uint64_t step[DMI_DECAY_STEPS];
    uint64_t last_free;
    dmi_level level;
} dmi_engine;

/* One pass, or one inline decision: on the stack of whoever makes it. */
typedef struct dmi_sweep {
    dmi_space *space;
    const dmi_engine *engine;
    dmi_pass_kind kind;
    dmi_how how;
    uint64_t limit;   /* LIMIT: bytes of free pages that may remain */
    uint64_t found;   /* bytes of free pages left standing so far */
    uint64_t given;   /* bytes given back so far */
    uint64_t refused; /* of found: the OS refused them before, or their huge page stays whole */
    uint64_t since;   /* when the free pages in hand became free at the latest, ns */
    /* Lets others have the heap's lock for a moment; NULL: nobody waits for it long. Runs may come and go
     * meanwhile, segments may not (space->visitors). */
    void (*pause)(void *argument);
    void *pause_argument;
    bool waiting; /* some run was not at rest: another pass will find more */
    /* ranges of one cache's runs, flushed before its lock is let go */
    size_t count;
    struct {
        dmi_run *run;
        uint32_t first, pages; /* page indices in the segment */
    } batch[DMI_BATCH];
} dmi_sweep;

void _dmi_engine_init(dmi_engine *engine, dmi_space *space, dmi_freelist *list,
                      const dmi_policy *policy);
void _dmi_sweep_init(dmi_sweep *sweep, const dmi_engine *engine, dmi_pass_kind kind,
                     uint64_t limit);
/* Free runs, free-list blocks and kept virtual blocks. The heap's lock is held. */
void _dmi_sweep_backend(dmi_sweep *sweep);
/* One LFH run, at rest or taken; its cache's lock is held, the run's remote list was collected. */
void _dmi_sweep_run(dmi_sweep *sweep, dmi_run *run);
/* Give back what is batched. Before the lock of the batched runs' cache is let go. */
void _dmi_sweep_flush(dmi_sweep *sweep);
/* A free run, or a free block of a region, just came to be: give its pages back if the policy wants that at a free
 * (eager, threshold). The heap's lock is held. */
void _dmi_engine_give_freed_run(const dmi_engine *engine, dmi_run *run);
void _dmi_engine_give_freed_block(const dmi_engine *engine, dmi_run *run, dmi_tag *tag);
/* The same for all that is free in the back end: the policy changed. The heap's lock is held. */
void _dmi_engine_give_all_freed(const dmi_engine *engine);
/* Eager: the busy counts of an LFH block's pages after it was handed out (+1) or freed (-1); pages that
 * became free are given back. The cache's lock is held. */
void _dmi_engine_count_block(const dmi_engine *engine, dmi_run *run, const void *block, int n);
/* Eager: count a whole run afresh. 0 or ENOMEM. */
int _dmi_engine_count_run(dmi_run *run);
/* Free bytes on whole free pages of the back end now (for threshold and decay). Heap locked. */
static inline uint64_t _dmi_engine_backend_free(const dmi_engine *engine) {
    return engine->space->free_committed + engine->list->free_bytes;
}
/* Huge pages: after the runs were visited, give back the units that are free as a whole, split those of which
 * enough is free, join those that filled up again. How many were split: then break them, and visit once more
 * with DMI_PASS_DEFERRED. The heap's lock is held. */
size_t _dmi_units_judge(dmi_sweep *sweep);
/* The units of a free run that are free as a whole and held. The heap's lock is held. */
void _dmi_units_drop(dmi_sweep *sweep, dmi_run *run);
/* That visit is over. The heap's lock is held. */
void _dmi_units_settle(dmi_space *space);
#endif
