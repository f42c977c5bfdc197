/* walk.c - the ranges of a heap by address, for this process and for images of others.
 *
 * The walk goes through places (segments and virtual blocks), their runs, and the blocks of these, always by address. It
 * can begin at any address, so a walk can be made in chunks, and the heap may change between two of them. A busy block
 * that begins below the first address is left out; any other range is cut there.
 */
#include "walk.h"
#include "../heap/cache.h"
#include "../heap/registry.h"
#include "../heap/take.h"

#include "account.h"

#include <errno.h>
#include <string.h>

#define PLACES 32

typedef struct walker {
    dmi_image image;
    dmi_visit visit; /* NULL: the ranges go into the array */
    void *argument;
    dmi_range *out;
    size_t capacity, count;
    bool chunk;    /* stop before a run that may not fit */
    bool cut;      /* it stopped so: from is the address of that run */
    uint64_t from; /* where the walk begins, and in the end where the next chunk begins */
    uint64_t base; /* of the current place */
    const dmi_segment *segment;
    dmi_range pending; /* an uncommitted range that the next one may continue; size 0: none */
    uint32_t reason;   /* why the policy keeps a free page of the current run */
    int stopped;
} walker;

/* ---- giving out ---------------------------------------------------------------------------------------- */

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

static void emit(walker *w, uint64_t address, uint64_t size, dmi_range_kind kind,
                 dmi_range_state state, uint32_t bucket, uint32_t flags) {
    if (address < w->from) {
        uint64_t below = w->from - address;
        /* A busy block that begins below was allocated after the last chunk ended. */
        if (below >= size || state == DMI_STATE_BUSY) return;
        address += below;
        size -= below;
    }
    if (size == 0 || w->stopped) return;
    if (state == DMI_STATE_UNCOMMITTED) {
        if (w->pending.size && w->pending.address + w->pending.size == address) {
            w->pending.size += size;
            return;
        }
        kind = DMI_RANGE_UNCOMMITTED;
        bucket = flags = 0;
    }
    flush(w);
    dmi_range range = {.address = address,
                       .size = size,
                       .kind = (uint32_t)kind,
                       .state = (uint32_t)state,
                       .bucket = bucket,
                       .flags = flags,
                       .segment = w->base};
    if (state == DMI_STATE_UNCOMMITTED) w->pending = range;
    else put(w, &range);
}

/* Emit a range that is not busy, in parts by the state of its pages. reason: why its committed pages are kept. */
static void emit_free(walker *w, uint64_t from, uint64_t size, dmi_range_kind kind,
                      dmi_range_state state, uint32_t bucket, uint32_t reason) {
    const dmi_segment *s = w->segment;
    uint64_t end = from + size;
    while (from < end) {
        size_t page = (size_t)(from - w->base) >> _dmi_page_shift;
        bool committed = _dmi_bits_get(s->committed, page);
        bool offered = committed && _dmi_bits_get(s->offered, page);
        size_t last = _dmi_bits_find(s->committed, page, s->pages, !committed);
        if (committed) {
            size_t other = _dmi_bits_find(s->offered, page, s->pages, !offered);
            if (other < last) last = other;
        }
        uint64_t stop = w->base + ((uint64_t)last << _dmi_page_shift);
        if (stop > end) stop = end;
        emit(w, from, stop - from, kind,
             !committed ? DMI_STATE_UNCOMMITTED
             : offered  ? DMI_STATE_OFFERED
                        : state,
             bucket, offered ? DMI_REASON_offered : reason);
        from = stop;
    }
}

static void emit_overhead(walker *w, uint64_t from, uint64_t size, uint32_t flags) {
    emit_free(w, from, size, DMI_RANGE_OVERHEAD, DMI_STATE_OVERHEAD, 0,
              DMI_REASON_overhead | flags);
}

/* Why a free page is kept. */
static uint32_t page_reason(const walker *w, size_t page) {
    if (_dmi_bits_get(w->segment->refused, page)) return DMI_REASON_refused;
    return _dmi_page_deferred(w->segment, page) ? DMI_REASON_commit_granularity : w->reason;
}

static uint64_t run_base(const walker *w, const dmi_run *run) {
    return w->base + ((uint64_t)run->first << _dmi_page_shift);
}

/* ---- subsegments ------------------------------------------------------------------------------------------ */

typedef struct lfh_walk {
    const dmi_run *run;
    dmi_blockmap map;
    size_t pinned;
    bool alike; /* every free block is kept because it is pinned */
    uint8_t reasons[DMI_RUN_PAGES_MAX];
} lfh_walk;

