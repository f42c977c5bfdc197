/* test_segment.c - runs of pages: a random model, contents, coalescing, and failure of every OS call. */
#include "floors.h"

enum { SLOTS = 200 };

typedef struct slot {
    dmi_run *run;
    bool committed; /* all of it, and stamped */
    uint64_t stamp;
} slot;

static uint64_t *first_word(const dmi_run *run, size_t page) {
    return (uint64_t *)(void *)(_dmi_run_base(run) + (page << _dmi_page_shift));
}

/* Mark the first and last word of each page; look whether the marks are there. */
static void stamp(const slot *s, size_t from) {
    for (size_t i = from; i < s->run->pages; i++) {
        *first_word(s->run, i) = s->stamp + i;
        *(first_word(s->run, i + 1) - 1) = ~(s->stamp + i);
    }
}
static void check_stamp(const slot *s) {
    if (!s->committed) return;
    for (size_t i = 0; i < s->run->pages; i++) {
        ENSURE_EQ(*first_word(s->run, i), s->stamp + i);
        ENSURE_EQ(*(first_word(s->run, i + 1) - 1), ~(s->stamp + i));
    }
}

static void ensure_zero(const dmi_run *run) {
    for (size_t i = 0; i < run->pages; i++)
        for (uint64_t *word = first_word(run, i); word < first_word(run, i + 1); word++)
            ENSURE(*word == 0);
}

static void do_alloc(dmi_space *space, slot *s, uint64_t *seed) {
    size_t pages = 1 + test_random(seed) % (test_random(seed) % 8 ? 20 : 150);
    size_t align = (size_t)1 << (test_random(seed) % 4 ? 0 : test_random(seed) % 7);
    dmi_run_kind kind = (dmi_run_kind)(DMI_RUN_LFH + test_random(seed) % 3);
    bool commit = test_random(seed) % 4 != 0, zero = false;
    uint64_t before = floors_hash(space);
    dmi_run *run = _dmi_run_alloc(space, pages, align, kind, commit, &zero);
    if (!run) {
        ENSURE_EQ(floors_hash(space), before);
        return;
    }
    ENSURE_EQ(run->pages, pages);
    ENSURE_EQ(run->kind, kind);
    ENSURE_EQ(run->flags, 0);
    ENSURE((uintptr_t)_dmi_run_base(run) % (align << _dmi_page_shift) == 0);
    if (commit) ENSURE_EQ(_dmi_run_committed(run), _dmi_run_size(run));
    if (commit && zero) ensure_zero(run);
    *s = (slot){run, commit, test_random(seed)};
    if (commit) stamp(s, 0);
}

static void do_resize(dmi_space *space, slot *s, uint64_t *seed) {
    if (s->run->kind != DMI_RUN_LARGE || !s->committed) return;
    size_t old = s->run->pages, pages = 1 + test_random(seed) % (2 * old + 4);
    uint64_t before = floors_hash(space);
    if (_dmi_run_resize(space, s->run, pages)) {
        ENSURE_EQ(s->run->pages, pages);
        ENSURE_EQ(_dmi_run_committed(s->run), _dmi_run_size(s->run));
        if (pages > old) stamp(s, old);
    } else {
        ENSURE(pages != old);
        ENSURE_EQ(s->run->pages, old);
        ENSURE_EQ(floors_hash(space), before);
    }
    check_stamp(s);
}

/* Take pages from free runs in one way or the other. */
static void do_give(dmi_space *space, uint64_t *seed) {
    for (dmi_segment *segment = space->segments; segment; segment = segment->next)
        for (size_t page = 0; page < segment->pages;) {
            dmi_run *run = _dmi_segment_run(segment, page);
            page += run->pages;
            if (run->kind != DMI_RUN_FREE || test_random(seed) % 2) continue;
            size_t from = run->first + test_random(seed) % run->pages;
            from = _dmi_bits_find(segment->committed, from, page, true);
            size_t to = _dmi_bits_find(segment->committed, from, page, false);
            if (from == to) continue;
            to = from + 1 + test_random(seed) % (to - from);
            if (test_random(seed) % 3) floors_give_free(space, segment, from, to - from);
            else (void)_dmi_pages_offer(segment, from, to - from);
        }
}

