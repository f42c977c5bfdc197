/* test_virtual.c - blocks mapped on their own: a random model, growth with and without a move, failures. */
#include "block/virtual.h"
#include "floors.h"

enum { SLOTS = 24 };

/* Sizes of which some are worth cutting, whatever the page. */
static size_t unit(void) { return _dmi_page > 32768 ? _dmi_page : 32768; }

static dmi_run *any_block(dmi_space *space, size_t size, size_t align, bool *zero) {
    dmi_run *run = _dmi_virtual_reuse(space, size, align);
    *zero = false;
    if (!run) run = _dmi_virtual_extend(space, size, align);
    if (run) return run;
    *zero = true;
    return _dmi_virtual_map(space, size, align);
}

typedef struct slot {
    dmi_run *run;
    uint64_t stamp;
} slot;
static slot slots[SLOTS];
/* Slices of the address space where blocks were: nothing may stay registered there. */
static uintptr_t slices[8192];
static size_t slice_count;

static void note_place(const dmi_run *run) {
    uintptr_t slice = (uintptr_t)run->segment->base >> DMI_SLICE_SHIFT;
    ENSURE(slice_count < sizeof slices / sizeof *slices);
    slices[slice_count++] = slice;
}

static uint64_t *word(const dmi_run *run, size_t page) {
    return (uint64_t *)(void *)(run->segment->base + (page << _dmi_page_shift));
}

static void stamp(const slot *s, size_t from) {
    for (size_t i = from; i < s->run->pages; i++) {
        *word(s->run, i) = s->stamp + i;
        *(word(s->run, i + 1) - 1) = ~(s->stamp + i);
    }
}

static void check_stamp(const slot *s, size_t pages) {
    for (size_t i = 0; i < pages; i++) {
        ENSURE_EQ(*word(s->run, i), s->stamp + i);
        ENSURE_EQ(*(word(s->run, i + 1) - 1), ~(s->stamp + i));
    }
}

static void check_one(const dmi_space *space, const dmi_run *run, bool kept) {
    const dmi_segment *segment = run->segment;
    ENSURE_EQ(run->kind, DMI_RUN_VIRTUAL);
    ENSURE(segment->space == space);
    ENSURE_EQ(segment->size, segment->pages << _dmi_page_shift);
    ENSURE_EQ(segment->reserved, segment->size);
    ENSURE_EQ(run->pages, segment->pages);
    ENSURE_EQ(!!(run->flags & DMI_RUN_KEPT), kept);
    ENSURE(_dmi_pagemap_get(segment->base) == run);
    ENSURE(_dmi_pagemap_get(segment->base + _dmi_page - 1) == run);
    dmi_fake_page state = kept && segment->has_given_at ? DMI_FAKE_OFFERED : DMI_FAKE_COMMITTED;
    for (size_t i = 0; i < segment->pages; i++) ENSURE_EQ(_dmi_fake_state(word(run, i)), state);
}

static void check(const dmi_space *space) {
    size_t busy = 0, expected = 0, count = 0;
    floors_check_space(space);
    for (const dmi_run *run = space->virtuals; run; run = run->next, count++) {
        ENSURE(!run->next || run->next->prev == run);
        check_one(space, run, false);
        busy++;
    }
    size_t kept = 0, unseen = 0;
    for (const dmi_run *run = space->kept; run; run = run->next, count++) {
        ENSURE(!run->next || run->next->prev == run);
        ENSURE(!run->next || run->segment->base + run->segment->size <= run->next->segment->base);
        check_one(space, run, true);
        kept += run->segment->size;
    }
    for (const dmi_run *run = space->virtuals; run; run = run->next) unseen += run->segment->size;
    ENSURE_EQ(space->kept_bytes, kept);
    ENSURE(space->unseen <= unseen);
    for (size_t i = 0; i < SLOTS; i++) expected += slots[i].run != NULL;
    ENSURE_EQ(busy, expected);
    ENSURE_EQ(space->virtual_meta, count * 512);
}

static void do_alloc(dmi_space *space, slot *s, uint64_t *seed) {
    size_t size = 1 + test_random(seed) % (40 * unit());
    size_t align = test_random(seed) % 3 ? 16 : _dmi_page << test_random(seed) % 5;
    bool zero = false;
    uint64_t before = floors_hash(space), kept = space->kept_bytes;
    dmi_run *run = any_block(space, size, align, &zero);
    if (!run) {
        ENSURE_EQ(floors_hash(space), before);
        return;
    }
    ENSURE(run->segment->size >= size);
    ENSURE((uintptr_t)run->segment->base % align == 0);
    ENSURE(zero ? kept == space->kept_bytes : kept > space->kept_bytes);
    ENSURE(run->segment->size - size <= size / 8 + DMI_VIRTUAL_PIECE + _dmi_page);
    if (zero)
        for (size_t i = 0; i < run->pages; i++)
            ENSURE(*word(run, i) == 0 && *(word(run, i + 1) - 1) == 0);
    *s = (slot){run, test_random(seed)};
    note_place(run);
    stamp(s, 0);
}

