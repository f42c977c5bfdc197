/* stats.c - the counters of a heap, derived from the state of its runs; trim's report. */
#include "account.h"

#include <errno.h>
#include <string.h>

typedef struct stats_visitor {
    dmi_visitor visitor;
    dmi_stats *stats;
    bool detail, resident;
} stats_visitor;

static void add(dmi_heap *heap, dmi_stats *stats, const dmi_account *a) {
    stats->reserved += a->bytes;
    stats->uncommitted += a->uncommitted;
    stats->committed += a->bytes - a->uncommitted;
    stats->busy += a->busy;
    stats->free_lfh += a->free_lfh;
    stats->free_list += a->free_list;
    stats->free_pages += a->free_pages;
    stats->offered += a->offered;
    stats->overhead += a->overhead;
    stats->busy_blocks += a->busy_blocks;
    stats->list_length += a->list_length;
    stats->decommit_refused_bytes += a->soft;
    stats->reclaimable += a->reclaimable;
    stats->page_bound += a->page_bound;
    stats->reason_in_flight += a->in_flight;
    stats->reason_refused += a->refused;
    (void)heap;
}

/* Why reclaimable bytes of a run are still here. */
static uint64_t *reason(const dmi_heap *heap, dmi_stats *stats, const dmi_run *run) {
    const dmi_policy *policy = &heap->engine.policy;
    switch (policy->when) {
    case DMI_WHEN_NEVER: return &stats->reason_never;
    case DMI_WHEN_EAGER: return &stats->reason_commit_granularity;
    case DMI_WHEN_DECAY: return &stats->reason_decay;
    case DMI_WHEN_BUDGET: return &stats->reason_budget;
    case DMI_WHEN_PRESSURE: return &stats->reason_pressure;
    case DMI_WHEN_THRESHOLD:
        /* Blocks inside a subsegment never reach the back end that the thresholds watch. */
        if (run->kind == DMI_RUN_LFH || run->kind == DMI_RUN_LIST)
            return &stats->reason_block_threshold;
        return _dmi_run_size(run) < policy->block ? &stats->reason_block_threshold
                                                  : &stats->reason_total_threshold;
    default: return &stats->reason_delay;
    }
}

static void visit(dmi_visitor *visitor, dmi_heap *heap, dmi_cache *cache, dmi_run *run) {
    stats_visitor *v = (stats_visitor *)(void *)visitor;
    dmi_account account;
    /* A run whose owner cannot be stopped on this OS keeps its lists to itself: all pinned. */
    bool detail = v->detail && (!cache || visitor->taken);
    _dmi_account_run(heap, run, detail, &account);
    add(heap, v->stats, &account);
    if (detail) *reason(heap, v->stats, run) += account.reclaimable - account.refused;
}

static void segments(dmi_heap *heap, dmi_stats *stats, bool resident) {
    for (dmi_segment *s = heap->space.segments; s; s = s->next) {
        stats->segments++;
        stats->segment_reserved += s->size;
        stats->segment_virtual += s->size;
        stats->metadata_committed += s->meta_committed;
        size_t busy_counts = (size_t)(s->base - (char *)s->page_busy);
        if (s->has_page_busy) stats->metadata_committed += busy_counts;
        if (s->has_given_at)
            stats->metadata_committed += (size_t)((char *)s->page_busy - (char *)s->given_at);
        for (size_t i = 0; i < s->pages;) {
            size_t from = _dmi_bits_find(s->committed, i, s->pages, false);
            if (from == s->pages) break;
            size_t to = _dmi_bits_find(s->committed, from, s->pages, true);
            stats->uncommitted_ranges++;
            if ((to - from) << _dmi_page_shift >= DMI_LARGE_UCR)
                stats->segment_virtual -= (to - from) << _dmi_page_shift;
            i = to;
        }
        if (resident) {
            int64_t bytes = _dmi_os_resident(s->base, s->size);
            if (bytes > 0) stats->resident += (uint64_t)bytes;
        }
    }
}

static void virtuals(dmi_heap *heap, dmi_stats *stats, bool detail, bool resident) {
    dmi_run *lists[2] = {heap->space.virtuals, heap->space.kept};
    for (int kept = 0; kept < 2; kept++)
        for (dmi_run *run = lists[kept]; run; run = run->next) {
            dmi_account account;
            _dmi_account_virtual(heap, run, &account);
            add(heap, stats, &account);
            stats->virtual_committed += account.bytes;
            stats->virtual_blocks += !kept;
            if (detail) *reason(heap, stats, run) += account.reclaimable;
            if (resident) {
                int64_t bytes = _dmi_os_resident(run->segment->base, run->segment->size);
                if (bytes > 0) stats->resident += (uint64_t)bytes;
            }
        }
    stats->metadata_committed += heap->space.virtual_meta;
}

