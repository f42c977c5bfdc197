/* test_heap.c - the heap floor on the fake system: handles, activation, policies to the page and the second,
 * the ways of a request. */
#include <errno.h>

#include "heaps.h"

#define BLOCKS 400
static heaps_block table[BLOCKS];

/* ---- handles ------------------------------------------------------------------------------------------- */

TEST_EACH_PAGE(a_handle_of_a_destroyed_heap_is_refused) {
    void *old[200], *list[4];
    size_t before = dmi_heap_list(NULL, 0);
    for (size_t i = 0; i < 200; i++) {
        void *heap = dmi_heap_create(NULL);
        ENSURE(heap && dmi_heap_valid(heap));
        for (size_t j = 0; j < i; j++) ENSURE(old[j] != heap);
        ENSURE_EQ(dmi_heap_list(list, 4), before + 1);
        ENSURE(list[before] == heap);
        for (size_t n = 1; n < 100000; n *= 3) ENSURE(dmi_heap_malloc(heap, n));
        ENSURE_EQ(dmi_heap_destroy(heap), 0);
        old[i] = heap;
    }
    for (size_t i = 0; i < 200; i++) {
        errno = 0;
        ENSURE(!dmi_heap_malloc(old[i], 1) && errno == EINVAL);
        errno = 0;
        ENSURE(dmi_heap_destroy(old[i]) == -1 && errno == EINVAL);
        ENSURE(!dmi_heap_valid(old[i]));
        ENSURE_EQ(dmi_heap_check(old[i], &old), DMI_FAULT_STALE_HEAP);
    }
    ENSURE(dmi_heap_destroy(dmi_heap_default()) == -1 && errno == EPERM);
    int local;
    void *wrong[] = {&local, NULL, (void *)UINTPTR_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        errno = 0;
        ENSURE(!dmi_heap_valid(wrong[i]));
        ENSURE(!dmi_heap_malloc(wrong[i], 1) && errno == EINVAL);
    }
}

TEST_EACH_PAGE(a_destroyed_heap_leaves_nothing_behind) {
    size_t before = 0, reservations = 0;
    (void)dmi_heap_default();
    for (int i = 0; i < 20; i++) {
        void *heap = heaps_create(i % 2 ? "eager" : "lazy:how=decommit", 0);
        for (size_t n = 1; n < 5000000; n = n * 5 / 3 + 1)
            for (int k = 0; k < 20; k++) ENSURE(dmi_heap_malloc(heap, n));
        ENSURE_EQ(dmi_heap_destroy(heap), 0);
        if (i == 1) { /* what every process has once it used a heap */
            before = _dmi_fake_committed();
            reservations = _dmi_fake_reservations();
        }
    }
    ENSURE_EQ(_dmi_fake_reservations(), reservations);
    ENSURE(_dmi_fake_committed() <= before + 4 * PAGE); /* leaves of the page map */
}

/* ---- activation ---------------------------------------------------------------------------------------- */

TEST_EACH_PAGE(a_bucket_becomes_active_at_17_live_or_256_total) {
    void *heap = heaps_create("never", 0);
    for (int i = 0; i < 16; i++) ENSURE(dmi_heap_malloc(heap, 100));
    ENSURE_EQ(heaps_stats(heap).lfh_active, 0);
    ENSURE(dmi_heap_malloc(heap, 100));
    ENSURE_EQ(heaps_stats(heap).lfh_active, 1);
    ENSURE_EQ(heaps_stats(heap).free_lfh, 0); /* from the next one on */
    ENSURE(dmi_heap_malloc(heap, 100));
    ENSURE(heaps_check(heap).free_lfh > 0);
    void *other = heaps_create("never", 0);
    for (int i = 0; i < 255; i++) dmi_heap_free(other, dmi_heap_malloc(other, 2000));
    ENSURE_EQ(heaps_stats(other).lfh_active, 0);
    dmi_heap_free(other, dmi_heap_malloc(other, 2000));
    ENSURE_EQ(heaps_stats(other).lfh_active, 1);
    void *none = heaps_create("never", DMI_HEAP_NO_LFH);
    for (int i = 0; i < 1000; i++) ENSURE(dmi_heap_malloc(none, 100));
    ENSURE_EQ(heaps_check(none).lfh_active, 0);
    dmi_heap_options options = {.size = sizeof options, .lfh_live = 3, .lfh_total = 1000};
    void *soon = dmi_heap_create(&options);
    for (int i = 0; i < 3; i++)
        ENSURE(heaps_stats(soon).lfh_active == 0 && dmi_heap_malloc(soon, 50));
    ENSURE_EQ(heaps_stats(soon).lfh_active, 1);
}

