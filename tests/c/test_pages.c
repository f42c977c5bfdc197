/* test_pages.c - bitmaps against plain loops; committing and giving back single pages; the ledger. */
#include "floors.h"

enum { BITS = 300 };

TEST(bitmaps_are_like_arrays) {
    static dmi_bits map[(BITS + 63) / 64];
    static bool model[BITS];
    uint64_t seed = 1;
    REQUIRE_EQ(_dmi_bits_words(BITS), sizeof map / sizeof *map);
    REQUIRE_EQ(_dmi_bits_words(0), 0);
    REQUIRE_EQ(_dmi_bits_words(64), 1);
    REQUIRE_EQ(_dmi_bits_words(65), 2);
    for (int step = 0; step < 30000; step++) {
        size_t first = test_random(&seed) % BITS, count = test_random(&seed) % (BITS - first + 1);
        bool value = test_random(&seed) % 2;
        size_t changed = 0, set = 0, found = first + count;
        if (test_random(&seed) % 4 == 0) {
            for (size_t i = first; i < first + count; i++) {
                changed += model[i] != value;
                model[i] = value;
            }
            REQUIRE_EQ(_dmi_bits_put(map, first, count, value), changed);
        }
        for (size_t i = first + count; i-- > first;) {
            set += model[i];
            if (model[i] == value) found = i;
            REQUIRE_EQ(_dmi_bits_get(map, i), model[i]);
        }
        REQUIRE_EQ(_dmi_bits_count(map, first, count), set);
        REQUIRE_EQ(_dmi_bits_find(map, first, first + count, value), found);
    }
}

static uint64_t ledger(const _Atomic uint64_t *counter) { return atomic_load(counter) / _dmi_page; }

TEST_EACH_PAGE(the_ledger_tells_first_again_and_soon_again) {
    dmi_space space;
    ENSURE_EQ(_dmi_space_setup(), 0);
    _dmi_space_init(&space, DMI_OS_STRICT, false, NULL, 0);
    space.manual = true;
    atomic_store(&space.now, UINT64_C(10000000000));
    dmi_run *run = _dmi_run_alloc(&space, 10, 1, DMI_RUN_LARGE, true, NULL);
    dmi_segment *s = run->segment;
    dmi_ledger *l = &space.ledger;
    ENSURE_EQ(ledger(&l->commit_bytes), 10);
    ENSURE_EQ(l->commit_calls, 1);
    ENSURE_EQ(l->recommit_calls, 0);
    ENSURE_EQ(_dmi_pages_decommit(s, run->first + 2, 3), 0);
    ENSURE_EQ(l->decommit_calls, 1);
    ENSURE_EQ(ledger(&l->decommit_bytes), 3);
    atomic_fetch_add(&space.now, 500000000); /* half a second: churn */
    ENSURE_EQ(_dmi_pages_commit(s, run->first, 10), 0);
    ENSURE_EQ(l->recommit_calls, 1);
    ENSURE_EQ(ledger(&l->recommit_bytes), 3);
    ENSURE_EQ(ledger(&l->recommit_churn_bytes), 3);
    ENSURE_EQ(_dmi_pages_decommit(s, run->first + 9, 1), 0);
    atomic_fetch_add(&space.now, 5000000000); /* five: none */
    ENSURE_EQ(_dmi_pages_commit(s, run->first + 9, 1), 0);
    ENSURE_EQ(ledger(&l->recommit_bytes), 4);
    ENSURE_EQ(ledger(&l->recommit_churn_bytes), 3);
    ENSURE_EQ(ledger(&l->commit_bytes), 10);
    for (uint64_t late = 0; late < 2; late++) { /* a second is soon, a sixteenth more is not */
        ENSURE_EQ(_dmi_pages_decommit(s, run->first + 9, 1), 0);
        atomic_fetch_add(&space.now, 1000000000 + late * 62500000);
        ENSURE_EQ(_dmi_pages_commit(s, run->first + 9, 1), 0);
        ENSURE_EQ(ledger(&l->recommit_bytes), 5 + late);
        ENSURE_EQ(ledger(&l->recommit_churn_bytes), 4);
    }
    ENSURE_EQ(_dmi_pages_offer(s, run->first, 4), 0);
    ENSURE_EQ(ledger(&l->offer_bytes), 4);
    ENSURE_EQ(_dmi_pages_commit(s, run->first + 1, 2), 0);
    ENSURE_EQ(ledger(&l->unoffer_bytes), 2);
    floors_check_space(&space);
    _dmi_space_release(&space);
}

