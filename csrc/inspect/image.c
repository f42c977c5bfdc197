/* image.c - the structs of a heap through a reader, each checked before it is used. */
#include "image.h"
#include "../decommit/policies.h"
#include "../heap/hard_fast.h"
#include "../heap/registry.h"

#include "layout.h"

#include <errno.h>
#include <string.h>

/* The struct at that address: itself in this process, else a copy. NULL: it cannot be read. */
static const void *fetch(const dmi_image *image, uint64_t address, void *copy, size_t size) {
    if (!image->copies) return (const void *)(uintptr_t)address;
    if (address % 8 || address > UINT64_MAX - size) return NULL;
    return image->reader->read(image->reader->context, address, copy, size) ? NULL : copy;
}

static bool word_at(const dmi_image *image, uint64_t address, uint64_t *word) {
    const uint64_t *found = fetch(image, address, word, sizeof *word);
    if (!found) return false;
    *word = *found;
    return true;
}

/* A heap, segment or run at that address, of whatever build; copy has room for ours. */
static const void *fetch_struct(const dmi_image *image, dmi_shape_of what, uint64_t address,
                                void *copy, size_t size) {
    const dmi_shape *shape = image->shape;
    if (!shape) return fetch(image, address, copy, size);
    char *theirs = image->copies->theirs;
    if (!fetch(image, address, theirs, shape->size[what])) return NULL;
    _dmi_shape_fill(shape, what, theirs, copy);
    return copy;
}

static uint64_t size_of(const dmi_image *image, dmi_shape_of what, size_t own) {
    return image->shape ? image->shape->size[what] : own;
}

static uint64_t at(const void *pointer) { return (uintptr_t)pointer; }

/* ---- opening -------------------------------------------------------------------------------------- */

void _dmi_image_open_own(dmi_image *image) {
    memset(image, 0, sizeof *image);
    image->heaps = at(_dmi_heaps);
    image->key = _dmi_secret.tag;
    image->code.secret = _dmi_secret.link;
    image->code.end = at(_dmi_end);
}

/* The layout root at that address: its pointers, and its table where it is not ours. */
static int read_layout(dmi_image *image, uint64_t root, dmi_layout *layout) {
    const dmi_reader *reader = image->reader;
    dmi_shape *shape = &image->copies->shape;
    size_t head = offsetof(dmi_layout, heaps);
    int error = reader->read(reader->context, root, layout, head);
    if (error) return error;
    if (layout->size == sizeof *layout) {
        error = reader->read(reader->context, root, layout, sizeof *layout);
        if (error || !_dmi_layout_differs(layout)) return error;
    }
    if (memcmp(layout->magic, dmi_layout_root.magic, sizeof layout->magic) != 0 ||
        layout->version < DMI_LAYOUT_OLDEST || layout->version > DMI_LAYOUT_VERSION ||
        layout->address_bits != DMI_ADDRESS_BITS) {
        image->differs = "version";
        return ENOTSUP;
    }
    /* Between head and table stand pointers, first those that ours begins with. */
    uint64_t table = (uint64_t)layout->field_count * sizeof(dmi_layout_field);
    if (layout->field_count > DMI_SHAPE_FIELDS || layout->size < head + 4 * 8 + table ||
        layout->size - table > head + 64 * 8 || (layout->size - table) % 8) {
        image->differs = "field_count";
        return ENOTSUP;
    }
    size_t pointers = (size_t)(layout->size - table) - head, own = offsetof(dmi_layout, fields);
    memset((char *)layout + head, 0, own - head);
    error = reader->read(reader->context, root + head, (char *)layout + head,
                         pointers < own - head ? pointers : own - head);
    memset(shape, 0, sizeof *shape);
    shape->version = layout->version;
    shape->count = layout->field_count;
    if (!error)
        error = reader->read(reader->context, root + head + pointers, shape->fields, (size_t)table);
    if (error) return error;
    image->differs = _dmi_shape_learn(shape);
    image->shape = shape;
    return image->differs ? ENOTSUP : 0;
}

