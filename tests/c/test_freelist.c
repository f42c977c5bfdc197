/* test_freelist.c - the back end's blocks against a model: overlap, contents, tags, pages, failures. */
#include "block/freelist.h"
#include "block/secret.h"
#include "floors.h"

enum { SLOTS = 600 };

typedef struct slot {
    unsigned char *p;
    size_t size; /* usable */
    unsigned char fill;
} slot;

static slot slots[SLOTS];

static dmi_run *run_of(const void *p) { return _dmi_pagemap_get(p); }

static void check_fill(const slot *s) {
    for (size_t i = 0; i < s->size; i++) ENSURE(s->p[i] == s->fill);
}

static bool is_slot(const void *payload, size_t usable) {
    for (size_t i = 0; i < SLOTS; i++)
        if (slots[i].p == payload) return slots[i].size == usable;
    return false;
}

typedef struct totals {
    size_t busy, free;
} totals;

static void check_region(const dmi_run *run, totals *sum) {
    char *base = _dmi_run_base(run), *end = base + _dmi_run_size(run);
    size_t blocks = 0, busy = 0, before = 0;
    uint64_t bytes = 0;
    bool last_free = false;
    const char *expected = base + 8;
    for (dmi_tag *tag = _dmi_region_first(run); tag; tag = _dmi_region_next(run, tag)) {
        ENSURE((char *)tag == expected);
        ENSURE((uintptr_t)tag % 16 == 8);
        ENSURE(_dmi_tag_sound(tag));
        ENSURE_EQ(tag->before, before);
        before = tag->size;
        expected += _dmi_tag_bytes(tag);
        ENSURE_EQ(!!(tag->flags & DMI_TAG_LAST), expected == end - 8);
        blocks++;
        char *payload = (char *)tag + DMI_LIST_TAG;
        if (tag->flags & DMI_TAG_BUSY) {
            ENSURE(is_slot(payload, _dmi_tag_bytes(tag) - DMI_LIST_TAG));
            ENSURE_EQ(_dmi_freelist_usable(payload), _dmi_tag_bytes(tag) - DMI_LIST_TAG);
            ENSURE_EQ(_dmi_freelist_check(run, payload), DMI_LIST_BUSY);
            busy++;
            bytes += _dmi_tag_bytes(tag) - DMI_LIST_TAG;
            last_free = false;
            continue;
        }
        ENSURE(!last_free);
        last_free = true;
        sum->free++;
        ENSURE_EQ(_dmi_freelist_check(run, payload), DMI_LIST_FREE);
        /* Its spare pages hold neither tag nor links, and are all there are. */
        size_t first, count = _dmi_tag_free_pages(run, tag, &first);
        char *from = run->segment->base + (first << _dmi_page_shift);
        char *to = from + (count << _dmi_page_shift);
        char *limit = expected == end - 8 ? end : (char *)(uintptr_t)expected;
        if (count) ENSURE(from >= (char *)tag + sizeof(dmi_free_block) && to <= limit);
        if (count) ENSURE(from - _dmi_page < (char *)tag + sizeof(dmi_free_block));
        if (count) ENSURE(to + _dmi_page > limit);
        else ENSURE((size_t)(limit - (char *)tag) < 2 * _dmi_page + sizeof(dmi_free_block));
    }
    ENSURE(expected == end - 8);
    ENSURE_EQ(run->blocks, blocks);
    ENSURE_EQ(run->used, busy);
    ENSURE_EQ(run->busy_bytes, bytes);
    ENSURE(busy > 0); /* an empty region goes back at once */
    sum->busy += busy;
}

static size_t bin_of(size_t units) {
    size_t bin = 64, low = 64;
    if (units < 64) return units;
    while (units >= low * 2) {
        low *= 2;
        bin += 8;
    }
    return bin + (units - low) / (low / 8);
}

