/* pins.c - which busy blocks keep most free bytes from going back.
 *
 * A block pins the free bytes of the pages that would be free pages without it. Free bytes of a page with several busy
 * blocks are pinned by none of them alone, so they are not counted.
 */
#include "../heap/cache.h"
#include "../heap/registry.h"
#include "../heap/take.h"
#include "account.h"

#include <errno.h>
#include <string.h>

typedef struct best {
    dmi_pin *pins; /* a heap with the least at its root */
    size_t capacity, count;
    uint64_t seen;
} best;

/* Does a rank behind b? */
static bool behind(const dmi_pin *a, const dmi_pin *b) {
    return a->pinned != b->pinned ? a->pinned < b->pinned : a->address > b->address;
}

static void swap(dmi_pin *a, dmi_pin *b) {
    dmi_pin kept = *a;
    *a = *b;
    *b = kept;
}

static void sift_down(dmi_pin *pins, size_t count, size_t i) {
    for (;;) {
        size_t least = i, left = 2 * i + 1;
        if (left < count && behind(&pins[left], &pins[least])) least = left;
        if (left + 1 < count && behind(&pins[left + 1], &pins[least])) least = left + 1;
        if (least == i) return;
        swap(&pins[i], &pins[least]);
        i = least;
    }
}

static void note(best *b, const void *address, size_t size, uint64_t pinned) {
    if (pinned == 0) return;
    b->seen++;
    dmi_pin pin = {.address = (uintptr_t)address, .size = size, .pinned = pinned};
    if (b->count < b->capacity) {
        size_t i = b->count++;
        b->pins[i] = pin;
        for (; i && behind(&b->pins[i], &b->pins[(i - 1) / 2]); i = (i - 1) / 2)
            swap(&b->pins[i], &b->pins[(i - 1) / 2]);
    } else if (b->capacity && behind(&b->pins[0], &pin)) {
        b->pins[0] = pin;
        sift_down(b->pins, b->count, 0);
    }
}

/* Sort the best first (heap sort). */
static void sort(best *b) {
    for (size_t n = b->count; n > 1; n--) {
        swap(&b->pins[0], &b->pins[n - 1]);
        sift_down(b->pins, n - 1, 0);
    }
}

/* ---- subsegments --------------------------------------------------------------------------------- */

static void pins_lfh(best *b, const dmi_run *run, size_t tail) {
    dmi_blockmap map;
    size_t pinned = SIZE_MAX;
    const void *bad;
    if (!_dmi_lfh_free_map(run, true, &map, &pinned, &bad)) return;
    size_t size = run->block_size, used = (size_t)run->capacity * size;
    size_t owner = SIZE_MAX, block = 0,
           next = 0; /* the first block that does not end before the page */
    uint64_t bytes = 0;
    for (size_t p = 0; p < run->pages; p++) {
        size_t from = p << _dmi_page_shift, to = from + _dmi_page;
        size_t busy = 0, on_page = 0, last = SIZE_MAX;
        bool in_flight = pinned != SIZE_MAX && pinned * size < to && (pinned + 1) * size > from;
        for (block = next; block < run->carved && block * size < to; block++) {
            size_t start = block * size, end = start + size;
            next = end > to ? block : block + 1;
            if (_dmi_map_get(&map, block) || block == pinned) continue;
            on_page += (end < to ? end : to) - (start > from ? start : from);
            last = block;
            busy++;
        }
        if (busy != 1 || in_flight || !_dmi_page_usable(run->segment, run->first + p)) continue;
        if (last != owner) {
            if (owner != SIZE_MAX) note(b, _dmi_lfh_block(run, owner), size - tail, bytes);
            owner = last;
            bytes = 0;
        }
        size_t end = to < used ? to : used; /* the tail behind the last block is not free */
        bytes += end > from ? end - from - on_page : 0;
    }
    if (owner != SIZE_MAX) note(b, _dmi_lfh_block(run, owner), size - tail, bytes);
}

/* ---- regions of the free list ---------------------------------------------------------------------- */

#define LINKS sizeof(dmi_free_block)

