/* visit.h - walking the runs of a heap while its threads work.
 *
 * A visit sees each run under the lock that protects it: an LFH run under its cache's, any other under the
 * heap's. Between two runs the locks are let go, so a visit is no picture of one moment; for that, freeze the
 * heap (take.h). heap->pass is held, so there is one visit at a time, and segments stay while it lasts.
 */
#ifndef DMI_VISIT_H
#define DMI_VISIT_H

#include "../decommit/engine.h"
#include "heap.h"

typedef enum dmi_visit_lock {
    DMI_VISIT_LOCK = 0, /* lock the cache of an LFH run: counts may move, lists may not be read */
    DMI_VISIT_TAKE = 1  /* take its thread as well: lists are at rest */
} dmi_visit_lock;
/* Visit every run of every segment, by address. heap->pass is held. An LFH run is visited with its
 * cache locked (cache), any other with the heap's lock held (cache NULL). A run that cannot be taken is
 * visited with DMI_VISIT_LOCK's guarantee and *taken false. Locks are let go in between. Who asks for gaps is
 * shown every page of every segment exactly once: as part of a run, or of a gap, which was free at some
 * moment since the visit came to its segment and is something else by now. */
typedef struct dmi_visitor {
    void (*run)(struct dmi_visitor *self, dmi_heap *heap, dmi_cache *cache, dmi_run *run);
    void (*segment)(struct dmi_visitor *self, dmi_segment *segment); /* before its runs; or NULL */
    void (*gap)(struct dmi_visitor *self, dmi_segment *segment, size_t first,
                size_t pages); /* or NULL */
    dmi_visit_lock lock;
    dmi_sweep *sweep; /* flushed before a cache's lock is let go; may be NULL */
    bool taken;       /* set for each LFH run: its lists are at rest */
} dmi_visitor;
void _dmi_heap_visit(dmi_heap *heap, dmi_visitor *visitor);
/* Take in what the caches have not settled yet: what waits in quarantines and, with take, remote frees. heap->pass is
 * held. */
void _dmi_heap_drain(dmi_heap *heap, bool take);
/* Busy bytes now. heap->pass is held. */
uint64_t _dmi_heap_busy(dmi_heap *heap);

#endif