int _dmi_image_open(dmi_image *image, const dmi_reader *reader, dmi_copies *copies, uint64_t root) {
    dmi_layout layout;
    uint64_t page = 0;
    memset(image, 0, sizeof *image);
    image->reader = reader;
    image->copies = copies;
    int error = read_layout(image, root, &layout);
    if (error) return error;
    bool plain = image->shape && image->shape->links == DMI_LINKS_PLAIN;
    if (!word_at(image, at(layout.page), &page) ||
        !word_at(image, at(layout.pagemap), &image->table) ||
        !word_at(image, at(layout.key), &image->key) ||
        (!plain && !word_at(image, at(layout.link), &image->code.secret)) ||
        !word_at(image, at(layout.heaps), &image->heaps))
        return EFAULT;
    if (!plain) image->code.end = at(layout.end);
    if (page == 0) image->heaps = image->table = 0; /* it has made no heap */
    else if (_dmi_space_setup() || page != _dmi_page) {
        image->differs = "page";
        return ENOTSUP;
    }
    return 0;
}

/* ---- lists from outside ----------------------------------------------------------------------------- */

/* Notices a list that leads back into itself. It remembers one element, a later one each time the number of steps has
 * doubled; a list that comes back to that element has a circle (Brent's algorithm). */
typedef struct chain {
    uint64_t kept;
    size_t steps, limit;
} chain;

static bool advance(chain *c, uint64_t address) {
    if (address == 0 || address == c->kept) return false;
    if (c->steps++ == c->limit) {
        c->kept = address;
        c->limit = c->limit * 2 + 1;
    }
    return true;
}

int _dmi_image_heaps(dmi_image *image, int (*visit)(void *argument, uint64_t address),
                     void *argument) {
    chain c = {0};
    int result = 0;
    for (uint64_t heap = image->heaps; !result && advance(&c, heap);) {
        uint64_t next;
        uint64_t offset = image->shape ? image->shape->next : offsetof(dmi_heap, next);
        if (!word_at(image, heap + offset, &next)) break;
        result = visit(argument, heap);
        heap = next;
    }
    return result;
}

const dmi_heap *_dmi_image_heap(dmi_image *image, uint64_t address) {
    dmi_copies *copies = image->copies;
    const dmi_heap *heap =
        fetch_struct(image, DMI_SHAPE_HEAP, address, copies ? &copies->heap : NULL, sizeof *heap);
    image->heap = NULL;
    image->segment = NULL;
    image->leaf = 0;
    if (!heap || !heap->handle || (heap->tail != 0 && heap->tail != sizeof(uint64_t)) ||
        heap->engine.policy.when >= DMI_POLICIES)
        return NULL;
    image->heap = heap;
    image->heap_at = address;
    image->space_at = address + (image->shape ? image->shape->space : offsetof(dmi_heap, space));
    return heap;
}

/* ---- places ------------------------------------------------------------------------------------------ */

static bool sane(const dmi_image *image, const dmi_segment *s, uint64_t address) {
    uint64_t base = at(s->base);
    return at(s->space) == image->space_at && s->pages != 0 &&
           s->size == s->pages << _dmi_page_shift && s->size >> _dmi_page_shift == s->pages &&
           base % _dmi_page == 0 && base <= UINT64_MAX - s->size &&
           base + s->size <= (uint64_t)DMI_SLICES << DMI_SLICE_SHIFT &&
           (address == 0 || base > address);
}

typedef struct gathering {
    dmi_place *out;
    size_t capacity, count;
    uint64_t from;
    bool more;
} gathering;

static void insert(gathering *g, dmi_place place) {
    if (place.base + place.size <= g->from) return;
    size_t i = g->count;
    if (i == g->capacity) {
        g->more = true;
        if (g->out[i - 1].base <= place.base) return;
        i--;
    } else {
        g->count++;
    }
    for (; i && g->out[i - 1].base > place.base; i--) g->out[i] = g->out[i - 1];
    g->out[i] = place;
}