TEST_EACH_PAGE(the_next_bucket_serves_until_its_own_is_active) {
    void *heap = heaps_create("never", 0), *block;
    ENSURE((block = dmi_heap_malloc(heap, 16)));
    ENSURE_EQ(dmi_usable_size(block), 24); /* of the free list */
    for (int i = 0; i < 17; i++) ENSURE(dmi_heap_malloc(heap, 32));
    for (int i = 1; i < 17; i++) {
        ENSURE((block = dmi_heap_malloc(heap, 16)));
        ENSURE_EQ(dmi_usable_size(block), 32);
        if (i % 2) dmi_heap_free(heap, block);
    }
    ENSURE((block = dmi_heap_malloc(heap, 16)));
    ENSURE_EQ(dmi_usable_size(block), 16);
    for (int i = 0; i < 17; i++) ENSURE(dmi_heap_malloc(heap, 64));
    ENSURE((block = dmi_heap_malloc(heap, 48)));
    ENSURE_EQ(dmi_usable_size(block), 64);
    ENSURE((block = dmi_heap_malloc(heap, 33))); /* the free list's block is smaller */
    ENSURE_EQ(dmi_usable_size(block), 40);
    heaps_check(heap);
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
}

/* ---- random runs --------------------------------------------------------------------------------------- */

static const char *const policies[] = {"never",
                                       "eager",
                                       "lazy",
                                       "decay",
                                       "threshold",
                                       "budget",
                                       "threshold:combine=or",
                                       "eager:how=decommit",
                                       "lazy:how=decommit",
                                       "decay:how=decommit",
                                       "lazy:how=offer",
                                       "eager:how=offer",
                                       "never:how=decommit"};
#define POLICIES (sizeof policies / sizeof *policies)

static void random_run(const char *policy, uint32_t flags, unsigned steps, uint64_t seed) {
    void *heap = heaps_create(policy, flags);
    for (floors_step = 0; floors_step < steps; floors_step++) {
        ENSURE(heaps_step(heap, table, BLOCKS, &seed));
        if (floors_step % 7 == 0) ENSURE_EQ(dmi_heap_advance(heap, 0.3), 0);
        if (floors_step % 5 == 0 || floors_step < 100) (void)heaps_check(heap);
    }
    heaps_free_all(heap, table, BLOCKS);
    ENSURE_EQ(heaps_check(heap).busy, 0);
    ENSURE_EQ(dmi_heap_trim(heap, NULL), 0);
    dmi_stats s = heaps_check(heap);
    ENSURE_EQ(s.busy_blocks, 0);
    ENSURE(s.committed <= 4 * PAGE); /* an empty free-list region has none; nothing else stays */
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
}

TEST_EACH_PAGE(the_waterfall_closes_after_every_step_of_a_random_run) {
    for (size_t i = 0; i < POLICIES; i++) random_run(policies[i], 0, 900, i);
    random_run("lazy", DMI_HEAP_HARDENED, 900, 71);
    random_run("lazy", DMI_HEAP_NO_LFH, 900, 72);
    ENSURE_EQ(_dmi_fake_redundant(), 0);
    /* Here pages that are uncommitted go along with their unit, in one call. */
    for (size_t i = 0; i < POLICIES; i++) random_run(policies[i], DMI_HEAP_HUGE_PAGES, 400, 80 + i);
}