static void do_resize(dmi_space *space, slot *s, uint64_t *seed) {
    size_t size = 1 + test_random(seed) % (60 * unit()), old = s->run->pages;
    char *base = s->run->segment->base;
    bool may_move = test_random(seed) % 4;
    uint64_t before = floors_hash(space);
    bool done = _dmi_virtual_resize(space, s->run, size, may_move);
    if (!done) {
        ENSURE_EQ(floors_hash(space), before);
        ENSURE(s->run->segment->base == base && s->run->pages == old);
    } else {
        ENSURE(s->run->segment->size - size < _dmi_page + DMI_VIRTUAL_PIECE);
        note_place(s->run);
        if (!may_move) ENSURE(s->run->segment->base == base);
        if (s->run->segment->base != base) ENSURE(_dmi_pagemap_get(base) != s->run);
    }
    check_one(space, s->run, false);
    check_stamp(s, old < s->run->pages ? old : s->run->pages);
    if (done && s->run->pages > old) {
        stamp(s, old);
    }
}

static void step(dmi_space *space, uint64_t *seed) {
    slot *s = &slots[test_random(seed) % SLOTS];
    dmi_run *kept = space->kept;
    uint64_t kind = test_random(seed) % 16;
    if (!s->run) {
        do_alloc(space, s, seed);
    } else if (kind < 6) {
        do_resize(space, s, seed);
    } else if (kind < 10) {
        check_stamp(s, s->run->pages);
        if (kind < 8) _dmi_virtual_release(space, s->run);
        else _dmi_virtual_keep(space, s->run);
        s->run = NULL;
    } else if (kept && kept->next) {
        if (kind == 10) _dmi_virtual_drop(space, kept->next);
        if (kind == 11) _dmi_virtual_drop(space, kept);
        if (kind == 13) {
            uint64_t bytes = space->kept_bytes;
            size_t gone = _dmi_virtual_drop_part(space, kept, kept->segment->size / 2 + 1);
            ENSURE_EQ(bytes - space->kept_bytes, gone);
        }
        if (kind == 14) { /* the fake's pages are resident once they are committed */
            for (int i = 0; i < SLOTS; i++) _dmi_virtual_look(space);
            ENSURE_EQ(space->unseen, 0);
        }
        if (kind == 12) {
            int error = _dmi_virtual_offer(space, kept->next);
            ENSURE_EQ(error == 0, kept->next->segment->has_given_at);
            if (!error) ENSURE_EQ(_dmi_virtual_offer(space, kept->next), 0);
        }
    }
    /* As whoever lets the heap's lock go. */
    _dmi_virtual_unmap(_dmi_virtual_take_leaving(space));
    check(space);
}

static void random_life(dmi_os_mode mode, uint64_t seed, unsigned long steps, bool failures) {
    dmi_space space;
    memset(slots, 0, sizeof slots);
    ENSURE_EQ(_dmi_space_setup(), 0);
    _dmi_space_init(&space, mode, false, "test", (uint64_t)700 * unit());
    for (floors_step = 0; floors_step < steps; floors_step++) {
        if (failures && test_random(&seed) % 3 == 0)
            _dmi_os_fail_at(1 + test_random(&seed) % 5, test_random(&seed) % 2);
        step(&space, &seed);
        _dmi_os_fail_at(0, false);
    }
    _dmi_virtual_release_all(&space);
    memset(slots, 0, sizeof slots);
    check(&space);
    ENSURE_EQ(space.reserved, 0);
    ENSURE_EQ(_dmi_fake_committed(), _dmi_pagemap_committed() + _dmi_virtual_metadata());
    ENSURE(slice_count > 100);
    for (size_t i = 0; i < slice_count; i++) ENSURE_EQ(_dmi_pagemap[slices[i]], 0);
}

TEST_EACH_PAGE(random_blocks_lazy) { random_life(DMI_OS_LAZY, 1, 1500, false); }
TEST_EACH_PAGE(random_blocks_strict) { random_life(DMI_OS_STRICT, 2, 1500, false); }
TEST_EACH_PAGE(random_blocks_with_failures) { random_life(DMI_OS_LAZY, 3, 3000, true); }

