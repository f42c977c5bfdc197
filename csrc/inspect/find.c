/* find.c - the block that holds an address. */
#include "../heap/cache.h"
#include "../heap/fast.h"
#include "../heap/hard.h"
#include "../heap/registry.h"
#include "../heap/take.h"
#include "account.h"

#include <errno.h>
#include <string.h>

static void fill(dmi_range *range, const char *address, size_t size, uint32_t kind, uint32_t state,
                 const dmi_segment *segment) {
    *range = (dmi_range){.address = (uintptr_t)address,
                         .size = size,
                         .kind = kind,
                         .state = state,
                         .segment = (uintptr_t)segment->base};
}

/* The state of bytes that are not busy: that of their page, or otherwise. */
static uint32_t page_state(const dmi_segment *segment, const char *address, uint32_t otherwise) {
    size_t page = (size_t)(address - segment->base) >> _dmi_page_shift;
    if (!_dmi_bits_get(segment->committed, page)) return DMI_STATE_UNCOMMITTED;
    return _dmi_bits_get(segment->offered, page) ? DMI_STATE_OFFERED : otherwise;
}

typedef enum lfh_answer { LFH_BUSY, LFH_FREE, LFH_ASK } lfh_answer;

/* What the first word of a block tells. A free block lies on a page that is gone, or begins with a link, which is
 * written before the block enters its list. So a block that begins with anything else is busy, and no list is walked.
 * The cache is locked; its thread may be at work. */
static lfh_answer by_first_word(const dmi_run *run, size_t index) {
    size_t size = run->block_size, first = index * size >> _dmi_page_shift;
    size_t last = ((index + 1) * size - 1) >> _dmi_page_shift;
    if (index >= run->carved) return LFH_FREE;
    for (size_t p = first; p <= last; p++)
        if (!_dmi_page_usable(run->segment, run->first + p)) return LFH_FREE;
    return _dmi_lfh_looks_free(run, _dmi_lfh_block(run, index)) ? LFH_ASK : LFH_BUSY;
}

static bool is_listed(const dmi_run *run, size_t index) {
    dmi_blockmap map;
    size_t pinned = SIZE_MAX;
    return !_dmi_lfh_free_map(run, true, &map, &pinned, NULL) || _dmi_map_get(&map, index) ||
           index == pinned;
}

/* Find the block in a subsegment. False with *again: the run is no longer this subsegment, look it up again. False
 * without: its owner cannot be stopped. */
static bool find_lfh(dmi_run *run, const char *address, dmi_range *range, bool *again) {
    for (bool take = false;; take = true) {
        dmi_cache *cache = _dmi_cache_lock_of(run, take);
        *again = cache || !atomic_load_explicit(&run->cache, memory_order_relaxed);
        if (!cache) return false;
        if (run->kind != DMI_RUN_LFH || _dmi_pagemap_find(address) != run) {
            _dmi_unlock(cache->lock);
            return false;
        }
        size_t index = _dmi_lfh_index(run, address);
        if (index >= run->capacity) {
            size_t used = (size_t)run->capacity * run->block_size;
            fill(range, _dmi_run_base(run) + used, _dmi_run_size(run) - used, DMI_RANGE_OVERHEAD,
                 DMI_STATE_OVERHEAD, run->segment);
            _dmi_unlock(cache->lock);
            return true;
        }
        lfh_answer answer = by_first_word(run, index);
        if (_dmi_run_is_hard(run)) answer = _dmi_hard_busy(run, index) ? LFH_BUSY : LFH_FREE;
        if (answer == LFH_ASK && take) {
            _dmi_cache_take_run(cache, run);
            answer = is_listed(run, index) ? LFH_FREE : LFH_BUSY;
        }
        if (answer != LFH_ASK) {
            size_t tail = answer == LFH_BUSY ? _dmi_heap_of_run(run)->tail : 0;
            fill(range, _dmi_lfh_block(run, index), run->block_size - tail, DMI_RANGE_LFH,
                 answer == LFH_BUSY ? DMI_STATE_BUSY
                                    : page_state(run->segment, address, DMI_STATE_FREE),
                 run->segment);
            range->bucket = run->block_size;
        }
        _dmi_unlock(cache->lock);
        if (answer != LFH_ASK) return true;
    }
}

static void find_list(const dmi_heap *heap, const dmi_run *run, const char *address,
                      dmi_range *range) {
    fill(range, address, 0, DMI_RANGE_OVERHEAD, DMI_STATE_OVERHEAD, run->segment);
    const dmi_tag *tag = _dmi_freelist_holding(run, address);
    const char *payload = (const char *)tag + DMI_LIST_TAG;
    if (!tag || address < payload) return;
    bool busy = tag->flags & DMI_TAG_BUSY;
    fill(range, payload, _dmi_tag_bytes(tag) - DMI_LIST_TAG - (busy ? heap->tail : 0),
         DMI_RANGE_LIST, busy ? DMI_STATE_BUSY : page_state(run->segment, address, DMI_STATE_FREE),
         run->segment);
}