static void policies_follow(uint32_t flags) {
    uint64_t seed = 5;
    void *heap = heaps_create("lazy", flags);
    for (size_t from = 0; from < POLICIES; from++)
        for (size_t to = 0; to < POLICIES; to++) {
            dmi_policy a = heaps_policy(policies[from]), b = heaps_policy(policies[to]);
            ENSURE_EQ(dmi_heap_set_policy(heap, &a), 0);
            for (int i = 0; i < 60; i++) ENSURE(heaps_step(heap, table, BLOCKS, &seed));
            ENSURE_EQ(dmi_heap_set_policy(heap, &b), 0);
            dmi_stats s = heaps_check(heap);
            if (b.when == DMI_WHEN_EAGER && b.how != DMI_HOW_OFFER)
                ENSURE_EQ(s.reclaimable, s.reason_commit_granularity);
            if (!flags) ENSURE_EQ(s.reason_commit_granularity, 0);
            dmi_heap_info info = {.size = sizeof info};
            ENSURE_EQ(dmi_heap_get_info(heap, &info), 0);
            ENSURE_EQ(info.policy.when, b.when);
            ENSURE_EQ(dmi_heap_advance(heap, 2), 0);
            for (int i = 0; i < 60; i++) ENSURE(heaps_step(heap, table, BLOCKS, &seed));
            (void)heaps_check(heap);
        }
    heaps_free_all(heap, table, BLOCKS);
    ENSURE_EQ(dmi_heap_trim(heap, NULL), 0);
    ENSURE(heaps_check(heap).committed <= 4 * PAGE);
    dmi_policy bad = {.size = sizeof bad, .when = 99};
    ENSURE(dmi_heap_set_policy(heap, &bad) == -1 && errno == EINVAL);
}

TEST_EACH_PAGE(every_policy_can_follow_every_other_on_a_live_heap) { policies_follow(0); }

TEST_EACH_PAGE(and_with_huge_pages_too) { policies_follow(DMI_HEAP_HUGE_PAGES); }

/* ---- policies, to the page ----------------------------------------------------------------------------- */

/* Blocks of an active bucket: the free list's own, of before the bucket was active, stay apart. */
static void fill_table(void *heap, size_t size) {
    for (int i = 0; i < 20; i++) ENSURE(dmi_heap_malloc(heap, size));
    for (size_t i = 0; i < BLOCKS; i++) {
        table[i] = (heaps_block){dmi_heap_malloc(heap, size), size, (unsigned char)i};
        ENSURE(table[i].at);
        heaps_fill(&table[i]);
    }
}

/* Free all blocks of the table but every keepth (0: all). */
static void thin_out(void *heap, size_t keep) {
    for (size_t i = 0; i < BLOCKS; i++) {
        if (keep && i % keep == 0) continue;
        dmi_heap_free(heap, table[i].at);
        table[i].at = NULL;
    }
}

TEST_EACH_PAGE(eager_gives_each_page_back_at_once) {
    for (int lfh = 0; lfh < 2; lfh++) {
        void *heap = heaps_create("eager", lfh ? 0 : DMI_HEAP_NO_LFH);
        fill_table(heap, 1000);
        for (size_t i = 0; i < BLOCKS; i++) {
            size_t at = i * 37 % BLOCKS;
            dmi_heap_free(heap, table[at].at);
            table[at].at = NULL;
            dmi_stats s = heaps_check(heap);
            ENSURE_EQ(s.reclaimable - s.reason_commit_granularity, 0);
            if (!lfh) ENSURE_EQ(s.reclaimable, 0);
        }
        ENSURE_EQ(dmi_heap_destroy(heap), 0);
    }
    void *heap = heaps_create("eager", 0);
    fill_table(heap, 1000);
    uint64_t full = heaps_check(heap).committed;
    thin_out(heap, 0);
    dmi_stats s = heaps_check(heap);
    ENSURE(full - s.committed + 3 * PAGE >= BLOCKS * 1000 / PAGE * PAGE);
    for (size_t i = 0; i < 5; i++) { /* a block of its own mapping, and one of whole pages */
        void *large = dmi_heap_malloc(heap, i % 2 ? 40 << 20 : 20 * PAGE);
        ENSURE(large && heaps_stats(heap).committed > s.committed);
        dmi_heap_free(heap, large);
        ENSURE_EQ(heaps_check(heap).committed, s.committed);
    }
}