static void check_list(const dmi_freelist *list) {
    totals sum = {0, 0};
    size_t expected = 0, in_bins = 0;
    uint64_t bytes = 0;
    floors_check_space(list->space);
    for (dmi_segment *s = list->space->segments; s; s = s->next)
        for (size_t page = 0; page < s->pages;) {
            dmi_run *run = _dmi_segment_run(s, page);
            page += run->pages;
            if (run->kind == DMI_RUN_LIST) check_region(run, &sum);
        }
    for (size_t i = 0; i < SLOTS; i++) expected += slots[i].p != NULL;
    ENSURE_EQ(sum.busy, expected);
    for (size_t bin = 0; bin < DMI_LIST_BINS; bin++) {
        const dmi_free_block *before = NULL;
        ENSURE_EQ((list->bin_map[bin / 64] >> (bin % 64)) & 1, list->bins[bin] != NULL);
        for (const dmi_free_block *b = list->bins[bin]; b; before = b, b = _dmi_free_next(b)) {
            ENSURE(_dmi_free_prev(b) == before && _dmi_free_listed(list, b));
            ENSURE(_dmi_tag_sound(&b->tag) && !(b->tag.flags & DMI_TAG_BUSY));
            ENSURE_EQ(bin_of(b->tag.size), bin);
            bytes += _dmi_tag_bytes(&b->tag);
            in_bins++;
        }
    }
    ENSURE_EQ(in_bins, sum.free);
    ENSURE_EQ(list->free_bytes, bytes);
}

/* Give back spare pages of free blocks, and of free runs. */
static void sweep(const dmi_freelist *list, uint64_t *seed) {
    for (dmi_segment *s = list->space->segments; s; s = s->next)
        for (size_t page = 0; page < s->pages;) {
            dmi_run *run = _dmi_segment_run(s, page);
            page += run->pages;
            if (run->kind == DMI_RUN_FREE) {
                for (size_t p = run->first; p < page; p++)
                    if (_dmi_bits_get(s->committed, p) && test_random(seed) % 2)
                        floors_give_free(list->space, s, p, 1);
            }
            if (run->kind != DMI_RUN_LIST) continue;
            for (dmi_tag *tag = _dmi_region_first(run); tag; tag = _dmi_region_next(run, tag)) {
                size_t first, count;
                if (tag->flags & DMI_TAG_BUSY) continue;
                count = _dmi_tag_free_pages(run, tag, &first);
                for (size_t p = first; p < first + count; p++) {
                    if (!_dmi_page_usable(s, p) || test_random(seed) % 3 == 0) continue;
                    if (test_random(seed) % 3) (void)_dmi_pages_decommit(s, p, 1);
                    else (void)_dmi_pages_offer(s, p, 1);
                }
            }
        }
}

static size_t any_size(uint64_t *seed) {
    switch (test_random(seed) % 8) {
    case 0: return 1 + test_random(seed) % 36864;
    case 1: return 1 + test_random(seed) % 8192;
    default: return 1 + test_random(seed) % 600;
    }
}

static void do_alloc(dmi_freelist *list, slot *s, uint64_t *seed) {
    size_t size = any_size(seed), align = 16;
    if (test_random(seed) % 4 == 0) align = (size_t)16 << test_random(seed) % 9;
    if (test_random(seed) % 64 == 0) align = _dmi_page;
    uint64_t before = floors_hash(list->space);
    unsigned char *p = _dmi_freelist_alloc(list, size, align);
    if (!p) {
        ENSURE(_dmi_os_fallible_calls() > 0);
        ENSURE_EQ(floors_hash(list->space), before);
        return;
    }
    size_t usable = _dmi_freelist_usable(p);
    ENSURE((uintptr_t)p % align == 0);
    ENSURE(usable >= size && usable < size + 40);
    *s = (slot){p, usable, (unsigned char)test_random(seed)};
    memset(p, s->fill, usable);
}

static void do_resize(dmi_freelist *list, slot *s, uint64_t *seed) {
    size_t size = any_size(seed), old = s->size;
    if (test_random(seed) %
        2) { /* end close to the end of a page: does the tag behind find its page? */
        size_t to_page = _dmi_page - (uintptr_t)s->p % _dmi_page, back = test_random(seed) % 48;
        size = to_page + test_random(seed) % 2 * _dmi_page;
        size = size > back ? size - back : 1;
        if (size > 36864) size = 36864;
    }
    uint64_t before = floors_hash(list->space);
    bool done = _dmi_freelist_resize(list, run_of(s->p), s->p, size);
    s->size = _dmi_freelist_usable(s->p);
    if (done) ENSURE(s->size >= size);
    else ENSURE(s->size == old && floors_hash(list->space) == before);
    if (!done) ENSURE(size > old);
    for (size_t i = 0; i < old && i < s->size; i++) ENSURE(s->p[i] == s->fill);
    memset(s->p, s->fill, s->size);
}