TEST_EACH_PAGE(a_refused_page_stays_and_is_marked) {
    dmi_space space;
    ENSURE_EQ(_dmi_space_setup(), 0);
    _dmi_space_init(&space, DMI_OS_LAZY, false, NULL, 0);
    dmi_run *run = _dmi_run_alloc(&space, 4, 1, DMI_RUN_LARGE, true, NULL);
    char *page = _dmi_run_base(run) + _dmi_page;
    memset(page, 7, _dmi_page);
    for (int offer = 0; offer < 2; offer++) {
        _dmi_os_fail_at(1, false);
        int error = offer ? _dmi_pages_offer(run->segment, run->first + 1, 1)
                          : _dmi_pages_decommit(run->segment, run->first + 1, 1);
        _dmi_os_fail_at(0, false);
        ENSURE(error != 0);
        ENSURE_EQ(space.ledger.refused_calls, (uint64_t)offer + 1);
        ENSURE(_dmi_bits_get(run->segment->refused, run->first + 1));
        ENSURE(_dmi_page_usable(run->segment, run->first + 1));
        for (size_t i = 0; i < _dmi_page; i++) ENSURE(page[i] == 7);
    }
    ENSURE_EQ(_dmi_pages_decommit(run->segment, run->first + 1, 1), 0);
    ENSURE(!_dmi_bits_get(run->segment->refused, run->first + 1));
    floors_check_space(&space);
    _dmi_space_release(&space);
}

/* Where the next hole would pass the limit of mappings its pages go, and the addresses stay writable. */
TEST_EACH_PAGE(no_hole_passes_the_limit_of_mappings) {
    dmi_space space;
    ENSURE_EQ(_dmi_space_setup(), 0);
    _dmi_space_init(&space, DMI_OS_STRICT, false, NULL, 0);
    dmi_run *run = _dmi_run_alloc(&space, 9, 1, DMI_RUN_LARGE, true, NULL);
    dmi_segment *s = run->segment;
    _dmi_set_map_limit((uint64_t)atomic_load(&s->cuts) + 3); /* each hole takes two */
    for (size_t p = 1; p < 8; p += 2) {
        ENSURE_EQ(_dmi_pages_decommit(s, run->first + p, 1), 0);
        ENSURE_EQ(_dmi_bits_get(s->soft, run->first + p), p > 1);
    }
    ENSURE_EQ(space.ledger.refused_calls, 3);
    ENSURE_EQ(ledger(&space.ledger.decommit_bytes), 4);
    _dmi_set_map_limit(0);
    _dmi_space_release(&space);
}

/* What a failed commit undid must not stay in the books either. */
TEST_EACH_PAGE(a_failed_commit_leaves_the_ledger_balanced) {
    dmi_space space;
    ENSURE_EQ(_dmi_space_setup(), 0);
    _dmi_space_init(&space, DMI_OS_STRICT, false, NULL, 0);
    dmi_run *run = _dmi_run_alloc(&space, 9, 1, DMI_RUN_LARGE, true, NULL);
    dmi_segment *s = run->segment;
    for (size_t p = 0; p < 9; p += 2) ENSURE_EQ(_dmi_pages_decommit(s, run->first + p, 1), 0);
    for (uint64_t n = 1; n <= 5; n++) {
        _dmi_os_fail_at(n, false);
        ENSURE(_dmi_pages_commit(s, run->first, 9) != 0);
        _dmi_os_fail_at(0, false);
        dmi_ledger *l = &space.ledger;
        ENSURE_EQ(ledger(&l->commit_bytes) + ledger(&l->recommit_bytes) -
                      ledger(&l->decommit_bytes),
                  _dmi_bits_count(s->committed, 0, s->pages));
        floors_check_space(&space);
    }
    _dmi_space_release(&space);
}