/* The system, looking whether the lock of a heap is open when something is unmapped. */
static dmi_heap *watched;
static unsigned seen_open, seen_held;

static int release_and_look(void *address, size_t size) {
    if (watched && size >= 40 << 20) {
        bool open = _dmi_lock_try(&watched->lock);
        if (open) _dmi_unlock(&watched->lock);
        *(open ? &seen_open : &seen_held) += 1;
    }
    return _dmi_fake_backend.release(address, size);
}

TEST_EACH_PAGE(large_blocks_are_unmapped_with_the_lock_open) {
    static const char *const ways[] = {"eager", "lazy:delay=1", "threshold", "never"};
    static dmi_os_backend backend;
    backend = _dmi_fake_backend;
    backend.release = release_and_look;
    _dmi_os_use(&backend);
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        void *heap = heaps_create(ways[i], 0);
        watched = _dmi_heap_resolve(heap);
        seen_open = seen_held = 0;
        for (int k = 0; k < 4; k++) {
            void *one = dmi_heap_malloc(heap, 40 << 20), *other = dmi_heap_malloc(heap, 90 << 20);
            ENSURE(one && other);
            dmi_heap_free(heap, one);
            dmi_heap_free(heap, other);
            dmi_heap_advance(heap, 3);
        }
        (void)dmi_heap_trim(heap, NULL);
        ENSURE(seen_open > 0);
        ENSURE_EQ(seen_held, 0);
        ENSURE(!watched->space.leaving);
        heaps_check(heap);
        watched = NULL;
        ENSURE_EQ(dmi_heap_destroy(heap), 0);
    }
}

TEST_EACH_PAGE(lazy_waits_for_the_delay_and_not_longer_than_two) {
    for (size_t size = PAGE / 20; size < 100 * PAGE; size *= 9) {
        void *heap = heaps_create("lazy:delay=10", 0);
        fill_table(heap, size);
        ENSURE_EQ(dmi_heap_advance(heap, 25), 0);
        thin_out(heap, 50);
        dmi_stats before = heaps_check(heap);
        ENSURE(before.reclaimable > 0);
        ENSURE_EQ(dmi_heap_advance(heap, 9.5), 0);
        ENSURE_EQ(heaps_check(heap).committed, before.committed);
        ENSURE_EQ(heaps_check(heap).reason_delay, before.reclaimable);
        ENSURE_EQ(dmi_heap_advance(heap, 10.5), 0);
        dmi_stats after = heaps_check(heap);
        ENSURE_EQ(after.reclaimable, 0);
        ENSURE_EQ(after.committed,
                  before.committed - before.reclaimable -
                      (after.overhead > before.overhead ? 0 : before.overhead - after.overhead));
        heaps_free_all(heap, table, BLOCKS);
        ENSURE_EQ(dmi_heap_destroy(heap), 0);
    }
}

TEST_EACH_PAGE(decay_follows_its_curve_and_ends_after_six_half_lives) {
    void *heap = heaps_create("decay:half_life=8", 0);
    fill_table(heap, 3 * PAGE);
    ENSURE_EQ(dmi_heap_advance(heap, 200), 0);
    thin_out(heap, 0);
    dmi_stats s = heaps_check(heap);
    double peak = (double)s.reclaimable;
    ENSURE(peak > 100.0 * (double)PAGE);
    double last = peak;
    for (int t = 1; t <= 48; t++) {
        ENSURE_EQ(dmi_heap_advance(heap, 1), 0);
        double now = (double)heaps_check(heap).reclaimable, most = peak;
        for (int i = 0; i + 8 <= t - 2; i += 8) most /= 2; /* a step late at most */
        ENSURE(now <= last && now <= most + (double)PAGE);
        if (t < 40) ENSURE(now >= peak / (double)(UINT64_C(2) << (t / 8 + 1)) - 4.0 * (double)PAGE);
        last = now;
    }
    ENSURE_EQ(heaps_check(heap).reclaimable, 0);
}