static void gather_segments(dmi_image *image, gathering *g) {
    chain c = {0};
    dmi_segment copy;
    for (uint64_t next = at(image->heap->space.segments); advance(&c, next);) {
        const dmi_segment *s = fetch_struct(image, DMI_SHAPE_SEGMENT, next, &copy, sizeof copy);
        if (!s) return;
        if (sane(image, s, next) && at(s->reservation) == next)
            insert(g, (dmi_place){.base = at(s->base), .size = s->size, .at = next});
        next = at(s->next);
    }
}

static void gather_virtuals(dmi_image *image, gathering *g, uint64_t first) {
    chain c = {0};
    dmi_run copy;
    dmi_segment segment;
    for (uint64_t next = first; advance(&c, next);) {
        const dmi_run *run = fetch_struct(image, DMI_SHAPE_RUN, next, &copy, sizeof copy);
        if (!run) return;
        const dmi_segment *s =
            fetch_struct(image, DMI_SHAPE_SEGMENT, at(run->segment), &segment, sizeof segment);
        if (s && run->kind == DMI_RUN_VIRTUAL && sane(image, s, 0))
            insert(g, (dmi_place){
                          .base = at(s->base), .size = s->size, .at = next, .is_virtual = true});
        next = at(run->next);
    }
}

size_t _dmi_image_places(dmi_image *image, uint64_t from, dmi_place *out, size_t capacity,
                         bool *more) {
    gathering g = {.out = out, .capacity = capacity, .from = from};
    gather_segments(image, &g);
    gather_virtuals(image, &g, at(image->heap->space.virtuals));
    gather_virtuals(image, &g, at(image->heap->space.kept));
    size_t kept = 0;
    for (size_t i = 0; i < g.count; i++)
        if (kept == 0 || out[i].base >= out[kept - 1].base + out[kept - 1].size)
            out[kept++] = out[i];
    *more = g.more;
    return kept;
}

/* ---- segments ---------------------------------------------------------------------------------------- */

static bool copy_bitmap(dmi_image *image, dmi_bits **map, dmi_bits *copy, uint64_t low,
                        uint64_t high, size_t pages) {
    uint64_t from = at(*map);
    size_t bytes = _dmi_bits_words(pages) * sizeof(uint64_t);
    if (from < low || from % 8 || from > high || high - from < bytes) return false;
    if (image->reader->read(image->reader->context, from, (void *)copy, bytes)) return false;
    *map = copy;
    return true;
}

const dmi_segment *_dmi_image_segment(dmi_image *image, uint64_t address) {
    dmi_copies *copies = image->copies;
    const dmi_segment *s = fetch_struct(image, DMI_SHAPE_SEGMENT, address,
                                        copies ? &copies->segment : NULL, sizeof *s);
    image->segment = NULL;
    image->leaf = 0;
    if (!s || !sane(image, s, address) || at(s->reservation) != address ||
        s->size > DMI_SEGMENT_LARGEST)
        return NULL;
    uint64_t low = address + size_of(image, DMI_SHAPE_SEGMENT, sizeof *s), high = at(s->base);
    uint64_t runs = at(s->runs), each = size_of(image, DMI_SHAPE_RUN, sizeof(dmi_run));
    if (runs < low || runs > high || (runs - address) % each || s->runs_used > (high - runs) / each)
        return NULL;
    if (copies) {
        dmi_segment *copy = &copies->segment;
        copy->space = &copies->heap.space;
        if (!copy_bitmap(image, &copy->committed, copies->committed, low, high, s->pages) ||
            !copy_bitmap(image, &copy->offered, copies->offered, low, high, s->pages) ||
            !copy_bitmap(image, &copy->refused, copies->refused, low, high, s->pages))
            return NULL;
        if (copy->units &&
            !copy_bitmap(image, &copy->deferred, copies->deferred, low, high, s->pages))
            return NULL;
        copy->split = copy->opening = NULL;
        /* The walker does not use these. Their addresses are of the other process. */
        copy->aged = copy->touched = copy->soft = NULL;
        copy->given_at = NULL;
        copy->page_busy = NULL;
    }
    image->segment = s;
    image->segment_at = address;
    return s;
}

