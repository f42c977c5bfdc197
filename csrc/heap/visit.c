/* visit.c - walking the runs of a heap while its threads work. */
#include "visit.h"
#include "cache.h"
#include "owner.h"
#include "take.h"

#define GROUP 64
/* At most so many runs, or so many regions of the free list when their blocks are looked at, while the
 * heap's lock is held. */
#define RUNS_AT_ONCE 256
#define REGIONS_AT_ONCE 4

typedef struct visit_group {
    size_t count;
    struct {
        dmi_run *run;
        dmi_segment *segment;
        size_t first, pages;
    } runs[GROUP];
} visit_group;

/* The run that covers a page, NULL when that is the inside of a free run that came to be since the page
 * was looked up last. Heap locked. */
static dmi_run *run_at(const dmi_segment *segment, size_t page) {
    dmi_run *run = _dmi_segment_run(segment, page);
    return run->kind == DMI_RUN_NONE ? NULL : run;
}

static void let_go(dmi_visitor *visitor, dmi_cache *locked) {
    if (!locked) return;
    if (visitor->sweep) _dmi_sweep_flush(visitor->sweep);
    _dmi_unlock(locked->lock);
}

static void visit_lfh(dmi_heap *heap, dmi_visitor *visitor, const visit_group *group) {
    dmi_cache *locked = NULL;
    for (size_t i = 0; i < group->count; i++) {
        dmi_run *run = group->runs[i].run;
        if (!locked || atomic_load_explicit(&run->cache, memory_order_relaxed) != locked) {
            let_go(visitor, locked);
            locked = NULL;
            if (visitor->lock == DMI_VISIT_TAKE) locked = _dmi_cache_lock_of(run, true);
            visitor->taken = locked != NULL;
            if (!locked) locked = _dmi_cache_lock_of(run, false);
            if (locked && (visitor->taken || locked->quarantine)) _dmi_cache_drain(locked);
        }
        /* Between the two locks it may have been freed and used again. */
        if (!locked || atomic_load_explicit(&run->cache, memory_order_relaxed) != locked ||
            run->kind != DMI_RUN_LFH || run->first != group->runs[i].first ||
            run->pages != group->runs[i].pages) {
            if (visitor->gap)
                visitor->gap(visitor, group->runs[i].segment, group->runs[i].first,
                             group->runs[i].pages);
            continue;
        }
        if (visitor->taken) _dmi_cache_take_run(locked, run);
        visitor->run(visitor, heap, locked, run);
    }
    let_go(visitor, locked);
}

/* Both may set whole runs free, and of a heap at rest no run should change while it is visited. */
void _dmi_heap_drain(dmi_heap *heap, bool take) {
    dmi_cache *waiting[GROUP];
    size_t n = 0;
    _dmi_lock(&heap->lock);
    if (heap->shared.quarantine) waiting[n++] = &heap->shared;
    for (dmi_cache *cache = heap->caches; cache && n < GROUP; cache = cache->next_of_heap)
        if (cache->quarantine || (take && _dmi_cache_waits(cache))) waiting[n++] = cache;
    _dmi_unlock(&heap->lock);
    while (n--) {
        /* Caches of this heap go with it only, and heap->pass is held. */
        dmi_thread *thread = waiting[n]->thread;
        if (waiting[n]->quarantine) {
            _dmi_lock(waiting[n]->lock);
            if (thread) _dmi_owner_arrive(thread);
        } else if (!_dmi_thread_take(thread)) {
            continue;
        }
        _dmi_cache_drain(waiting[n]);
        _dmi_unlock(waiting[n]->lock);
    }
}

/* The pages from here to the next run that begins behind: what has changed since the visit stopped there.
 * Returns where to go on; *run: the run that begins there, NULL: none does in this segment. Heap locked. */