static void random_runs(dmi_os_mode mode, uint64_t seed, unsigned long steps, bool failures) {
    static slot slots[SLOTS];
    dmi_space space;
    memset(slots, 0, sizeof slots);
    ENSURE_EQ(_dmi_space_setup(), 0);
    _dmi_space_init(&space, mode, false, "test", (uint64_t)2048 << _dmi_page_shift);
    for (floors_step = 0; floors_step < steps; floors_step++) {
        slot *s = &slots[test_random(&seed) % SLOTS];
        uint64_t kind = test_random(&seed) % 32;
        space.manual = true;
        atomic_store(&space.now, floors_step * 10000000u);
        if (failures && test_random(&seed) % 4 == 0) {
            floors_no_undo = test_random(&seed) % 2;
            _dmi_os_fail_at(1 + test_random(&seed) % 3, floors_no_undo);
        }
        if (kind == 0) do_give(&space, &seed);
        else if (kind == 1) (void)_dmi_segments_release(&space, test_random(&seed) % 2);
        else if (!s->run) do_alloc(&space, s, &seed);
        else if (kind < 12) do_resize(&space, s, &seed);
        else {
            check_stamp(s);
            dmi_run *run = _dmi_run_free(&space, s->run);
            ENSURE_EQ(run->kind, DMI_RUN_FREE);
            ENSURE_EQ(run->freed_at, floors_step * 10000000u);
            s->run = NULL;
        }
        _dmi_os_fail_at(0, false);
        if (floors_step % 4 == 0) floors_check_space(&space);
    }
    for (size_t i = 0; i < SLOTS; i++)
        if (slots[i].run) {
            check_stamp(&slots[i]);
            (void)_dmi_run_free(&space, slots[i].run);
        }
    floors_check_space(&space);
    ENSURE(space.segments != NULL);
    /* All is one free run a segment now; without committed pages all segments go. */
    for (dmi_segment *segment = space.segments; segment; segment = segment->next) {
        ENSURE_EQ(_dmi_segment_run(segment, 0)->pages, segment->pages);
        for (size_t p = 0; p < segment->pages; p++)
            if (_dmi_bits_get(segment->committed, p)) floors_give_free(&space, segment, p, 1);
    }
    size_t reservations = _dmi_fake_reservations(), count = space.segment_count;
    ENSURE_EQ(_dmi_segments_release(&space, false), count - 1);
    floors_check_space(&space);
    ENSURE_EQ(_dmi_segments_release(&space, true), 1);
    ENSURE_EQ(_dmi_fake_reservations(), reservations - count);
    ENSURE_EQ(space.reserved, 0);
    floors_check_space(&space);
    ENSURE_EQ(_dmi_fake_redundant(), 0);
}

TEST_EACH_PAGE(random_runs_lazy) { random_runs(DMI_OS_LAZY, 1, 4000, false); }
TEST_EACH_PAGE(random_runs_strict) { random_runs(DMI_OS_STRICT, 2, 4000, false); }
TEST_EACH_PAGE(random_runs_with_failures) { random_runs(DMI_OS_STRICT, 3, 6000, true); }

TEST_EACH_PAGE(a_released_space_leaves_only_the_page_map) {
    ENSURE_EQ(_dmi_space_setup(), 0);
    dmi_space space;
    size_t committed = 0, reservations = 0;
    for (int round = 0; round < 3; round++) {
        _dmi_space_init(&space, DMI_OS_LAZY, false, NULL, 0);
        for (int i = 0; i < 50; i++)
            ENSURE(_dmi_run_alloc(&space, 30, 1, DMI_RUN_LARGE, i % 2, NULL));
        floors_check_space(&space);
        _dmi_space_release(&space);
        ENSURE_EQ(space.reserved, 0);
        if (round == 1) {
            committed = _dmi_fake_committed();
            reservations = _dmi_fake_reservations();
        }
    }
    ENSURE_EQ(_dmi_fake_committed(), committed);
    ENSURE_EQ(_dmi_fake_reservations(), reservations);
    ENSURE_EQ(_dmi_fake_committed(), _dmi_pagemap_committed());
}

/* ---- the nth call fails ------------------------------------------------------------------------------ */

static unsigned refusals;

static dmi_run *take(dmi_space *space, size_t pages, size_t align) {
    uint64_t before = floors_hash(space);
    dmi_run *run = _dmi_run_alloc(space, pages, align, DMI_RUN_LARGE, true, NULL);
    if (run) return run;
    refusals++;
    ENSURE_EQ(floors_hash(space), before);
    floors_check_space(space);
    return NULL;
}

static void give(dmi_space *space, dmi_run *run) {
    if (run) (void)_dmi_run_free(space, run);
    floors_check_space(space);
}

static void scenario(dmi_os_mode mode) {
    dmi_space space;
    refusals = 0;
    _dmi_space_init(&space, mode, false, "test", 0);
    dmi_run *a = take(&space, 5, 1), *b = take(&space, 7, 4), *c = take(&space, 9, 1);
    if (a) {
        /* Every second page goes, so that the next commit of the run needs several calls. */
        for (size_t p = 0; p < 5; p += 2) (void)_dmi_pages_decommit(a->segment, a->first + p, 1);
        floors_check_space(&space);
        uint64_t before = floors_hash(&space);
        if (_dmi_pages_commit(a->segment, a->first, 5)) {
            refusals++;
            ENSURE_EQ(floors_hash(&space), before);
        }
        floors_check_space(&space);
    }
    give(&space, b);
    if (a) {
        uint64_t before = floors_hash(&space);
        if (!_dmi_run_resize(&space, a, 9)) ENSURE_EQ(floors_hash(&space), before);
        floors_check_space(&space);
        before = floors_hash(&space);
        if (!_dmi_run_resize(&space, a, 3)) ENSURE_EQ(floors_hash(&space), before);
        floors_check_space(&space);
    }
    dmi_run *d = take(&space, 600, 1); /* a second segment */
    if (d) {
        (void)_dmi_pages_offer(d->segment, d->first + 3, 4);
        (void)_dmi_pages_decommit(d->segment, d->first + 5, 20);
        if (_dmi_segment_need_page_busy(d->segment)) refusals++;
    }
    floors_check_space(&space);
    give(&space, c);
    give(&space, d);
    give(&space, a);
    dmi_run *e = take(&space, 16, 16);
    give(&space, e);
    _dmi_space_release(&space);
    ENSURE_EQ(_dmi_fake_committed(), _dmi_pagemap_committed());
}

