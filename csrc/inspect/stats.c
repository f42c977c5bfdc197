/* stats.c - the statistics of a heap, derived from the state of its runs; and the report of a trim. */
#include "../heap/create.h"
#include "../heap/pass.h"
#include "../heap/registry.h"
#include "../heap/visit.h"
#include "ages.h"

#include <errno.h>
#include <string.h>

typedef struct stats_visitor {
    dmi_visitor visitor;
    dmi_heap *heap;
    dmi_stats *stats;
    dmi_account sum; /* of the runs without detail */
    bool detail;
} stats_visitor;

static void add(dmi_stats *stats, const dmi_account *a) {
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
}

static void add_detail(dmi_stats *stats, const dmi_account *a) {
    stats->reclaimable += a->reclaimable;
    stats->page_bound += a->page_bound;
    stats->reason_in_flight += a->in_flight;
    stats->reason_refused += a->refused;
    stats->reason_commit_granularity += a->deferred;
}

/* The counter for reclaimable bytes of a run of that kind and size: why the policy keeps them. */
static uint64_t *reason(const dmi_heap *heap, dmi_stats *stats, unsigned kind, uint64_t bytes) {
    static const uint16_t places[] = {
#define PLACE(name, doc) offsetof(dmi_stats, reason_##name),
        DMI_REASONS(PLACE)
#undef PLACE
    };
    dmi_reason which = _dmi_reason(&heap->engine.policy, kind, bytes);
    return (uint64_t *)(void *)((char *)stats + places[which - 1]);
}

static void visit(dmi_visitor *visitor, dmi_heap *heap, dmi_cache *cache, dmi_run *run) {
    stats_visitor *v = (stats_visitor *)(void *)visitor;
    dmi_account account;
    /* Where the OS cannot stop the owner of a run, its lists cannot be read, and all its free bytes count as pinned. */
    if (!v->detail || (cache && !visitor->taken)) {
        _dmi_account_add(heap, run, &v->sum);
        return;
    }
    _dmi_account_run(heap, run, &account);
    add(v->stats, &account);
    add_detail(v->stats, &account);
    *reason(heap, v->stats, run->kind, account.bytes) +=
        account.reclaimable - account.refused - account.deferred;
    _dmi_ages_add_run(run, &account, v->stats);
}

/* Add pages that were free at some moment of this call, and are part of another run by now. */
static void see_gap(dmi_visitor *visitor, dmi_segment *segment, size_t first, size_t pages) {
    dmi_account account;
    _dmi_account_free(segment, first, pages, &account);
    stats_visitor *v = (stats_visitor *)(void *)visitor;
    add(v->stats, &account);
    if (!v->detail) return;
    add_detail(v->stats, &account);
    *reason(v->heap, v->stats, DMI_RUN_FREE, account.bytes) += account.reclaimable;
    v->stats->age_unseen += account.reclaimable;
}

/* How many ranges of clear bits there are. *large is the sum of those of at least `least` bits. `least` is 128 or more,
 * so that no such range lies inside one word. */
static size_t clear_ranges(const dmi_bits *map, size_t pages, size_t least, size_t *large) {
    size_t ranges = 0, length = 0;
    uint64_t before = 0; /* was the last bit of the word before clear? */
    *large = 0;
    for (size_t w = 0; w < _dmi_bits_words(pages); w++) {
        uint64_t word = atomic_load_explicit(&map[w], memory_order_relaxed);
        uint64_t clear = ~word & _dmi_bits_mask(w, 0, pages);
        ranges += (size_t)__builtin_popcountll(clear & ~(clear << 1 | before));
        before = clear >> 63;
        if (clear == UINT64_MAX) {
            length += 64;
            continue;
        }
        length += (size_t)__builtin_ctzll(~clear);
        if (length >= least) *large += length;
        length = clear >> 63 ? (size_t)__builtin_clzll(~clear) : 0;
    }
    if (length >= least) *large += length;
    return ranges;
}