static size_t skip_changed(dmi_visitor *visitor, dmi_segment *segment, size_t page, dmi_run **run) {
    size_t from = page;
    while (page < segment->pages && (!(*run = run_at(segment, page)) || (*run)->first != page)) {
        if (!*run) {
            page++;
            continue;
        }
        /* It began before. A visitor that does not count wants to see it all the same. */
        if (!visitor->gap) return page;
        page = (*run)->first + (*run)->pages;
    }
    if (page >= segment->pages) *run = NULL;
    if (page > from && visitor->gap) visitor->gap(visitor, segment, from, page - from);
    return page;
}

void _dmi_heap_visit(dmi_heap *heap, dmi_visitor *visitor) {
    visit_group group;
    bool take = visitor->lock == DMI_VISIT_TAKE;
    if (take || _dmi_heap_is_hard(heap)) _dmi_heap_drain(heap, take);
    _dmi_lock(&heap->lock);
    heap->space.visitors++;
    dmi_segment *segment = heap->space.segments;
    size_t page = 0;
    while (segment) {
        group.count = 0;
        for (size_t looked = 0; segment && group.count < GROUP && looked < RUNS_AT_ONCE; looked++) {
            if (page == 0 && visitor->segment) visitor->segment(visitor, segment);
            dmi_run *run = NULL;
            page = skip_changed(visitor, segment, page, &run);
            if (run) {
                size_t end = run->first + (size_t)run->pages;
                __builtin_prefetch(run + 4); /* neighbours are often neighbours here, too */
                if (run->kind == DMI_RUN_LFH) {
                    group.runs[group.count].run = run;
                    group.runs[group.count].segment = segment;
                    group.runs[group.count].first = run->first;
                    group.runs[group.count++].pages = run->pages;
                } else {
                    visitor->run(visitor, heap, NULL, run);
                    if (run->kind == DMI_RUN_LIST && visitor->lock == DMI_VISIT_TAKE)
                        looked += RUNS_AT_ONCE / REGIONS_AT_ONCE;
                }
                page = end;
            }
            if (page < segment->pages) continue;
            segment = segment->next;
            page = 0;
        }
        _dmi_unlock(&heap->lock);
        visit_lfh(heap, visitor, &group);
        _dmi_lock(&heap->lock);
    }
    if (--heap->space.visitors == 0 && heap->space.release_due) {
        heap->space.release_due = false;
        (void)_dmi_segments_release(&heap->space, false);
    }
    _dmi_unlock(&heap->lock);
}

static size_t busy_of(const dmi_run *run) {
    if (run->kind == DMI_RUN_LFH) {
        int64_t busy = (int64_t)_dmi_lfh_busy(run) - run->taken_count -
                       DMI_REMOTE_COUNT(atomic_load_explicit(&run->remote, memory_order_relaxed));
        return busy > 0 ? (size_t)busy * run->block_size : 0;
    }
    if (run->kind == DMI_RUN_LIST) return run->busy_bytes;
    if (run->kind == DMI_RUN_GUARDED) return run->flags & DMI_RUN_KEPT ? 0 : run->block_size;
    return run->kind == DMI_RUN_LARGE ? _dmi_run_size(run) : 0;
}

typedef struct busy_visitor {
    dmi_visitor visitor;
    uint64_t bytes;
} busy_visitor;

static void add_busy(dmi_visitor *visitor, dmi_heap *heap, dmi_cache *cache, dmi_run *run) {
    (void)heap;
    (void)cache;
    ((busy_visitor *)(void *)visitor)->bytes += busy_of(run);
}

uint64_t _dmi_heap_busy(dmi_heap *heap) {
    busy_visitor v = {.visitor = {.run = add_busy, .lock = DMI_VISIT_LOCK}};
    _dmi_heap_visit(heap, &v.visitor);
    _dmi_lock(&heap->lock);
    for (dmi_run *run = heap->space.virtuals; run; run = run->next) v.bytes += _dmi_run_size(run);
    _dmi_unlock(&heap->lock);
    return v.bytes;
}