static void do_free(dmi_freelist *list, slot *s) {
    check_fill(s);
    dmi_run *run = run_of(s->p);
    dmi_run *freed = NULL;
    unsigned char *p = s->p;
    dmi_tag *tag = _dmi_freelist_free(list, run, p, &freed);
    *s = (slot){0};
    if (!tag) {
        ENSURE_EQ(freed->kind, DMI_RUN_FREE);
        ENSURE(p >= (unsigned char *)_dmi_run_base(freed));
        ENSURE(p < (unsigned char *)_dmi_run_base(freed) + _dmi_run_size(freed));
        return;
    }
    ENSURE(freed == NULL);
    ENSURE_EQ(run->kind, DMI_RUN_LIST);
    ENSURE_EQ(_dmi_freelist_check(run, p), DMI_LIST_FREE); /* a second free is seen */
    ENSURE((char *)tag < (char *)p && (char *)p < (char *)tag + _dmi_tag_bytes(tag));
    ENSURE(!(tag->flags & DMI_TAG_BUSY));
}

/* Whatever address it is asked about, the check answers as the model does. */
static void probe(const dmi_freelist *list, uint64_t *seed) {
    dmi_segment *segment = list->space->segments;
    if (!segment) return;
    size_t page = test_random(seed) % segment->pages;
    unsigned char *at = (unsigned char *)segment->base + (page << _dmi_page_shift) +
                        test_random(seed) % _dmi_page / 8 * 8;
    slot *near = &slots[test_random(seed) % SLOTS];
    if (near->p && test_random(seed) % 2) at = near->p + test_random(seed) % near->size;
    dmi_run *run = run_of(at);
    if (run->kind != DMI_RUN_LIST) return;
    dmi_list_state expected = DMI_LIST_FREE;
    unsigned char *base = (unsigned char *)_dmi_run_base(run);
    if (at >= base + _dmi_run_size(run) - 8) expected = DMI_LIST_INTERIOR;
    for (size_t i = 0; i < SLOTS; i++) {
        const slot *s = &slots[i];
        if (!s->p || at < s->p - DMI_LIST_TAG || at >= s->p + s->size) continue;
        expected = at == s->p ? DMI_LIST_BUSY : DMI_LIST_INTERIOR;
    }
    if (at < base + 8) return; /* the gap before the first block: either answer */
    ENSURE_EQ(_dmi_freelist_check(run, at), expected);
}

static void random_blocks(dmi_os_mode mode, uint64_t seed, unsigned long steps, bool failures) {
    dmi_space space;
    dmi_freelist list;
    memset(slots, 0, sizeof slots);
    ENSURE_EQ(_dmi_space_setup(), 0);
    _dmi_space_init(&space, mode, false, "test", 0);
    _dmi_freelist_init(&list, &space);
    ENSURE(_dmi_secret.tag != 0);
    floors_skip_empty = true;
    for (floors_step = 0; floors_step < steps; floors_step++) {
        /* The live set breathes, so that regions come and go. */
        size_t live = floors_step / 700 % 2 ? 20 : SLOTS;
        slot *s = &slots[test_random(&seed) % (test_random(&seed) % 2 ? SLOTS : live)];
        uint64_t kind = test_random(&seed) % 64;
        if (failures && test_random(&seed) % 4 == 0) {
            floors_no_undo = test_random(&seed) % 2;
            _dmi_os_fail_at(1 + test_random(&seed) % 3, floors_no_undo);
        }
        if (kind == 0) sweep(&list, &seed);
        else if (!s->p && s < slots + live) do_alloc(&list, s, &seed);
        else if (s->p && kind < 16) do_resize(&list, s, &seed);
        else if (s->p) do_free(&list, s);
        _dmi_os_fail_at(0, false);
        probe(&list, &seed);
        if (floors_step % 16 == 0) check_list(&list);
    }
    for (size_t i = 0; i < SLOTS; i++)
        if (slots[i].p) do_free(&list, &slots[i]);
    check_list(&list);
    for (dmi_segment *s = space.segments; s; s = s->next)
        ENSURE_EQ(_dmi_segment_run(s, 0)->pages, s->pages);
    _dmi_space_release(&space);
    ENSURE_EQ(_dmi_fake_redundant(), 0);
}