TEST_EACH_PAGE(budget_leaves_its_share_of_busy) {
    void *heap = heaps_create("budget:ratio=0.2", 0);
    fill_table(heap, 3 * PAGE);
    ENSURE_EQ(dmi_heap_advance(heap, 10), 0);
    thin_out(heap, 4);
    uint64_t had = heaps_check(heap).reclaimable;
    ENSURE_EQ(dmi_heap_advance(heap, 3), 0);
    dmi_stats s = heaps_check(heap);
    ENSURE(s.reclaimable <= s.busy / 5 && s.reclaimable < had);
    ENSURE(s.reclaimable + 4 * PAGE >= s.busy / 5 - s.busy / 20); /* and not much less */
}

TEST_EACH_PAGE(threshold_asks_for_a_large_block_and_or_much_in_total) {
    char text[80];
    size_t unit = (DMI_BUCKET_MAX + PAGE) / PAGE * PAGE; /* no bucket, no free list: whole pages */
    for (int either = 0; either < 2; either++) {
        snprintf(text, sizeof text, "threshold:block=%u:total=%u:combine=%s", (unsigned)(2 * unit),
                 (unsigned)(16 * unit), either ? "or" : "and");
        void *heap = heaps_create(text, 0), *small[40];
        void *first = dmi_heap_malloc(heap, 10 * unit), *wall = dmi_heap_malloc(heap, 5 * unit);
        ENSURE(first && wall);
        dmi_heap_free(heap, first); /* large; little in total */
        ENSURE_EQ(heaps_check(heap).free_pages, either ? 0 : 10 * unit);
        first = dmi_heap_malloc(heap, 10 * unit); /* back into the gap */
        for (size_t i = 0; i < 40; i++) {
            small[i] = dmi_heap_malloc(heap, unit);
            ENSURE(small[i]);
        }
        ENSURE_EQ(heaps_check(heap).free_pages, 0);
        for (size_t i = 0; i < 40; i += 2) {
            dmi_heap_free(heap, small[i]); /* small; from the 16th on enough in total */
            uint64_t all = (i / 2 + 1) * unit, kept = heaps_check(heap).free_pages;
            if (!either || all < 16 * unit) ENSURE_EQ(kept, all);
            else ENSURE(kept < 16 * unit);
        }
        uint64_t before = heaps_check(heap).free_pages;
        dmi_heap_free(heap, wall);                      /* large, and in sum enough */
        ENSURE(heaps_check(heap).free_pages <= before); /* with its neighbour, if that was free */
        ENSURE_EQ(dmi_heap_destroy(heap), 0);
    }
}

TEST_EACH_PAGE(never_keeps_everything_until_trim) {
    void *heap = heaps_create("never", 0);
    fill_table(heap, 3000);
    void *large = dmi_heap_malloc(heap, 5 << 20);
    ENSURE(large);
    uint64_t committed = heaps_check(heap).committed;
    thin_out(heap, 0);
    dmi_heap_free(heap, large);
    ENSURE_EQ(dmi_heap_advance(heap, 1e6), 0);
    dmi_stats s = heaps_check(heap);
    ENSURE_EQ(s.committed, committed);
    ENSURE_EQ(s.reason_never, s.reclaimable);
    dmi_trim_report report = {.size = sizeof report};
    ENSURE_EQ(dmi_heap_trim(heap, &report), 0);
    dmi_stats t = heaps_check(heap);
    ENSURE_EQ(t.reclaimable, 0);
    ENSURE_EQ(report.decommitted, s.committed - t.committed);
    ENSURE(report.resident_after < report.resident_before);
}