/* ---- runs ---------------------------------------------------------------------------------------------- */

static uint64_t lookup(dmi_image *image, uint64_t address) {
    if (!image->copies) return at(_dmi_pagemap_find((const void *)(uintptr_t)address));
    uint64_t slice = address >> DMI_SLICE_SHIFT, run;
    if (slice >= DMI_SLICES) return 0;
    if (!image->leaf || image->slice != slice) {
        image->leaf = 0;
        if (!word_at(image, image->table + slice * 8, &image->leaf) || !image->leaf) return 0;
        image->slice = slice;
    }
    return word_at(image, image->leaf + (address >> DMI_UNIT_SHIFT) * 8, &run) ? run : 0;
}

static bool sane_blocks(const dmi_run *run) {
    size_t size = _dmi_run_size(run);
    if (run->kind == DMI_RUN_LIST) return size <= DMI_IMAGE_RUN;
    if (run->kind == DMI_RUN_GUARDED) return (size_t)run->capacity * 16 + run->block_size <= size;
    if (run->kind != DMI_RUN_LFH) return true;
    return run->pages <= DMI_RUN_PAGES_MAX && run->capacity <= DMI_RUN_BLOCKS_MAX &&
           run->block_size >= 16 && run->block_size % 16 == 0 && run->carved <= run->capacity &&
           run->parked <= run->carved &&
           (!(run->flags & DMI_RUN_TAKEN) || run->list <= run->carved) &&
           (size_t)run->capacity * run->block_size <= size;
}

/* The count of busy blocks is the difference of two words. They may be of different moments, or hostile, so put the
 * difference into its bounds. */
static void settle_count(dmi_run *copy) {
    int64_t busy = (int64_t)atomic_load_explicit(&copy->used, memory_order_relaxed) - copy->bias;
    if (busy < 0) busy = 0;
    if (busy > copy->capacity) busy = copy->capacity;
    copy->bias = 0;
    atomic_store_explicit(&copy->used, (int32_t)busy, memory_order_relaxed);
}

/* Find the blocks of a hardened heap's run that wait in a quarantine, and take them off its count. */
static void gather_waiting(const dmi_image *image, dmi_run *copy) {
    dmi_blockmap *waiting = &image->copies->waiting;
    memset(waiting, 0, sizeof *waiting);
    if (!_dmi_heap_is_hard(image->heap)) return;
    uint64_t states = at(copy->states), base;
    uint8_t of[DMI_RUN_BLOCKS_MAX];
    if (!word_at(image, states + offsetof(dmi_states, base), &base) ||
        base != at(_dmi_run_base(copy)) ||
        image->reader->read(image->reader->context, states + offsetof(dmi_states, of), of,
                            copy->carved))
        return;
    int32_t busy = _dmi_lfh_busy(copy);
    for (size_t i = 0; i < copy->carved; i++) {
        if (of[i] != DMI_HARD_WAITING) continue;
        waiting->word[i / 64] |= UINT64_C(1) << (i % 64);
        if (busy > 0) busy--;
    }
    atomic_store_explicit(&copy->used, busy + copy->bias, memory_order_relaxed);
}

/* Of another build: how its links are decoded, and where its lists begin. */
static void adopt(const dmi_image *image, dmi_run *copy, uint64_t address) {
    const dmi_shape *shape = image->shape;
    const char *theirs = image->copies->theirs;
    if (shape->links == DMI_LINKS_PLACED) {
        copy->inverse = 1; /* so that marks are what they were: block plus run */
        copy->origin = 0 - address;
    }
    if (shape->numbered) return;
    uint64_t base = at(image->segment->base) + ((uint64_t)copy->first << _dmi_page_shift);
    uint64_t list = _dmi_shape_word(shape, "run.list", theirs) - base;
    uint64_t taken = _dmi_shape_word(shape, "run.taken", theirs) - base;
    uint64_t size = copy->block_size, end = (uint64_t)copy->capacity * size;
    copy->list = (uint16_t)(list < end && list % size == 0 ? list / size + 1 : 0);
    copy->taken = (uint16_t)(taken < end && taken % size == 0 ? taken / size + 1 : 0);
}