static bool is_free(const lfh_walk *l, size_t i) {
    return i >= l->run->carved || _dmi_map_get(&l->map, i) || i == l->pinned;
}

/* Why a free block is kept: by the first of its pages that is not pinned. */
static uint32_t block_reason(const lfh_walk *l, size_t i) {
    size_t size = l->run->block_size;
    size_t first = i * size >> _dmi_page_shift, last = ((i + 1) * size - 1) >> _dmi_page_shift;
    if (i == l->pinned) return DMI_REASON_in_flight;
    for (; first < last && l->reasons[first] == DMI_REASON_pinned; first++) {
    }
    return l->reasons[first];
}

static void page_reasons(const walker *w, lfh_walk *l) {
    uint64_t pages[2], without[2] = {0, 0};
    size_t n = _dmi_lfh_free_pages(l->run, &l->map, l->pinned, pages);
    l->alike = n == 0 && l->pinned == SIZE_MAX;
    memset(l->reasons, DMI_REASON_pinned, l->run->pages);
    if (l->alike) return;
    if (l->pinned != SIZE_MAX) {
        dmi_blockmap all = l->map;
        all.word[l->pinned / 64] |= UINT64_C(1) << (l->pinned % 64);
        (void)_dmi_lfh_free_pages(l->run, &all, SIZE_MAX, without);
    }
    for (size_t p = 0; p < l->run->pages; p++) {
        if ((pages[p / 64] >> (p % 64)) & 1)
            l->reasons[p] = (uint8_t)page_reason(w, l->run->first + p);
        else if ((without[p / 64] >> (p % 64)) & 1) l->reasons[p] = DMI_REASON_in_flight;
    }
}

/* Write the blocks of a run with usable pages only straight into the array. False: the walk has no array, the array has
 * not enough room, or a block needs more than one range. */
static bool fill_lfh(walker *w, const lfh_walk *l) {
    const dmi_run *run = l->run;
    if (w->visit || run_base(w, run) < w->from || w->image.heap->tail) return false;
    if (w->capacity < run->capacity || w->count > w->capacity - run->capacity) return false;
    flush(w);
    if (w->count > w->capacity - run->capacity) return false;
    dmi_range *out = w->out + w->count;
    uint64_t address = run_base(w, run);
    uint32_t size = run->block_size;
    _Static_assert(DMI_STATE_FREE == DMI_STATE_BUSY + 1, "the bit of the map is the difference");
    _Static_assert(DMI_REASON_pinned == 1, "the bit of the map is the reason");
    for (size_t i = 0; i < run->capacity; i++, address += size) {
        uint32_t free_block = i >= run->carved || _dmi_map_get(&l->map, i);
        out[i] = (dmi_range){.address = address,
                             .size = size,
                             .kind = DMI_RANGE_LFH,
                             .state = DMI_STATE_BUSY + free_block,
                             .bucket = size,
                             .flags = free_block,
                             .segment = w->base};
    }
    for (size_t i = 0; !l->alike && i < run->capacity; i++) {
        if (!is_free(l, i)) continue;
        out[i].state = DMI_STATE_FREE;
        out[i].flags = block_reason(l, i);
    }
    w->count += run->capacity;
    return true;
}

static bool all_usable(const dmi_run *run) {
    const dmi_segment *s = run->segment;
    return _dmi_bits_count(s->committed, run->first, run->pages) == run->pages &&
           _dmi_bits_count(s->offered, run->first, run->pages) == 0;
}

static void walk_lfh(walker *w, const dmi_run *run) {
    lfh_walk l = {.run = run, .pinned = SIZE_MAX};
    const char *memory = _dmi_image_memory(&w->image, run);
    uint64_t base = run_base(w, run), size = run->block_size, used = run->capacity * size;
    uint64_t tail = w->image.heap->tail;
    if (!memory ||
        !_dmi_lfh_free_map_in(run, &w->image.code, memory, true, &l.map, &l.pinned, NULL)) {
        emit_overhead(w, base, _dmi_run_size(run), DMI_RANGE_DAMAGED);
        return;
    }
    const dmi_blockmap *waiting = _dmi_image_waiting(&w->image);
    for (size_t i = 0; waiting && i < _dmi_bits_words(run->carved); i++)
        l.map.word[i] |= waiting->word[i];
    if (l.pinned >= run->carved) l.pinned = SIZE_MAX;
    page_reasons(w, &l);
    bool filled = all_usable(run) && fill_lfh(w, &l);
    for (size_t i = 0; !filled && i < run->capacity; i++) {
        if (is_free(&l, i))
            emit_free(w, base + i * size, size, DMI_RANGE_LFH, DMI_STATE_FREE, run->block_size,
                      block_reason(&l, i));
        else {
            emit(w, base + i * size, size - tail, DMI_RANGE_LFH, DMI_STATE_BUSY, run->block_size,
                 0);
            if (!tail) continue;
            emit(w, base + (i + 1) * size - tail, tail, DMI_RANGE_OVERHEAD, DMI_STATE_OVERHEAD, 0,
                 DMI_REASON_overhead);
        }
    }
    emit_overhead(w, base + used, _dmi_run_size(run) - used, 0);
}