static void see_segment(dmi_visitor *visitor, dmi_segment *s) {
    dmi_stats *stats = ((stats_visitor *)(void *)visitor)->stats;
    stats->segments++;
    stats->segment_reserved += s->size;
    stats->metadata_committed += s->meta_committed;
    /* Make room for the times that this look will note, so that the metadata is counted with them. */
    if (((stats_visitor *)(void *)visitor)->detail) _dmi_pages_note_free(s, 0, 0, 0);
    size_t busy_counts = (size_t)(s->meta_end - (char *)s->page_busy), large, least;
    if (s->has_page_busy) stats->metadata_committed += busy_counts;
    if (s->has_given_at)
        stats->metadata_committed += (size_t)((char *)s->page_busy - (char *)s->given_at);
    least = DMI_LARGE_UCR >> _dmi_page_shift;
    stats->uncommitted_ranges += clear_ranges(s->committed, s->pages, least, &large);
    stats->segment_virtual += s->size - ((uint64_t)large << _dmi_page_shift);
}

/* Ask the OS how much is resident. That takes long, so the lock is released meanwhile. */
static void add_resident(dmi_heap *heap, dmi_stats *stats) {
    _dmi_lock(&heap->lock);
    heap->space.visitors++; /* keeps the segments from being released */
    for (dmi_segment *s = heap->space.segments; s; s = s->next) {
        _dmi_unlock(&heap->lock);
        int64_t bytes = _dmi_os_resident(s->base, s->size);
        if (bytes > 0) stats->resident += (uint64_t)bytes;
        _dmi_lock(&heap->lock);
    }
    heap->space.visitors--; /* the next pass releases those that became free */
    _dmi_unlock(&heap->lock);
}

static void add_virtuals(dmi_heap *heap, dmi_stats *stats, bool detail, bool ask) {
    dmi_run *lists[2] = {heap->space.virtuals, heap->space.kept};
    for (int kept = 0; kept < 2; kept++)
        for (dmi_run *run = lists[kept]; run; run = run->next) {
            dmi_account account;
            _dmi_account_virtual(heap, run, &account);
            add(stats, &account);
            if (detail) add_detail(stats, &account);
            if (kept) { /* it is no block any more: count it as a segment that is all free */
                stats->segments++;
                stats->segment_reserved += account.bytes;
                stats->segment_committed += account.bytes;
                stats->segment_virtual += account.bytes;
            } else {
                stats->virtual_blocks++;
                stats->virtual_committed += account.bytes;
            }
            if (detail) {
                *reason(heap, stats, run->kind, account.bytes) += account.reclaimable;
                _dmi_ages_add_virtual(run, &account, stats);
            }
            if (ask) {
                int64_t bytes = _dmi_os_resident(run->segment->base, run->segment->size);
                if (bytes > 0) stats->resident += (uint64_t)bytes;
            }
        }
    stats->metadata_committed += heap->space.virtual_meta;
}

static void copy_ledger(dmi_heap *heap, dmi_stats *stats) {
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

static void add_properties(dmi_heap *heap, dmi_stats *stats) {
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

/* The caller holds heap->pass. */
static void collect(dmi_heap *heap, dmi_stats *stats, bool detail, bool ask) {
    stats_visitor v = {.visitor = {.run = visit,
                                   .segment = see_segment,
                                   .gap = see_gap,
                                   .lock = detail ? DMI_VISIT_TAKE : DMI_VISIT_LOCK},
                       .heap = heap,
                       .stats = stats,
                       .detail = detail};
    if (ask) add_resident(heap, stats);
    _dmi_heap_visit(heap, &v.visitor);
    add(stats, &v.sum);
    stats->segment_committed = stats->committed;
    _dmi_lock(&heap->lock);
    add_virtuals(heap, stats, detail, ask);
    copy_ledger(heap, stats);
    add_properties(heap, stats);
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
    if (what & DMI_STATS_DETAIL) (void)_dmi_heap_clock(heap);
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
