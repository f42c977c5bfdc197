/* walk.c - every range of a heap, by segment and address. */
#include "account.h"

#include <errno.h>
#include <string.h>

typedef struct walker {
    dmi_heap *heap;
    dmi_visit visit; /* NULL: into the array */
    void *argument;
    dmi_range *out;
    size_t capacity, count;
    const dmi_segment *segment;
    dmi_range pending; /* an uncommitted range that may go on; size 0: none */
    int stopped;
} walker;

static void put(walker *w, const dmi_range *range) {
    if (w->visit) {
        if (!w->stopped) w->stopped = w->visit(w->argument, range);
        return;
    }
    if (w->count < w->capacity) w->out[w->count] = *range;
    w->count++;
}

static void flush(walker *w) {
    if (w->pending.size) put(w, &w->pending);
    w->pending.size = 0;
}

static void emit(walker *w, const char *address, size_t size, dmi_range_kind kind,
                 dmi_range_state state, uint32_t bucket) {
    if (size == 0 || w->stopped) return;
    if (state == DMI_STATE_UNCOMMITTED) {
        if (w->pending.size && w->pending.address + w->pending.size == (uintptr_t)address) {
            w->pending.size += size;
            return;
        }
        flush(w);
        w->pending = (dmi_range){.address = (uintptr_t)address,
                                 .size = size,
                                 .kind = DMI_RANGE_UNCOMMITTED,
                                 .state = DMI_STATE_UNCOMMITTED,
                                 .segment = (uintptr_t)w->segment->base};
        return;
    }
    flush(w);
    dmi_range range = {.address = (uintptr_t)address,
                       .size = size,
                       .kind = (uint32_t)kind,
                       .state = (uint32_t)state,
                       .bucket = bucket,
                       .segment = (uintptr_t)w->segment->base};
    put(w, &range);
}

/* A range that nobody uses: in parts, by what its pages are. */
static void emit_free(walker *w, const char *from, size_t size, dmi_range_kind kind,
                      dmi_range_state state, uint32_t bucket) {
    const dmi_segment *s = w->segment;
    const char *end = from + size;
    while (from < end) {
        size_t page = (size_t)(from - s->base) >> _dmi_page_shift;
        bool committed = _dmi_bits_get(s->committed, page);
        bool offered = committed && _dmi_bits_get(s->offered, page);
        size_t last = _dmi_bits_find(s->committed, page, s->pages, !committed);
        if (committed) {
            size_t other = _dmi_bits_find(s->offered, page, s->pages, !offered);
            if (other < last) last = other;
        }
        const char *stop = s->base + (last << _dmi_page_shift);
        if (stop > end) stop = end;
        emit(w, from, (size_t)(stop - from), kind,
             !committed ? DMI_STATE_UNCOMMITTED
             : offered  ? DMI_STATE_OFFERED
                        : state,
             bucket);
        from = stop;
    }
}

static bool all_usable(const dmi_run *run) {
    const dmi_segment *s = run->segment;
    return _dmi_bits_count(s->committed, run->first, run->pages) == run->pages &&
           _dmi_bits_count(s->offered, run->first, run->pages) == 0;
}

/* Every block of a run whose pages are all usable, straight into the array. False: there is none, or
 * not enough room in it. */
static bool fill_lfh(walker *w, const dmi_run *run, const dmi_blockmap *map, size_t pinned) {
    if (w->visit || w->capacity < run->capacity || w->count > w->capacity - run->capacity)
        return false;
    flush(w);
    if (w->count > w->capacity - run->capacity) return false;
    dmi_range *out = w->out + w->count;
    uint64_t address = (uintptr_t)_dmi_run_base(run), segment = (uintptr_t)w->segment->base;
    uint32_t size = run->block_size;
    _Static_assert(DMI_STATE_FREE == DMI_STATE_BUSY + 1, "the bit of the map is the difference");
    for (size_t i = 0; i < run->capacity; i++, address += size) {
        uint32_t is_free = i >= run->carved || _dmi_map_get(map, i);
        out[i] = (dmi_range){.address = address,
                             .size = size,
                             .kind = DMI_RANGE_LFH,
                             .state = DMI_STATE_BUSY + is_free,
                             .bucket = size,
                             .segment = segment};
    }
    if (pinned != SIZE_MAX) out[pinned].state = DMI_STATE_FREE;
    w->count += run->capacity;
    return true;
}

static void walk_lfh(walker *w, dmi_run *run) {
    dmi_blockmap map;
    size_t pinned = SIZE_MAX;
    const void *bad;
    bool whole = all_usable(run);
    if (!_dmi_lfh_free_map(run, true, &map, &pinned, &bad)) memset(&map, 0, sizeof map);
    bool filled = whole && fill_lfh(w, run, &map, pinned);
    for (size_t i = 0; !filled && i < run->capacity; i++) {
        char *block = _dmi_lfh_block(run, i);
        if (i < run->carved && !_dmi_map_get(&map, i) && i != pinned)
            emit(w, block, run->block_size, DMI_RANGE_LFH, DMI_STATE_BUSY, run->block_size);
        else emit_free(w, block, run->block_size, DMI_RANGE_LFH, DMI_STATE_FREE, run->block_size);
    }
    size_t used = (size_t)run->capacity * run->block_size;
    emit_free(w, _dmi_run_base(run) + used, _dmi_run_size(run) - used, DMI_RANGE_OVERHEAD,
              DMI_STATE_OVERHEAD, 0);
}