/* ---- other runs ------------------------------------------------------------------------------------------- */

/* Why a free block of a region is kept: by its first page without tag and links. Without such a page it is pinned. end
 * is the offset behind it, or behind the gap if it is the last of the region. */
static uint32_t list_reason(const walker *w, size_t page, size_t offset, size_t end) {
    size_t first = _dmi_pages(offset + sizeof(dmi_free_block)), last = end >> _dmi_page_shift;
    for (; first < last; first++)
        if (_dmi_page_usable(w->segment, page + first)) return page_reason(w, page + first);
    return DMI_REASON_pinned;
}

static void walk_list(walker *w, const dmi_run *run) {
    const char *memory = _dmi_image_memory(&w->image, run);
    uint64_t base = run_base(w, run), tail = w->image.heap->tail;
    size_t offset = 8, end = _dmi_run_size(run) - 8;
    emit_overhead(w, base, 8, memory ? 0 : DMI_RANGE_DAMAGED);
    while (memory && offset < end) {
        dmi_tag tag;
        if (!_dmi_page_usable(run->segment, run->first + (offset >> _dmi_page_shift))) break;
        memcpy(&tag, memory + offset, sizeof tag);
        size_t bytes = _dmi_tag_bytes(&tag), payload = bytes - DMI_LIST_TAG;
        if (!_dmi_tag_sound_at(&tag, w->image.key, base + offset) || bytes > end - offset) break;
        emit(w, base + offset, DMI_LIST_TAG, DMI_RANGE_OVERHEAD, DMI_STATE_OVERHEAD, 0,
             DMI_REASON_overhead);
        offset += DMI_LIST_TAG;
        if (tag.flags & DMI_TAG_BUSY) {
            emit(w, base + offset, payload - tail, DMI_RANGE_LIST, DMI_STATE_BUSY, 0, 0);
            emit(w, base + offset + payload - tail, tail, DMI_RANGE_OVERHEAD, DMI_STATE_OVERHEAD, 0,
                 DMI_REASON_overhead);
        } else {
            size_t last = offset + payload + (tag.flags & DMI_TAG_LAST ? 8 : 0);
            emit_free(w, base + offset, payload, DMI_RANGE_LIST, DMI_STATE_FREE, 0,
                      list_reason(w, run->first, offset - DMI_LIST_TAG, last));
        }
        offset += payload;
        if (tag.flags & DMI_TAG_LAST) break;
    }
    /* When all tags are sound, only the gap at the end is left. */
    emit_overhead(w, base + offset, end + 8 - offset, offset == end ? 0 : DMI_RANGE_DAMAGED);
}

static void walk_pages(walker *w, const dmi_run *run) {
    size_t end = run->first + (size_t)run->pages;
    for (size_t page = run->first; page < end;) {
        bool refused = _dmi_bits_get(w->segment->refused, page);
        size_t last = _dmi_bits_find(w->segment->refused, page, end, !refused);
        if (w->segment->units)
            last = _dmi_bits_find(w->segment->deferred, page, last,
                                  !_dmi_page_deferred(w->segment, page));
        emit_free(w, w->base + ((uint64_t)page << _dmi_page_shift),
                  (uint64_t)(last - page) << _dmi_page_shift, DMI_RANGE_PAGES, DMI_STATE_FREE, 0,
                  page_reason(w, page));
        page = last;
    }
}