const dmi_run *_dmi_image_run(dmi_image *image, size_t page) {
    const dmi_segment *s = image->segment;
    uint64_t found = lookup(image, at(s->base) + ((uint64_t)page << _dmi_page_shift));
    const uint64_t each = size_of(image, DMI_SHAPE_RUN, sizeof(dmi_run));
    if (image->copies && (found < at(s->runs) || found >= at(s->base))) {
        /* A watched page leads to a shadow, which names the run. */
        const dmi_run *shadow =
            found ? fetch_struct(image, DMI_SHAPE_RUN, found, &image->copies->run, sizeof *shadow)
                  : NULL;
        if (!shadow || shadow->kind != DMI_RUN_SHADOW || at(shadow->segment) != image->segment_at)
            return NULL;
        found = at(shadow->next);
    }
    uint64_t offset = found - at(s->runs);
    if (found < at(s->runs) || offset % each || offset / each >= s->runs_used) return NULL;
    dmi_copies *copies = image->copies;
    const dmi_run *run =
        fetch_struct(image, DMI_SHAPE_RUN, found, copies ? &copies->run : NULL, sizeof *run);
    if (!run || at(run->segment) != image->segment_at) return NULL;
    if (copies) copies->run.segment = &copies->segment;
    if (image->shape && run->kind == DMI_RUN_LFH) adopt(image, &copies->run, found);
    if (run->kind == DMI_RUN_NONE || run->kind >= DMI_RUN_VIRTUAL || run->pages == 0 ||
        run->first > page || run->first + (uint64_t)run->pages > s->pages ||
        page - run->first >= run->pages || !sane_blocks(run))
        return NULL;
    if (copies && run->kind == DMI_RUN_LFH) {
        settle_count(&copies->run);
        gather_waiting(image, &copies->run);
        if (at(copies->run.head) == image->code.end) _dmi_lfh_set_head(&copies->run, NULL);
    }
    return run;
}

const dmi_run *_dmi_image_covering(dmi_image *image, size_t page, size_t *next) {
    const dmi_run *run = NULL;
    size_t at = page, pages = image->segment->pages;
    while (at < pages && !(run = _dmi_image_run(image, at))) at++;
    *next = !run ? pages : run->first > page ? run->first : run->first + run->pages;
    return run && run->first <= page ? run : NULL;
}

const dmi_run *_dmi_image_virtual(dmi_image *image, uint64_t address) {
    dmi_copies *copies = image->copies;
    const dmi_run *run = fetch_struct(image, DMI_SHAPE_RUN, address,
                                      copies ? &copies->virtual_run : NULL, sizeof *run);
    if (!run || run->kind != DMI_RUN_VIRTUAL) return NULL;
    const dmi_segment *s = fetch_struct(image, DMI_SHAPE_SEGMENT, at(run->segment),
                                        copies ? &copies->virtual_segment : NULL, sizeof *s);
    if (!s || !sane(image, s, 0)) return NULL;
    if (copies) copies->virtual_run.segment = &copies->virtual_segment;
    return run;
}

const char *_dmi_image_memory(dmi_image *image, const dmi_run *run) {
    if (!image->copies) return _dmi_run_base(run);
    const dmi_segment *s = run->segment;
    char *memory = image->copies->memory;
    uint64_t base = at(s->base) + ((uint64_t)run->first << _dmi_page_shift);
    for (size_t p = 0; p < run->pages;) {
        size_t first = p;
        while (p < run->pages && _dmi_page_usable(s, run->first + p)) p++;
        size_t from = first << _dmi_page_shift, size = (p - first) << _dmi_page_shift;
        if (size && image->reader->read(image->reader->context, base + from, memory + from, size))
            return NULL;
        if (size == 0) p++;
    }
    return memory;
}
