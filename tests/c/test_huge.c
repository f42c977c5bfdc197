/* test_huge.c - huge pages: units of 2 MiB go whole, are split when enough of them is free, and stay else. */
#include "heaps.h"

#define UNIT DMI_HUGE
#define BLOCKS 4096

static void *block[BLOCKS];

static void *make(const char *text, double split) {
    dmi_policy policy = heaps_policy(text);
    dmi_heap_options options = {.size = sizeof options,
                                .flags = DMI_HEAP_HUGE_PAGES | DMI_HEAP_MANUAL_CLOCK,
                                .policy = &policy,
                                .huge_split = split};
    void *heap = dmi_heap_create(&options);
    ENSURE(heap != NULL);
    return heap;
}

/* Runs of whole pages, a quarter of a unit each, four of them a unit: the first unit is block[0..3]. */
static void quarters(void *heap, size_t count) {
    for (size_t i = 0; i < count; i++) ENSURE((block[i] = dmi_heap_malloc(heap, UNIT / 4)));
}

static dmi_space *space_of(void *heap) { return &_dmi_heap_resolve(heap)->space; }

/* Blocks of a page or so of one bucket, until their runs fill some units; how many. */
static size_t small(void *heap, size_t size, size_t bytes) {
    size_t count = bytes / size;
    ENSURE(count < BLOCKS);
    for (int i = 0; i < 20; i++) ENSURE(dmi_heap_malloc(heap, size));
    for (size_t i = 0; i < count; i++) ENSURE((block[i] = dmi_heap_malloc(heap, size)));
    return count;
}

static size_t whole_units(const dmi_space *space) {
    size_t n = 0;
    for (const dmi_segment *s = space->segments; s; s = s->next)
        n += s->units - _dmi_bits_count(s->split, 0, s->units);
    return n;
}

static size_t split_units(const dmi_space *space) {
    size_t n = 0;
    for (const dmi_segment *s = space->segments; s; s = s->next)
        n += _dmi_bits_count(s->split, 0, s->units);
    return n;
}

/* The advice that the system has is that of the units, and none for metadata. */
static void advice_agrees(const dmi_space *space) {
    for (const dmi_segment *s = space->segments; s; s = s->next) {
        ENSURE((uintptr_t)s->base % UNIT == 0);
        ENSURE_EQ(s->units, s->size / UNIT);
        ENSURE_EQ(_dmi_bits_count(s->opening, 0, s->units), 0);
        for (const char *at = s->reservation; at < s->base; at += PAGE) ENSURE(!_dmi_fake_huge(at));
        for (size_t p = 0; p < s->pages; p++) {
            bool huge = p >> _dmi_unit_shift() < s->units &&
                        (space->mode == DMI_OS_STRICT || _dmi_unit_whole(s, p));
            ENSURE_EQ(_dmi_fake_huge(s->base + (p << _dmi_page_shift)), huge);
        }
    }
}

TEST_EACH_PAGE(user_pages_begin_at_a_unit_and_metadata_has_no_huge_pages) {
    void *heap = make("lazy", 0);
    quarters(heap, 100);
    advice_agrees(space_of(heap));
    ENSURE(whole_units(space_of(heap)) >= 25);
    void *large = dmi_heap_malloc(heap, (size_t)20 << 20);
    ENSURE(large && (uintptr_t)large % UNIT == 0);
    void *plain = heaps_create("lazy", 0);
    ENSURE(dmi_heap_malloc(plain, 100));
    ENSURE_EQ(space_of(plain)->segments->units, 0);
    ENSURE(!_dmi_fake_huge(space_of(plain)->segments->base));
}

TEST_EACH_PAGE(what_is_left_of_two_megabytes_has_no_huge_page) {
    dmi_heap_options options = {
        .size = sizeof options, .flags = DMI_HEAP_HUGE_PAGES, .max_size = UNIT * 3 / 2};
    void *heap = dmi_heap_create(&options);
    ENSURE(dmi_heap_malloc(heap, 100));
    const dmi_segment *s = space_of(heap)->segments;
    ENSURE(s->size <= options.max_size);
    advice_agrees(space_of(heap));
    /* With room for no unit at all the option means nothing. */
    options.max_size = UNIT / 2;
    void *small_heap = dmi_heap_create(&options);
    ENSURE(dmi_heap_malloc(small_heap, 100));
    ENSURE_EQ(space_of(small_heap)->segments->units, 0);
    ENSURE_EQ(dmi_heap_trim(small_heap, NULL), 0);
}