static size_t up(size_t offset) { return _dmi_pages(offset) << _dmi_page_shift; }
static size_t down(size_t offset) { return offset >> _dmi_page_shift << _dmi_page_shift; }

/* Bytes of [from, to) inside [low, high). */
static size_t overlap(size_t from, size_t to, size_t low, size_t high) {
    if (from < low) from = low;
    if (to > high) to = high;
    return to > from ? to - from : 0;
}

static bool is_free(const dmi_tag *tag) { return tag && !(tag->flags & DMI_TAG_BUSY); }

/* The offset up to which pages may go with a free block: the gap at the end of the region goes with the last one. */
static size_t end_of(const char *base, const dmi_tag *tag) {
    return (size_t)((const char *)tag - base) + _dmi_tag_bytes(tag) +
           (tag->flags & DMI_TAG_LAST ? 8 : 0);
}

/* How many free bytes of the neighbours lie on pages that would go if this block were free, too. */
static size_t pinned_by(const char *base, const dmi_tag *before, const dmi_tag *tag,
                        const dmi_tag *after) {
    size_t at = (size_t)((const char *)tag - base), from, to;
    size_t low = 0,
           high =
               0; /* the neighbours' payloads, where they are free, begin at low and end at high */
    if (is_free(before)) {
        size_t start = (size_t)((const char *)before - base);
        low = start + DMI_LIST_TAG;
        from = up(start + LINKS) > down(at) ? up(start + LINKS) : down(at);
    } else {
        low = at;
        from = up(at + LINKS);
    }
    size_t behind_it = at + _dmi_tag_bytes(tag);
    if (is_free(after)) {
        high = behind_it + _dmi_tag_bytes(after);
        size_t end = down(end_of(base, after));
        to = up(behind_it + LINKS) < end ? up(behind_it + LINKS) : end;
    } else {
        high = behind_it;
        to = down(end_of(base, tag));
    }
    return overlap(low, at, from, to) + overlap(behind_it + DMI_LIST_TAG, high, from, to);
}

static void pins_list(best *b, const dmi_heap *heap, const dmi_run *run) {
    const char *base = run->segment->base;
    int32_t busy = atomic_load_explicit(&run->used, memory_order_relaxed);
    dmi_tag *before = NULL, *tag = _dmi_region_first(run);
    while (tag && _dmi_tag_sound(tag)) {
        dmi_tag *after = _dmi_region_next(run, tag);
        if (after && !_dmi_tag_sound(after)) return;
        if (tag->flags & DMI_TAG_BUSY) {
            uint64_t pinned = pinned_by(base, before, tag, after);
            if (busy == 1) { /* without it the whole region would go */
                dmi_account account;
                _dmi_account_run(heap, run, &account);
                pinned = account.free_list - account.reclaimable;
            }
            note(b, (char *)tag + DMI_LIST_TAG, _dmi_tag_bytes(tag) - DMI_LIST_TAG - heap->tail,
                 pinned);
        }
        before = tag;
        tag = after;
    }
}

int dmi_heap_pins(void *handle, dmi_pin *out, size_t capacity, size_t *count) {
    dmi_heap *heap = _dmi_heap_resolve(handle);
    if (!heap) return -1;
    best b = {.pins = out, .capacity = capacity};
    _dmi_lock(&heap->pass);
    if (!_dmi_heap_freeze(heap)) {
        _dmi_unlock(&heap->pass);
        errno = ENOTSUP;
        return -1;
    }
    for (dmi_segment *s = heap->space.segments; s; s = s->next) {
        for (size_t page = 0; page < s->pages;) {
            dmi_run *run = _dmi_segment_run(s, page);
            page += run->pages;
            if (run->kind == DMI_RUN_LFH) {
                _dmi_cache_take_run(run->cache, run);
                pins_lfh(&b, run, heap->tail);
            } else if (run->kind == DMI_RUN_LIST) {
                pins_list(&b, heap, run);
            }
        }
    }
    _dmi_heap_thaw(heap);
    _dmi_unlock(&heap->pass);
    sort(&b);
    if (count) *count = (size_t)b.seen;
    return 0;
}