static void every_failure(dmi_os_mode mode) {
    ENSURE_EQ(_dmi_space_setup(), 0);
    for (int sticky = 0; sticky < 2; sticky++) {
        bool reached = true;
        unsigned with_refusal = 0;
        for (uint64_t n = 1; reached; n++) {
            floors_step = (unsigned long)n;
            ENSURE(n < 2000);
            floors_no_undo = sticky;
            _dmi_os_fail_at(n, sticky);
            scenario(mode);
            reached = _dmi_os_fallible_calls() >= n;
            _dmi_os_fail_at(0, false);
            if (refusals) with_refusal++;
            if (!reached) ENSURE_EQ(refusals, 0);
        }
        ENSURE(with_refusal > 5);
    }
}

TEST_EACH_PAGE(the_nth_call_fails_lazy) { every_failure(DMI_OS_LAZY); }
TEST_EACH_PAGE(the_nth_call_fails_strict) { every_failure(DMI_OS_STRICT); }

TEST_EACH_PAGE(setup_fails_and_succeeds_later) {
    _dmi_os_fail_at(1, false);
    ENSURE(_dmi_space_setup() != 0);
    ENSURE(_dmi_pagemap_get(NULL) == &_dmi_no_run);
    _dmi_os_fail_at(0, false);
    ENSURE_EQ(_dmi_space_setup(), 0);
    ENSURE_EQ(_dmi_space_setup(), 0);
}

/* ---- single cases --------------------------------------------------------------------------------- */

TEST_EACH_PAGE(max_size_is_obeyed_to_the_page) {
    ENSURE_EQ(_dmi_space_setup(), 0);
    dmi_space space;
    _dmi_space_init(&space, DMI_OS_LAZY, false, NULL, (uint64_t)100 << _dmi_page_shift);
    dmi_run *a = _dmi_run_alloc(&space, 100, 1, DMI_RUN_LARGE, true, NULL);
    ENSURE(a != NULL);
    ENSURE_EQ(space.reserved, (uint64_t)100 << _dmi_page_shift);
    ENSURE(!_dmi_run_alloc(&space, 1, 1, DMI_RUN_LARGE, true, NULL));
    (void)_dmi_run_free(&space, a);
    ENSURE(!_dmi_run_alloc(&space, 101, 1, DMI_RUN_LARGE, true, NULL));
    ENSURE(_dmi_run_alloc(&space, 60, 1, DMI_RUN_LARGE, true, NULL));
    ENSURE(!_dmi_run_alloc(&space, 41, 1, DMI_RUN_LARGE, true, NULL));
    ENSURE(_dmi_run_alloc(&space, 40, 1, DMI_RUN_LARGE, true, NULL));
    floors_check_space(&space);
    _dmi_space_release(&space);
}

TEST_EACH_PAGE(the_smallest_free_run_that_fits_is_taken) {
    ENSURE_EQ(_dmi_space_setup(), 0);
    dmi_space space;
    _dmi_space_init(&space, DMI_OS_LAZY, false, NULL, (uint64_t)400 << _dmi_page_shift);
    dmi_run *all = _dmi_run_alloc(&space, 300, 1, DMI_RUN_LARGE, false, NULL);
    (void)_dmi_run_free(&space, all); /* one segment that holds it all */
    static const size_t sizes[] = {70, 9, 30, 12, 66, 9};
    dmi_run *holes[6];
    for (int i = 0; i < 6; i++) {
        holes[i] = _dmi_run_alloc(&space, sizes[i], 1, DMI_RUN_LARGE, false, NULL);
        ENSURE(_dmi_run_alloc(&space, 1, 1, DMI_RUN_LARGE, false, NULL));
    }
    size_t first[6];
    for (int i = 0; i < 6; i++) {
        first[i] = holes[i]->first;
        (void)_dmi_run_free(&space, holes[i]);
    }
    ENSURE_EQ(_dmi_run_alloc(&space, 65, 1, DMI_RUN_LARGE, false, NULL)->first, first[4]);
    ENSURE_EQ(_dmi_run_alloc(&space, 10, 1, DMI_RUN_LARGE, false, NULL)->first, first[3]);
    ENSURE_EQ(_dmi_run_alloc(&space, 9, 1, DMI_RUN_LARGE, false, NULL)->first, first[5]);
    ENSURE_EQ(_dmi_run_alloc(&space, 9, 1, DMI_RUN_LARGE, false, NULL)->first, first[1]);
    ENSURE_EQ(_dmi_run_alloc(&space, 9, 1, DMI_RUN_LARGE, false, NULL)->first, first[2]);
    floors_check_space(&space);
    _dmi_space_release(&space);
}