static void walk_run(walker *w, const dmi_run *run) {
    uint64_t base = run_base(w, run), size = _dmi_run_size(run), tail = w->image.heap->tail;
    w->reason = _dmi_reason(&w->image.heap->engine.policy, run->kind, size);
    switch (run->kind) {
    case DMI_RUN_LFH: walk_lfh(w, run); break;
    case DMI_RUN_LIST: walk_list(w, run); break;
    case DMI_RUN_GUARDED: {
        uint64_t at = (uint64_t)run->capacity * 16, bytes = run->block_size;
        if (run->flags & DMI_RUN_KEPT) at = bytes = 0;
        emit_overhead(w, base, at, 0);
        emit(w, base + at, bytes, DMI_RANGE_PAGES, DMI_STATE_BUSY, 0, 0);
        emit_overhead(w, base + at + bytes, size - at - bytes, 0);
        break;
    }
    case DMI_RUN_LARGE:
        emit(w, base, size - tail, DMI_RANGE_PAGES, DMI_STATE_BUSY, 0, 0);
        emit(w, base + size - tail, tail, DMI_RANGE_OVERHEAD, DMI_STATE_OVERHEAD, 0,
             DMI_REASON_overhead);
        break;
    default: walk_pages(w, run); break;
    }
}

/* ---- places ------------------------------------------------------------------------------------------------ */

/* The most ranges that a run can be: a block may be cut at each page. */
static size_t most_ranges(const dmi_run *run) {
    /* In a hardened heap each block has a canary behind it, which is a range. */
    if (run && run->kind == DMI_RUN_LFH)
        return 2 * (size_t)run->capacity + 2 * (size_t)run->pages + 4;
    if (run && run->kind == DMI_RUN_LARGE) return 4;
    if (run && run->kind == DMI_RUN_GUARDED) return 2 * (size_t)run->pages + 4;
    return DMI_WALK_CHUNK;
}

static bool full(const walker *w, const dmi_run *run) {
    return w->chunk && w->capacity - w->count < most_ranges(run);
}

static void walk_segment(walker *w, const dmi_place *place) {
    w->base = place->base;
    w->segment = _dmi_image_segment(&w->image, place->at);
    if (!w->segment || w->segment->size != place->size ||
        (uintptr_t)w->segment->base != place->base) {
        emit(w, place->base, place->size, DMI_RANGE_OVERHEAD, DMI_STATE_OVERHEAD, 0,
             DMI_REASON_overhead | DMI_RANGE_DAMAGED);
        return;
    }
    size_t page = w->from > place->base ? (size_t)(w->from - place->base) >> _dmi_page_shift : 0;
    while (page < w->segment->pages && !w->stopped) {
        uint64_t base = place->base + ((uint64_t)page << _dmi_page_shift);
        size_t next;
        if (base > w->from) w->from = base; /* so that no run can reach back below its first page */
        const dmi_run *run = _dmi_image_covering(&w->image, page, &next);
        if (full(w, run)) {
            w->cut = true;
            break;
        }
        if (!run)
            emit_overhead(w, base, (uint64_t)(next - page) << _dmi_page_shift, DMI_RANGE_DAMAGED);
        else {
            /* The thread may have an operation in flight, so its lists are read as those of a taken run. */
            if (run->kind == DMI_RUN_LFH && !w->image.copies)
                _dmi_cache_take_run(run->cache, (dmi_run *)(uintptr_t)run);
            walk_run(w, run);
        }
        page = next;
    }
    flush(w);
}

static void walk_virtual(walker *w, const dmi_place *place) {
    const dmi_run *run = _dmi_image_virtual(&w->image, place->at);
    uint64_t size = place->size, tail = w->image.heap->tail;
    w->base = place->base;
    if (!run) {
        emit(w, w->base, size, DMI_RANGE_OVERHEAD, DMI_STATE_OVERHEAD, 0,
             DMI_REASON_overhead | DMI_RANGE_DAMAGED);
    } else if (!(run->flags & DMI_RUN_KEPT)) {
        emit(w, w->base, size - tail, DMI_RANGE_VIRTUAL, DMI_STATE_BUSY, 0, 0);
        emit(w, w->base + size - tail, tail, DMI_RANGE_OVERHEAD, DMI_STATE_OVERHEAD, 0,
             DMI_REASON_overhead);
    } else if (run->segment->has_given_at) {
        emit(w, w->base, size, DMI_RANGE_VIRTUAL, DMI_STATE_OFFERED, 0, DMI_REASON_offered);
    } else {
        emit(w, w->base, size, DMI_RANGE_VIRTUAL, DMI_STATE_FREE, 0,
             _dmi_reason(&w->image.heap->engine.policy, run->kind, size));
    }
}