TEST_EACH_PAGE(random_blocks_lazy) { random_blocks(DMI_OS_LAZY, 1, 8000, false); }
TEST_EACH_PAGE(random_blocks_strict) { random_blocks(DMI_OS_STRICT, 2, 8000, false); }
TEST_EACH_PAGE(random_blocks_with_failures) { random_blocks(DMI_OS_LAZY, 3, 10000, true); }

/* ---- the nth call fails ---------------------------------------------------------------------------- */

static void scenario(dmi_freelist *list, dmi_space *space, uint64_t n, bool sticky) {
    uint64_t seed = 5;
    memset(slots, 0, sizeof slots);
    _dmi_space_init(space, DMI_OS_STRICT, false, "test", 0);
    _dmi_freelist_init(list, space);
    floors_no_undo = sticky;
    floors_skip_empty = true;
    _dmi_os_fail_at(n, sticky);
    for (int i = 0; i < 150; i++) {
        slot *s = &slots[test_random(&seed) % 40];
        if (i % 12 == 11) sweep(list, &seed);
        if (!s->p) do_alloc(list, s, &seed);
        else if (i % 3 == 0) do_resize(list, s, &seed);
        else do_free(list, s);
        check_list(list);
    }
    for (size_t i = 0; i < SLOTS; i++)
        if (slots[i].p) do_free(list, &slots[i]);
    check_list(list);
    _dmi_space_release(space);
}

TEST_EACH_PAGE(the_nth_call_fails) {
    dmi_space space;
    dmi_freelist list;
    ENSURE_EQ(_dmi_space_setup(), 0);
    for (int sticky = 0; sticky < 2; sticky++) {
        bool reached = true;
        for (uint64_t n = 1; reached; n++) {
            floors_step = (unsigned long)n;
            ENSURE(n < 3000);
            scenario(&list, &space, n, sticky);
            reached = _dmi_os_fallible_calls() >= n;
            _dmi_os_fail_at(0, false);
        }
    }
}

/* ---- choice ------------------------------------------------------------------------------------------ */

/* Of blocks of one bin the shortest that is long enough serves, wherever in the list it stands. */
TEST_EACH_PAGE(the_best_fit_of_a_bin_serves) {
    dmi_space space;
    dmi_freelist list;
    ENSURE_EQ(_dmi_space_setup(), 0);
    _dmi_space_init(&space, DMI_OS_LAZY, false, NULL, 0);
    _dmi_freelist_init(&list, &space);
    enum { LONG = 70 * 16 - 8, SHORT = 66 * 16 - 8 };
    static const size_t sizes[] = {LONG, SHORT, LONG};
    void *block[3], *between[3];
    dmi_run *freed = NULL;
    for (int i = 0; i < 3; i++) {
        block[i] = _dmi_freelist_alloc(&list, sizes[i], 16);
        between[i] = _dmi_freelist_alloc(&list, 100, 16);
        ENSURE(block[i] && between[i]);
    }
    /* The short one stands in the middle of the bin's list. */
    for (int i = 0; i < 3; i++) (void)_dmi_freelist_free(&list, run_of(block[i]), block[i], &freed);
    ENSURE(_dmi_freelist_alloc(&list, SHORT - 16, 16) == block[1]);
    _dmi_space_release(&space);
}

/* ---- damage ------------------------------------------------------------------------------------------ */

TEST_EACH_PAGE(damage_is_found) {
    dmi_space space;
    dmi_freelist list;
    ENSURE_EQ(_dmi_space_setup(), 0);
    _dmi_space_init(&space, DMI_OS_LAZY, false, NULL, 0);
    _dmi_freelist_init(&list, &space);
    unsigned char *p[5];
    for (int i = 0; i < 5; i++) p[i] = _dmi_freelist_alloc(&list, 100, 16);
    dmi_run *run = run_of(p[0]);
    size_t usable = _dmi_freelist_usable(p[1]);
    for (int i = 0; i < 5; i++) ENSURE_EQ(_dmi_freelist_check(run, p[i]), DMI_LIST_BUSY);
    /* Any bit of the tag behind a block: the block before it and the one it belongs to are damaged. */
    for (size_t bit = 0; bit < 64; bit++) {
        p[1][usable + bit / 8] ^= (unsigned char)(1u << bit % 8);
        ENSURE_EQ(_dmi_freelist_check(run, p[2]), DMI_LIST_CORRUPT);
        ENSURE_EQ(_dmi_freelist_check(run, p[1]), DMI_LIST_CORRUPT);
        ENSURE_EQ(_dmi_freelist_check(run, p[3]), DMI_LIST_CORRUPT);
        ENSURE_EQ(_dmi_freelist_check(run, p[0]), DMI_LIST_BUSY);
        p[1][usable + bit / 8] ^= (unsigned char)(1u << bit % 8);
    }
    /* A copy of a sound tag is not sound elsewhere. */
    memcpy(p[1] + 8, p[1] - 8, 8);
    ENSURE_EQ(_dmi_freelist_check(run, p[1] + 16), DMI_LIST_INTERIOR);
    _dmi_space_release(&space);
}