/* A freed block is still the one that an address in it was of. */
static void find_guarded(const dmi_run *run, const char *address, dmi_range *range) {
    const char *block = _dmi_guarded_block(run);
    bool inside = address >= block && address < block + run->block_size;
    bool gone = run->flags & DMI_RUN_KEPT;
    uint32_t state = page_state(run->segment, address, DMI_STATE_OVERHEAD);
    if (inside && run->block_size)
        fill(range, block, run->block_size, DMI_RANGE_PAGES,
             gone ? DMI_STATE_UNCOMMITTED : DMI_STATE_BUSY, run->segment);
    else fill(range, address, 0, DMI_RANGE_OVERHEAD, state, run->segment);
}

static void find_virtual(const dmi_heap *heap, const dmi_run *run, dmi_range *range) {
    bool kept = run->flags & DMI_RUN_KEPT;
    fill(range, run->segment->base, run->segment->size - (kept ? 0 : heap->tail), DMI_RANGE_VIRTUAL,
         kept ? (run->segment->has_given_at ? DMI_STATE_OFFERED : DMI_STATE_FREE) : DMI_STATE_BUSY,
         run->segment);
}

typedef struct search {
    const char *address;
    dmi_found *found;
} search;

/* Look through a heap for an address inside a free run or a virtual block, which has no entry in the page map. */
static int search_heap(dmi_heap *heap, void *argument) {
    search *s = argument;
    int found = 0;
    _dmi_lock(&heap->lock);
    dmi_run *lists[2] = {heap->space.virtuals, heap->space.kept};
    for (int i = 0; i < 2; i++)
        for (dmi_run *run = lists[i]; run; run = run->next)
            if (s->address >= run->segment->base &&
                s->address < run->segment->base + run->segment->size) {
                find_virtual(heap, run, &s->found->range);
                found = 1;
            }
    for (dmi_segment *segment = heap->space.segments; segment && !found; segment = segment->next) {
        if (s->address < segment->base || s->address >= segment->base + segment->size) continue;
        for (size_t page = (size_t)(s->address - segment->base) >> _dmi_page_shift;; page--) {
            dmi_run *run = _dmi_segment_run(segment, page);
            if (run->kind == DMI_RUN_NONE && page) continue;
            fill(&s->found->range, _dmi_run_base(run), _dmi_run_size(run), DMI_RANGE_PAGES,
                 page_state(segment, s->address, DMI_STATE_FREE), segment);
            break;
        }
        found = 1;
    }
    if (found) s->found->heap = heap->handle;
    _dmi_unlock(&heap->lock);
    return found;
}

/* Find by the page map. 0: found. ENOTSUP: the owner cannot be stopped. ENOENT: search the heaps. */
static int find_run(const void *address, dmi_found *found) {
    for (;;) {
        dmi_run *run = _dmi_pagemap_find(address);
        /* Atomic, for the descriptor may be given to another run this moment, of the same segment. */
        const dmi_segment *segment = __atomic_load_n(&run->segment, __ATOMIC_RELAXED);
        if (!segment) return ENOENT;
        dmi_heap *heap = _dmi_heap_of_space(segment->space);
        /* Look it up again under the lock, because the run may be another one by now. */
        _dmi_lock(&heap->lock);
        bool same = _dmi_pagemap_find(address) == run, done = same, again;
        dmi_run_kind kind = run->kind;
        found->heap = heap->handle;
        if (same && kind == DMI_RUN_LIST) find_list(heap, run, address, &found->range);
        else if (same && kind == DMI_RUN_GUARDED) find_guarded(run, address, &found->range);
        else if (same && kind == DMI_RUN_LARGE)
            fill(&found->range, _dmi_run_base(run), _dmi_run_size(run) - heap->tail,
                 DMI_RANGE_PAGES, DMI_STATE_BUSY, run->segment);
        else done = false;
        _dmi_unlock(&heap->lock);
        if (done) return 0;
        if (!same) continue;
        if (kind != DMI_RUN_LFH) return ENOENT;
        if (find_lfh(run, address, &found->range, &again)) return 0;
        if (!again) return ENOTSUP;
    }
}

int dmi_find(const void *address, dmi_found *found) {
    if (found->size < sizeof *found) {
        errno = EINVAL;
        return -1;
    }
    memset(&found->range, 0, sizeof found->range);
    dmi_thread *guard = _dmi_guard();
    int error = find_run(address, found);
    _dmi_unguard(guard);
    if (!error) return 0;
    search s = {.address = address, .found = found};
    if (error == ENOENT && _dmi_heaps_each(search_heap, &s)) return 0;
    errno = error;
    return -1;
}