static void walk_heap(walker *w) {
    dmi_place places[PLACES];
    bool more = true;
    while (more && !w->stopped) {
        size_t n = _dmi_image_places(&w->image, w->from, places, PLACES, &more);
        for (size_t i = 0; i < n && !w->stopped; i++) {
            if (places[i].is_virtual && w->chunk && w->capacity - w->count < 4) return;
            if (places[i].is_virtual) walk_virtual(w, &places[i]);
            else walk_segment(w, &places[i]);
            if (w->cut) return;
            w->from = places[i].base + places[i].size;
        }
    }
    if (!w->stopped) w->from = UINT64_MAX;
}

int _dmi_walk_image(dmi_image *image, dmi_visit visit, void *argument) {
    walker w = {.image = *image, .visit = visit, .argument = argument};
    walk_heap(&w);
    return w.stopped;
}

void _dmi_walk_image_chunk(dmi_image *image, uint64_t *from, dmi_range *out, size_t capacity,
                           size_t *count) {
    walker w = {.image = *image, .out = out, .capacity = capacity, .chunk = true, .from = *from};
    walk_heap(&w);
    *count = w.count;
    *from = w.from;
}

/* ---- this process --------------------------------------------------------------------------------------------- */

static int walk_own(void *handle, walker *w) {
    dmi_heap *heap = _dmi_heap_resolve(handle);
    if (!heap) return -1;
    _dmi_image_open_own(&w->image);
    _dmi_lock(&heap->pass);
    if (!_dmi_heap_freeze(heap)) {
        _dmi_unlock(&heap->pass);
        errno = ENOTSUP;
        return -1;
    }
    if (_dmi_image_heap(&w->image, (uintptr_t)heap)) walk_heap(w);
    _dmi_heap_thaw(heap);
    _dmi_unlock(&heap->pass);
    return w->stopped;
}

int dmi_heap_walk(void *handle, dmi_visit visit, void *argument) {
    walker w = {.visit = visit, .argument = argument};
    return walk_own(handle, &w);
}

int dmi_heap_walk_array(void *handle, dmi_range *out, size_t capacity, size_t *count) {
    walker w = {.out = out, .capacity = capacity};
    int failed = walk_own(handle, &w);
    *count = w.count;
    return failed;
}

int dmi_heap_walk_chunk(void *handle, uint64_t *from, dmi_range *out, size_t capacity,
                        size_t *count) {
    walker w = {.out = out, .capacity = capacity, .chunk = true, .from = *from};
    *count = 0;
    if (*from == UINT64_MAX) return 0;
    if (capacity < DMI_WALK_CHUNK) {
        errno = EINVAL;
        return -1;
    }
    int failed = walk_own(handle, &w);
    if (failed) return failed;
    *count = w.count;
    *from = w.from;
    return 0;
}

/* ---- segments ------------------------------------------------------------------------------------------ */

dmi_segment_info _dmi_segment_told(const dmi_segment *s) {
    dmi_segment_info told = {.address = (uintptr_t)s->base, .reserved = s->size};
    told.committed = (uint64_t)_dmi_bits_count(s->committed, 0, s->pages) << _dmi_page_shift;
    for (size_t i = 0; i < s->pages;) {
        size_t from = _dmi_bits_find(s->committed, i, s->pages, false);
        if (from == s->pages) break;
        told.uncommitted_ranges++;
        i = _dmi_bits_find(s->committed, from, s->pages, true);
    }
    return told;
}

dmi_segment_info _dmi_virtual_told(const dmi_run *run) {
    return (dmi_segment_info){.address = (uintptr_t)run->segment->base,
                              .reserved = run->segment->size,
                              .committed = run->segment->size,
                              .is_virtual = !(run->flags & DMI_RUN_KEPT)};
}

size_t dmi_heap_segments(void *handle, dmi_segment_info *out, size_t capacity) {
    dmi_heap *heap = _dmi_heap_resolve(handle);
    if (!heap) return 0;
    size_t n = 0;
    _dmi_lock(&heap->pass);
    _dmi_lock(&heap->lock);
    for (dmi_segment *s = heap->space.segments; s; s = s->next, n++)
        if (n < capacity) out[n] = _dmi_segment_told(s);
    dmi_run *lists[2] = {heap->space.kept, heap->space.virtuals};
    for (int i = 0; i < 2; i++)
        for (dmi_run *run = lists[i]; run; run = run->next, n++)
            if (n < capacity) out[n] = _dmi_virtual_told(run);
    _dmi_unlock(&heap->lock);
    _dmi_unlock(&heap->pass);
    return n;
}