/* What merged away leaves no tag that could pass for a block. */
/* A tag's words elsewhere are no tag: one place in 65,536 agrees by chance. */
TEST_EACH_PAGE(a_copied_tag_is_not_sound) {
    dmi_space space;
    dmi_freelist list;
    static uint64_t place[64];
    ENSURE_EQ(_dmi_space_setup(), 0);
    _dmi_space_init(&space, DMI_OS_LAZY, false, NULL, 0);
    _dmi_freelist_init(&list, &space);
    char *p = _dmi_freelist_alloc(&list, 200, 16);
    ENSURE(p && _dmi_tag_sound((dmi_tag *)(void *)(p - DMI_LIST_TAG)));
    size_t sound = 0;
    for (size_t i = 0; i < 64; i++) {
        memcpy(&place[i], p - DMI_LIST_TAG, sizeof place[i]);
        sound += _dmi_tag_sound((dmi_tag *)(void *)&place[i]);
    }
    ENSURE(sound <= 2);
    _dmi_space_release(&space);
}

TEST_EACH_PAGE(no_stale_tag_is_taken_for_a_block) {
    dmi_space space;
    dmi_freelist list;
    ENSURE_EQ(_dmi_space_setup(), 0);
    _dmi_space_init(&space, DMI_OS_LAZY, false, NULL, 0);
    _dmi_freelist_init(&list, &space);
    dmi_run *freed = NULL;
    unsigned char *a = _dmi_freelist_alloc(&list, 100, 16),
                  *b = _dmi_freelist_alloc(&list, 100, 16);
    unsigned char *c = _dmi_freelist_alloc(&list, 100, 16),
                  *d = _dmi_freelist_alloc(&list, 100, 16);
    dmi_run *run = run_of(a);
    ENSURE(d != NULL);
    _dmi_freelist_free(&list, run, a, &freed);
    _dmi_freelist_free(&list, run, c, &freed);
    _dmi_freelist_free(&list, run, b, &freed); /* a, b and c are one now */
    ENSURE_EQ(_dmi_freelist_check(run, a), DMI_LIST_FREE);
    ENSURE_EQ(_dmi_freelist_check(run, b), DMI_LIST_FREE);
    ENSURE_EQ(_dmi_freelist_check(run, c), DMI_LIST_FREE);
    unsigned char *e = _dmi_freelist_alloc(&list, 300, 16);
    ENSURE(e == a);
    ENSURE_EQ(_dmi_freelist_check(run, b), DMI_LIST_INTERIOR);
    ENSURE_EQ(_dmi_freelist_check(run, c), DMI_LIST_INTERIOR);
    ENSURE(_dmi_freelist_resize(&list, run, e, 40));
    ENSURE_EQ(_dmi_freelist_check(run, b), DMI_LIST_FREE);
    ENSURE(_dmi_freelist_resize(&list, run, e, 300));
    for (size_t i = 16; i < 300; i += 16)
        ENSURE_EQ(_dmi_freelist_check(run, e + i), DMI_LIST_INTERIOR);
    /* Nor does a region leave one for the region that takes its place. */
    _dmi_freelist_free(&list, run, e, &freed);
    _dmi_freelist_free(&list, run, d, &freed);
    unsigned char *f = _dmi_freelist_alloc(&list, 30000, 16);
    ENSURE(f == a);
    for (size_t i = 16; i < 30000; i += 16)
        ENSURE_EQ(_dmi_freelist_check(run_of(f), f + i), DMI_LIST_INTERIOR);
    _dmi_space_release(&space);
}