TEST_EACH_PAGE(time_passes_by_advance_only) {
    void *heap = heaps_create("lazy:delay=1", 0);
    dmi_heap_info info = {.size = sizeof info};
    ENSURE_EQ(dmi_heap_get_info(heap, &info), 0);
    double before = info.clock;
    _dmi_fake_clock_advance(UINT64_C(1000000000000));
    fill_table(heap, 5000);
    thin_out(heap, 0);
    ENSURE(heaps_check(heap).reclaimable > 0);
    ENSURE_EQ(dmi_heap_advance(heap, 2.5), 0);
    ENSURE_EQ(dmi_heap_get_info(heap, &info), 0);
    ENSURE(info.clock > before + 2.499 && info.clock < before + 2.501);
    ENSURE_EQ(heaps_check(heap).reclaimable, 0);
    ENSURE(dmi_heap_advance(heap, -1) == -1 && errno == EINVAL);
    void *real = dmi_heap_create(NULL);
    ENSURE(dmi_heap_advance(real, 1) == -1 && errno == EINVAL);
}

/* ---- requests ------------------------------------------------------------------------------------------ */

TEST_EACH_PAGE(realloc_grows_and_shrinks_in_place_where_it_can) {
    void *heap = heaps_create("never", 0);
    char *pages = dmi_heap_malloc(heap, 30 * PAGE + (300 << 10));
    size_t usable = dmi_usable_size(pages);
    ENSURE(dmi_heap_realloc(heap, pages, usable) == pages);
    char *less = dmi_heap_realloc(heap, pages, usable - 5 * PAGE);
    ENSURE(less == pages);
    ENSURE_EQ(dmi_usable_size(pages), usable - 5 * PAGE);
    ENSURE(dmi_heap_realloc(heap, pages, usable) == pages);
    ENSURE_EQ(heaps_check(heap).busy, usable);
    char *b = dmi_heap_malloc(heap, 100);
    ENSURE(dmi_heap_realloc(heap, b, 90) == b);
    b = dmi_heap_realloc(heap, NULL, 10);
    memcpy(b, "0123456789", 10);
    b = dmi_heap_realloc(heap, b, 3000000);
    ENSURE(b && memcmp(b, "0123456789", 10) == 0);
    b = dmi_heap_realloc(heap, b, 10);
    ENSURE(b && memcmp(b, "0123456789", 10) == 0);
    errno = 0;
    ENSURE(!dmi_heap_realloc(heap, b, SIZE_MAX - 100) && errno == ENOMEM);
    ENSURE(memcmp(b, "0123456789", 10) == 0);
    /* In a bucket half of a block may be lost, and no more. */
    for (int i = 0; i < 40; i++) ENSURE(dmi_heap_malloc(heap, 1000));
    b = dmi_heap_malloc(heap, 1000);
    memcpy(b, "0123456789", 10);
    ENSURE(dmi_heap_realloc(heap, b, 512) == b);
    less = dmi_heap_realloc(heap, b, 500);
    ENSURE(less && less != b && dmi_usable_size(less) < 1000);
    ENSURE(memcmp(less, "0123456789", 10) == 0);
    (void)heaps_check(heap);
}

TEST_EACH_PAGE(aligned_blocks_of_every_power_and_size) {
    void *heap = heaps_create("eager", 0);
    size_t n = 0;
    for (size_t align = 1; align <= (size_t)4 << 20; align *= 2)
        for (size_t size = 0; size <= 100000; size = size * 7 + 1) {
            char *b = dmi_heap_aligned_alloc(heap, align, size);
            ENSURE(b && (uintptr_t)b % align == 0 && dmi_usable_size(b) >= size);
            memset(b, 1, size);
            if (n < BLOCKS) table[n++].at = (unsigned char *)b;
        }
    (void)heaps_check(heap);
    errno = 0;
    ENSURE(!dmi_heap_aligned_alloc(heap, 48, 10) && errno == EINVAL);
    ENSURE(!dmi_heap_aligned_alloc(heap, 0, 10) && errno == EINVAL);
    ENSURE(!dmi_heap_aligned_alloc(heap, (size_t)1 << 62, 10));
    while (n) dmi_heap_free(heap, table[--n].at);
    ENSURE_EQ(heaps_check(heap).busy, 0);
}