static void ledger(dmi_heap *heap, dmi_stats *stats) {
    dmi_ledger *from = &heap->space.ledger;
#define COPY(name) stats->name = atomic_load_explicit(&from->name, memory_order_relaxed)
    COPY(commit_calls);
    COPY(commit_bytes);
    COPY(decommit_calls);
    COPY(decommit_bytes);
    COPY(recommit_calls);
    COPY(recommit_bytes);
    COPY(recommit_churn_bytes);
    COPY(offer_calls);
    COPY(offer_bytes);
    COPY(unoffer_bytes);
    COPY(refused_calls);
#undef COPY
}

static void properties(dmi_heap *heap, dmi_stats *stats) {
    stats->lfh_active = atomic_load_explicit(&heap->lfh_active, memory_order_relaxed);
    stats->flags = 2;
    if (heap != _dmi_default) stats->flags |= 0x1000;
    if (heap->flags & DMI_HEAP_NO_SERIALIZE) stats->flags |= 1;
    stats->lock_contention =
        atomic_load_explicit(&heap->lock.contended, memory_order_relaxed) +
        atomic_load_explicit(&heap->shared_lock.contended, memory_order_relaxed);
    for (dmi_cache *cache = heap->caches; cache; cache = cache->next_of_heap) {
        stats->lock_contention +=
            atomic_load_explicit(&cache->thread->lock.contended, memory_order_relaxed);
        stats->metadata_committed += sizeof(dmi_cache);
    }
    stats->metadata_committed += (sizeof(dmi_heap) + _dmi_page - 1) & ~(_dmi_page - 1);
}

/* heap->pass is held. */
static void collect(dmi_heap *heap, dmi_stats *stats, bool detail, bool resident) {
    stats_visitor v = {.visitor = {.run = visit, .lock = detail ? DMI_VISIT_TAKE : DMI_VISIT_LOCK},
                       .stats = stats,
                       .detail = detail};
    _dmi_heap_visit(heap, &v.visitor);
    stats->segment_committed = stats->committed;
    _dmi_lock(&heap->lock);
    segments(heap, stats, resident);
    virtuals(heap, stats, detail, resident);
    ledger(heap, stats);
    properties(heap, stats);
    _dmi_unlock(&heap->lock);
    if (detail) {
        uint64_t free_bytes = stats->free_lfh + stats->free_list + stats->free_pages;
        stats->pinned = free_bytes - stats->reclaimable;
        stats->reason_pinned = stats->pinned - stats->reason_in_flight;
        stats->reason_offered = stats->offered;
        stats->reason_overhead = stats->overhead;
    }
}

int dmi_heap_stats(void *handle, dmi_stats *out, uint32_t what) {
    dmi_heap *heap = _dmi_heap_resolve(handle);
    if (!heap) return -1;
    if (out->size < offsetof(dmi_stats, committed) ||
        what & ~(DMI_STATS_DETAIL | DMI_STATS_RESIDENT)) {
        errno = EINVAL;
        return -1;
    }
    dmi_stats stats;
    memset(&stats, 0, sizeof stats);
    _dmi_lock(&heap->pass);
    collect(heap, &stats, what & DMI_STATS_DETAIL, what & DMI_STATS_RESIDENT);
    _dmi_unlock(&heap->pass);
    stats.size = out->size < sizeof stats ? out->size : sizeof stats;
    memcpy(out, &stats, stats.size);
    return 0;
}

int dmi_heap_trim(void *handle, dmi_trim_report *report) {
    dmi_heap *heap = _dmi_heap_resolve(handle);
    if (!heap) return -1;
    if (report && report->size < sizeof *report) {
        errno = EINVAL;
        return -1;
    }
    dmi_stats before = {.size = sizeof before}, after = {.size = sizeof after};
    if (report) (void)dmi_heap_stats(handle, &before, DMI_STATS_RESIDENT);
    uint64_t given = _dmi_heap_trim(heap);
    if (!report) return 0;
    (void)dmi_heap_stats(handle, &after, DMI_STATS_RESIDENT);
    report->decommitted = given;
    report->resident_before = before.resident;
    report->resident_after = after.resident;
    report->calls = after.decommit_calls - before.decommit_calls;
    return 0;
}