static void walk_list(walker *w, dmi_run *run) {
    char *base = _dmi_run_base(run);
    size_t tail = w->heap->tail;
    emit(w, base, 8, DMI_RANGE_OVERHEAD, DMI_STATE_OVERHEAD, 0);
    for (dmi_tag *tag = _dmi_region_first(run); tag && _dmi_tag_sound(tag);
         tag = _dmi_region_next(run, tag)) {
        char *payload = (char *)tag + DMI_LIST_TAG;
        size_t size = _dmi_tag_bytes(tag) - DMI_LIST_TAG;
        emit(w, (char *)tag, DMI_LIST_TAG, DMI_RANGE_OVERHEAD, DMI_STATE_OVERHEAD, 0);
        if (tag->flags & DMI_TAG_BUSY) {
            emit(w, payload, size - tail, DMI_RANGE_LIST, DMI_STATE_BUSY, 0);
            emit(w, payload + size - tail, tail, DMI_RANGE_OVERHEAD, DMI_STATE_OVERHEAD, 0);
        } else {
            emit_free(w, payload, size, DMI_RANGE_LIST, DMI_STATE_FREE, 0);
        }
    }
    emit_free(w, base + _dmi_run_size(run) - 8, 8, DMI_RANGE_OVERHEAD, DMI_STATE_OVERHEAD, 0);
}

static void walk_run(walker *w, dmi_run *run) {
    char *base = _dmi_run_base(run);
    size_t size = _dmi_run_size(run), tail = w->heap->tail;
    switch (run->kind) {
    case DMI_RUN_LFH: walk_lfh(w, run); break;
    case DMI_RUN_LIST: walk_list(w, run); break;
    case DMI_RUN_LARGE:
        emit(w, base, size - tail, DMI_RANGE_PAGES, DMI_STATE_BUSY, 0);
        emit(w, base + size - tail, tail, DMI_RANGE_OVERHEAD, DMI_STATE_OVERHEAD, 0);
        break;
    default: emit_free(w, base, size, DMI_RANGE_PAGES, DMI_STATE_FREE, 0); break;
    }
}

static void walk_virtual(walker *w, dmi_run *run) {
    size_t size = run->segment->size, tail = w->heap->tail;
    w->segment = run->segment;
    if (run->flags & DMI_RUN_KEPT) {
        emit(w, run->segment->base, size, DMI_RANGE_VIRTUAL,
             run->segment->has_given_at ? DMI_STATE_OFFERED : DMI_STATE_FREE, 0);
        return;
    }
    emit(w, run->segment->base, size - tail, DMI_RANGE_VIRTUAL, DMI_STATE_BUSY, 0);
    emit(w, run->segment->base + size - tail, tail, DMI_RANGE_OVERHEAD, DMI_STATE_OVERHEAD, 0);
}

static int walk(void *handle, walker *to) {
    dmi_heap *heap = _dmi_heap_resolve(handle);
    if (!heap) return -1;
    walker w = *to;
    w.heap = heap;
    _dmi_lock(&heap->pass);
    if (!_dmi_heap_freeze(heap)) {
        _dmi_unlock(&heap->pass);
        errno = ENOTSUP;
        return -1;
    }
    for (dmi_segment *s = heap->space.segments; s; s = s->next) {
        w.segment = s;
        for (size_t page = 0; page < s->pages && !w.stopped;) {
            dmi_run *run = _dmi_segment_run(s, page);
            page += run->pages;
            if (run->kind == DMI_RUN_LFH) _dmi_cache_take_run(run->cache, run);
            walk_run(&w, run);
        }
        flush(&w);
    }
    for (dmi_run *run = heap->space.virtuals; run; run = run->next) walk_virtual(&w, run);
    for (dmi_run *run = heap->space.kept; run; run = run->next) walk_virtual(&w, run);
    _dmi_heap_thaw(heap);
    _dmi_unlock(&heap->pass);
    to->count = w.count;
    return w.stopped;
}

int dmi_heap_walk(void *handle, dmi_visit visit, void *argument) {
    walker w = {.visit = visit, .argument = argument};
    return walk(handle, &w);
}

int dmi_heap_walk_array(void *handle, dmi_range *out, size_t capacity, size_t *count) {
    walker w = {.out = out, .capacity = capacity};
    int failed = walk(handle, &w);
    *count = w.count;
    return failed;
}

/* ---- segments ------------------------------------------------------------------------------------------ */

size_t dmi_heap_segments(void *handle, dmi_segment_info *out, size_t capacity) {
    dmi_heap *heap = _dmi_heap_resolve(handle);
    if (!heap) return 0;
    size_t n = 0;
    _dmi_lock(&heap->pass);
    _dmi_lock(&heap->lock);
    for (dmi_segment *s = heap->space.segments; s; s = s->next, n++) {
        if (n >= capacity) continue;
        out[n] = (dmi_segment_info){.address = (uintptr_t)s->base, .reserved = s->size};
        out[n].committed = (uint64_t)_dmi_bits_count(s->committed, 0, s->pages) << _dmi_page_shift;
        for (size_t i = 0; i < s->pages;) {
            size_t from = _dmi_bits_find(s->committed, i, s->pages, false);
            if (from == s->pages) break;
            out[n].uncommitted_ranges++;
            i = _dmi_bits_find(s->committed, from, s->pages, true);
        }
    }
    dmi_run *lists[2] = {heap->space.virtuals, heap->space.kept};
    for (int kept = 0; kept < 2; kept++)
        for (dmi_run *run = lists[kept]; run; run = run->next, n++)
            if (n < capacity)
                out[n] = (dmi_segment_info){.address = (uintptr_t)run->segment->base,
                                            .reserved = run->segment->size,
                                            .committed = run->segment->size,
                                            .is_virtual = 1};
    _dmi_unlock(&heap->lock);
    _dmi_unlock(&heap->pass);
    return n;
}