TEST_EACH_PAGE(calloc_gives_zeroes_in_used_memory_too) {
    void *heap = heaps_create("lazy:how=offer", 0);
    for (int round = 0; round < 4; round++)
        for (size_t size = 1; size < 4000000; size = size * 3 + 5) {
            unsigned char *b = dmi_heap_calloc(heap, 1, size);
            ENSURE(b);
            for (size_t i = 0; i < size; i++) ENSURE_EQ(b[i], 0);
            memset(b, 0xee, size);
            dmi_heap_free(heap, b);
            if (round == 2) ENSURE_EQ(dmi_heap_advance(heap, 1), 0);
        }
    errno = 0;
    ENSURE(!dmi_heap_calloc(heap, SIZE_MAX / 2, 3) && errno == ENOMEM);
    errno = 0;
    ENSURE(!dmi_heap_malloc(heap, SIZE_MAX) && errno == ENOMEM);
    void *a = dmi_heap_malloc(heap, 0), *b = dmi_heap_malloc(heap, 0);
    ENSURE(a && b && a != b);
    dmi_heap_free(heap, NULL);
}

TEST_EACH_PAGE(without_random_bytes_there_is_no_hardened_heap) {
    dmi_heap_options options = {.size = sizeof options, .flags = DMI_HEAP_HARDENED};
    _dmi_fake_random_refuse(EAGAIN);
    errno = 0;
    ENSURE(!dmi_heap_create(&options));
    ENSURE_EQ(errno, EAGAIN);
    options.flags = 0;
    void *heap = dmi_heap_create(&options);
    ENSURE(heap);
    void *block = dmi_heap_malloc(heap, 100);
    ENSURE(block);
    dmi_heap_free(heap, block);
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
    _dmi_fake_random_refuse(0); /* the keys were made, and stay what they are */
    options.flags = DMI_HEAP_HARDENED;
    ENSURE(!dmi_heap_create(&options));
}

static char *overrun;
static void free_overrun(void *heap) { dmi_heap_free(heap, overrun); }

TEST_EACH_PAGE(a_hardened_heap_finds_what_was_written_behind_a_block) {
    void *heap = heaps_create("lazy", DMI_HEAP_HARDENED);
    for (size_t size = 1; size < 3000000; size = size * 5 + 3) {
        overrun = dmi_heap_malloc(heap, size);
        ENSURE(overrun);
        size_t usable = dmi_usable_size(overrun);
        memset(overrun, 7, usable);
        ENSURE_EQ(dmi_heap_check(heap, overrun), DMI_OK);
        char was = overrun[usable];
        overrun[usable] = (char)~was;
        ENSURE_EQ(dmi_heap_check(heap, overrun), DMI_FAULT_OVERFLOW);
        ENSURE_EQ(dmi_heap_free_checked(heap, overrun), DMI_FAULT_OVERFLOW);
        dmi_fault fault = {.size = sizeof fault};
        ENSURE_EQ(dmi_heap_validate(heap, &fault), 1);
        ENSURE_EQ(fault.kind, DMI_FAULT_OVERFLOW);
        ENSURE(test_dies(free_overrun, heap));
        overrun[usable] = was;
        (void)heaps_check(heap);
        dmi_heap_free(heap, overrun);
    }
}

TEST_EACH_PAGE(a_bounded_heap_stays_in_its_bound) {
    dmi_heap_options options = {.size = sizeof options, .max_size = 5 << 20};
    void *heap = dmi_heap_create(&options);
    uint64_t seed = 3;
    unsigned refused = 0;
    for (floors_step = 0; floors_step < 2000; floors_step++) {
        refused += !heaps_step(heap, table, BLOCKS, &seed);
        if (floors_step % 20 == 0) ENSURE(heaps_check(heap).reserved <= options.max_size);
    }
    ENSURE(refused > 0);
    heaps_free_all(heap, table, BLOCKS);
    ENSURE_EQ(heaps_check(heap).busy, 0);
    errno = 0;
    ENSURE(!dmi_heap_malloc(heap, 6 << 20) && errno == ENOMEM);
}