TEST_EACH_PAGE(a_unit_that_is_free_goes_whole_and_stays_whole) {
    static const char *const policies[] = {"lazy", "decay", "eager", "threshold", "budget:ratio=0"};
    for (size_t p = 0; p < sizeof policies / sizeof *policies; p++) {
        floors_step = (unsigned long)p;
        void *heap = make(policies[p], 0);
        quarters(heap, 16);
        dmi_stats before = heaps_check(heap);
        for (size_t i = 4; i < 12; i++) dmi_heap_free(heap, block[i]); /* the second segment */
        ENSURE_EQ(dmi_heap_advance(heap, 10), 0);
        dmi_stats after = heaps_check(heap);
        ENSURE_EQ(before.committed - after.committed, 2 * UNIT);
        ENSURE_EQ(split_units(space_of(heap)), 0);
        ENSURE_EQ(_dmi_fake_breaks(), 0);
        /* One call for what lies side by side. */
        if (p == 0) ENSURE_EQ(after.decommit_calls - before.decommit_calls, 1);
        ENSURE_EQ(dmi_heap_destroy(heap), 0);
    }
}

/* Half of it became free later: the unit waits for that half, and goes in one piece. */
TEST_EACH_PAGE(a_unit_goes_when_all_of_it_is_due) {
    void *heap = make("lazy:delay=1", 0);
    quarters(heap, 16);
    for (size_t i = 4; i < 6; i++) dmi_heap_free(heap, block[i]);
    ENSURE_EQ(dmi_heap_advance(heap, 1.2), 0);
    for (size_t i = 6; i < 8; i++) dmi_heap_free(heap, block[i]);
    uint64_t before = heaps_check(heap).committed;
    ENSURE_EQ(dmi_heap_advance(heap, 0.9), 0);
    ENSURE_EQ(heaps_check(heap).committed, before);
    ENSURE_EQ(split_units(space_of(heap)), 0);
    ENSURE_EQ(dmi_heap_advance(heap, 3), 0);
    ENSURE_EQ(before - heaps_check(heap).committed, UNIT);
    ENSURE_EQ(split_units(space_of(heap)), 0);
}

TEST_EACH_PAGE(less_than_a_quarter_stays_and_says_why) {
    void *heap = make("lazy", 0);
    quarters(heap, 4);
    /* An eighth of the unit, and the policy's delay over and over. */
    ENSURE_EQ((uintptr_t)block[1], (uintptr_t)dmi_heap_realloc(heap, block[1], UNIT / 8));
    dmi_stats before = heaps_check(heap);
    ENSURE_EQ(before.reason_delay, before.free_pages);
    ENSURE_EQ(dmi_heap_advance(heap, 20), 0);
    dmi_stats after = heaps_check(heap);
    ENSURE_EQ(after.committed, before.committed);
    ENSURE_EQ(after.reason_commit_granularity, UNIT / 8);
    ENSURE_EQ(after.reason_delay, 0);
    ENSURE_EQ(after.decommit_bytes, before.decommit_bytes);
    /* A trim keeps it, too: giving it back would cost the huge page. */
    dmi_trim_report report = {.size = sizeof report};
    ENSURE_EQ(dmi_heap_trim(heap, &report), 0);
    ENSURE_EQ(report.decommitted, 0);
    /* In use again it is no longer deferred. */
    ENSURE(dmi_heap_malloc(heap, UNIT / 8 - PAGE));
    after = heaps_check(heap);
    ENSURE(after.reason_commit_granularity <= PAGE);
}