TEST_EACH_PAGE(the_nth_call_fails) {
    ENSURE_EQ(_dmi_space_setup(), 0);
    for (int sticky = 0; sticky < 2; sticky++) {
        bool reached = true;
        for (uint64_t n = 1; reached; n++) {
            dmi_space space;
            uint64_t seed = 9;
            floors_step = (unsigned long)n;
            ENSURE(n < 2000);
            memset(slots, 0, sizeof slots);
            slice_count = 0;
            _dmi_space_init(&space, DMI_OS_LAZY, false, "test", 0);
            _dmi_os_fail_at(n, sticky);
            for (int i = 0; i < 60; i++) step(&space, &seed);
            reached = _dmi_os_fallible_calls() >= n;
            _dmi_virtual_release_all(&space);
            _dmi_os_fail_at(0, false);
        }
    }
}

TEST_EACH_PAGE(absurd_sizes_are_refused) {
    dmi_space space;
    bool zero;
    ENSURE_EQ(_dmi_space_setup(), 0);
    _dmi_space_init(&space, DMI_OS_LAZY, false, NULL, 0);
    memset(slots, 0, sizeof slots);
    ENSURE(!any_block(&space, SIZE_MAX, 16, &zero));
    ENSURE(!any_block(&space, SIZE_MAX - _dmi_page + 1, 16, &zero));
    dmi_run *run = any_block(&space, 10, 16, &zero);
    ENSURE(run && zero);
    ENSURE(!_dmi_virtual_resize(&space, run, SIZE_MAX, true));
    slots[0].run = run;
    check(&space);
    _dmi_virtual_release_all(&space);
}

TEST_EACH_PAGE(the_shortest_kept_block_that_is_long_enough_serves) {
    dmi_space space;
    ENSURE_EQ(_dmi_space_setup(), 0);
    _dmi_space_init(&space, DMI_OS_LAZY, false, NULL, 0);
    dmi_run *run[4];
    for (size_t i = 0; i < 4; i++)
        ENSURE((run[i] = _dmi_virtual_map(&space, (i == 0 ? 60 : 20) * unit(), 16)));
    char *wanted = run[2]->segment->base;
    _dmi_virtual_keep(&space, run[0]);
    _dmi_virtual_keep(&space, run[2]); /* the busy ones lie between */
    ENSURE_EQ(space.kept_bytes, 80 * unit());
    dmi_run *found = _dmi_virtual_reuse(&space, 19 * unit(), 16);
    ENSURE(found && found->segment->base == wanted);
    ENSURE(!_dmi_virtual_reuse(&space, 61 * unit(), 16));
    _dmi_virtual_release_all(&space);
    ENSURE_EQ(space.reserved, 0);
}

TEST_EACH_PAGE(no_block_passes_the_bound_of_its_heap) {
    dmi_space space;
    ENSURE_EQ(_dmi_space_setup(), 0);
    _dmi_space_init(&space, DMI_OS_LAZY, false, NULL, 50 * unit());
    dmi_run *run = _dmi_virtual_map(&space, 40 * unit(), 16);
    ENSURE(run && space.max_reserved == 50 * unit());
    ENSURE(!_dmi_virtual_map(&space, 11 * unit(), 16));
    ENSURE(!_dmi_virtual_resize(&space, run, 51 * unit(), true));
    ENSURE_EQ(space.reserved, 40 * unit());
    ENSURE(_dmi_virtual_map(&space, 10 * unit(), 16));
    ENSURE_EQ(space.reserved, 50 * unit());
    _dmi_virtual_release_all(&space);
}

/* The same on the real system, where a grown block moves by its page tables. */
TEST(a_block_grows_on_the_real_system) {
    dmi_space space;
    bool zero;
    _dmi_os_use(&_dmi_os_native);
    REQUIRE_EQ(_dmi_space_setup(), 0);
    _dmi_space_init(&space, DMI_OS_LAZY, false, "test", 0);
    for (int round = 0; round < 20; round++) {
        dmi_run *run = any_block(&space, _dmi_page, 16, &zero);
        REQUIRE(run != NULL);
        slot s = {run, (uint64_t)round << 32};
        stamp(&s, 0);
        for (size_t size = 2; size < 600; size *= 2) {
            size_t old = run->pages;
            if (!_dmi_virtual_resize(&space, run, size * _dmi_page, true))
                break; /* not on Windows */
            CHECK(_dmi_pagemap_get(run->segment->base) == run);
            for (size_t i = 0; i < old; i++) CHECK_EQ(*word(run, i), s.stamp + i);
            for (size_t i = old; i < run->pages; i++) CHECK_EQ(*word(run, i), 0);
            stamp(&s, old);
        }
        if (round % 2) (void)_dmi_virtual_resize(&space, run, 3 * _dmi_page, true);
        if (round % 3) _dmi_virtual_release(&space, run);
    }
    _dmi_virtual_release_all(&space);
    CHECK_EQ(space.reserved, 0);
    dmi_os_counters counters;
    _dmi_os_counters(&counters);
    CHECK_EQ(counters.committed_bytes, _dmi_pagemap_committed() + _dmi_virtual_metadata());
}