TEST_EACH_PAGE(from_a_quarter_on_the_unit_is_split_and_its_free_pages_go) {
    void *heap = make("lazy", 0);
    quarters(heap, 16);
    dmi_stats before = heaps_check(heap);
    dmi_heap_free(heap, block[5]);
    ENSURE_EQ(dmi_heap_advance(heap, 10), 0);
    dmi_stats after = heaps_check(heap);
    ENSURE_EQ(before.committed - after.committed, UNIT / 4);
    ENSURE_EQ(split_units(space_of(heap)), 1);
    ENSURE_EQ(_dmi_fake_breaks(), 1);
    ENSURE(!_dmi_fake_huge(block[5]));
    ENSURE(_dmi_fake_huge(block[0]) && _dmi_fake_huge(block[9]));
    advice_agrees(space_of(heap));
    /* Now single pages come and go there. */
    ENSURE_EQ((uintptr_t)block[6], (uintptr_t)dmi_heap_realloc(heap, block[6], UNIT / 8));
    ENSURE_EQ(dmi_heap_advance(heap, 10), 0);
    ENSURE_EQ(after.committed - heaps_check(heap).committed, UNIT / 8);
    /* The rest of it goes: it is whole again, and is empty. */
    dmi_heap_free(heap, block[4]);
    dmi_heap_free(heap, block[6]);
    dmi_heap_free(heap, block[7]);
    ENSURE_EQ(dmi_heap_advance(heap, 10), 0);
    ENSURE_EQ(before.committed - heaps_check(heap).committed, UNIT);
    ENSURE_EQ(split_units(space_of(heap)), 0);
    advice_agrees(space_of(heap));
}

TEST_EACH_PAGE(a_split_unit_that_is_full_again_is_whole_again) {
    void *heap = make("lazy", 0);
    quarters(heap, 8);
    dmi_heap_free(heap, block[5]);
    ENSURE_EQ(dmi_heap_advance(heap, 10), 0);
    ENSURE_EQ(split_units(space_of(heap)), 1);
    char *again = dmi_heap_malloc(heap, UNIT / 4);
    ENSURE_EQ((uintptr_t)again, (uintptr_t)block[5]);
    ENSURE_EQ(split_units(space_of(heap)), 1); /* a pass sees to it */
    dmi_heap_free(heap, dmi_heap_malloc(heap, 50000));
    ENSURE_EQ(dmi_heap_advance(heap, 10), 0);
    ENSURE_EQ(split_units(space_of(heap)), 0);
    ENSURE(_dmi_fake_huge(again));
    advice_agrees(space_of(heap));
}

TEST_EACH_PAGE(the_share_is_a_parameter) {
    static const double shares[] = {0.1, 0.5, 0.51, 1.0};
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        void *heap = make("lazy", shares[i]);
        dmi_heap_info info = {.size = sizeof info};
        ENSURE_EQ(dmi_heap_get_info(heap, &info), 0);
        ENSURE(info.huge_split >= shares[i] && info.huge_split <= shares[i]);
        quarters(heap, 8);
        dmi_heap_free(heap, block[4]);
        dmi_heap_free(heap, block[6]);
        uint64_t before = heaps_check(heap).committed;
        ENSURE_EQ(dmi_heap_advance(heap, 10), 0);
        dmi_stats after = heaps_check(heap);
        ENSURE_EQ(before - after.committed, shares[i] > 0.5 ? 0 : UNIT / 2);
        ENSURE_EQ(after.reason_commit_granularity, shares[i] > 0.5 ? UNIT / 2 : 0);
        ENSURE_EQ(dmi_heap_destroy(heap), 0);
    }
    dmi_heap_options options = {.size = sizeof options, .huge_split = 1.5};
    ENSURE(dmi_heap_create(&options) == NULL);
    options.huge_split = -0.1;
    ENSURE(dmi_heap_create(&options) == NULL);
    /* A caller that was compiled before there was a share. */
    options.size = offsetof(dmi_heap_options, huge_split);
    void *older = dmi_heap_create(&options);
    ENSURE(older != NULL);
    dmi_heap_info info = {.size = offsetof(dmi_heap_info, huge_split), .huge_split = 7};
    ENSURE_EQ(dmi_heap_get_info(older, &info), 0);
    ENSURE(info.huge_split > 6);
    options.size--;
    ENSURE(dmi_heap_create(&options) == NULL);
}

/* Free the blocks that begin on the low-th to high-th of each nine pages. */
static void free_pages_of(void *heap, size_t count, size_t low, size_t high) {
    for (size_t i = 0; i < count; i++) {
        size_t ninth = ((uintptr_t)block[i] >> _dmi_page_shift) % 9;
        if (!block[i] || ninth < low || ninth > high) continue;
        dmi_heap_free(heap, block[i]);
        block[i] = NULL;
    }
    /* Frees may be too fast to be noticed; a new region is not. */
    dmi_heap_free(heap, dmi_heap_malloc(heap, 40 * PAGE));
}

/* Pages inside subsegments: few in a unit stay, many go. */
TEST_EACH_PAGE(pages_of_subsegments_are_judged_with_their_unit) {
    static const char *const policies[] = {
        "lazy", "decay", "eager", "budget:ratio=0", "lazy:how=decommit", "lazy:how=offer"};
    for (size_t p = 0; p < sizeof policies / sizeof *policies; p++) {
        floors_step = (unsigned long)p;
        void *heap = make(policies[p], 0);
        size_t size = PAGE > 4096 ? 8192 : 4096;
        size_t count = small(heap, size, 5 * UNIT);
        ENSURE_EQ(dmi_heap_advance(heap, 10), 0);
        dmi_stats before = heaps_check(heap);
        /* One page in nine: no unit has a quarter free. */
        free_pages_of(heap, count, 0, 0);
        ENSURE_EQ(dmi_heap_advance(heap, 20), 0);
        dmi_stats few = heaps_check(heap);
        ENSURE(few.reclaimable > 0);
        ENSURE(few.reason_commit_granularity > 0);
        /* The last unit, where the heap grows, may have been split. */
        ENSURE(split_units(space_of(heap)) <= 1);
        ENSURE(whole_units(space_of(heap)) >= 1);
        /* Five pages of nine more. */
        free_pages_of(heap, count, 1, 5);
        ENSURE_EQ(dmi_heap_advance(heap, 20), 0);
        dmi_stats many = heaps_check(heap);
        ENSURE(split_units(space_of(heap)) >= 2);
        ENSURE(many.committed - many.offered < few.committed - few.committed / 3);
        for (size_t i = 0; i < count; i++)
            if (block[i]) dmi_heap_free(heap, block[i]);
        ENSURE_EQ(dmi_heap_trim(heap, NULL), 0);
        (void)heaps_check(heap);
        ENSURE_EQ(dmi_heap_destroy(heap), 0);
        (void)before;
    }
}

TEST_EACH_PAGE(a_changed_mode_takes_its_advice_along) {
    void *heap = make("lazy", 0);
    quarters(heap, 16);
    dmi_heap_free(heap, block[5]);
    ENSURE_EQ(dmi_heap_advance(heap, 10), 0);
    ENSURE_EQ(split_units(space_of(heap)), 1);
    dmi_policy strict = heaps_policy("lazy:how=decommit"), lazy = heaps_policy("lazy");
    ENSURE_EQ(dmi_heap_set_policy(heap, &strict), 0);
    advice_agrees(space_of(heap));
    ENSURE_EQ(dmi_heap_set_policy(heap, &lazy), 0);
    advice_agrees(space_of(heap));
    ENSURE(!_dmi_fake_huge(block[5]));
    (void)heaps_check(heap);
}

TEST_EACH_PAGE(without_mappings_to_spare_a_unit_stays_whole) {
    void *heap = make("lazy", 0);
    quarters(heap, 28);
    dmi_set_map_limit(1);
    dmi_heap_free(heap, block[17]); /* between two units of its segment */
    ENSURE_EQ(dmi_heap_advance(heap, 10), 0);
    ENSURE_EQ(split_units(space_of(heap)), 0);
    ENSURE_EQ(heaps_check(heap).reason_commit_granularity, UNIT / 4);
    dmi_set_map_limit(0);
    ENSURE_EQ(dmi_heap_trim(heap, NULL), 0);
    ENSURE_EQ(split_units(space_of(heap)), 1);
    ENSURE_EQ(heaps_check(heap).reason_commit_granularity, 0);
}
