/* test_os.c - every primitive of os.h, on the native backend and on the fake one. */
#include <errno.h>
#include <string.h>

#include "os/fake.h"
#include "os/os.h"
#include "test.h"

#define KIB ((size_t)1024)
#define MIB (1024 * KIB)

static const dmi_os_backend *const backends[] = {&_dmi_os_native, &_dmi_fake_backend};
static const size_t fake_page_sizes[] = {4 * 1024, 16 * 1024, 64 * 1024};

/* Run a body on the native backend and on the fake one with each page size. */
static void on_all(void (*body)(void)) {
    dmi_os_counters before, after;
    _dmi_os_counters(&before);
    _dmi_os_use(backends[0]);
    body();
    for (size_t i = 0; i < sizeof fake_page_sizes / sizeof *fake_page_sizes; i++) {
        if (fake_page_sizes[i] < _dmi_os_native.page_size()) continue;
        _dmi_fake_setup(fake_page_sizes[i], 0);
        _dmi_os_use(backends[1]);
        body();
        CHECK_EQ(_dmi_fake_reservations(), 0);
        CHECK_EQ(_dmi_fake_committed(), 0);
    }
    _dmi_os_use(backends[0]);
    _dmi_os_counters(&after);
    CHECK_EQ(after.reserved_bytes, before.reserved_bytes);
    CHECK_EQ(after.committed_bytes, before.committed_bytes);
}

static bool all_bytes(const char *at, size_t size, char value) {
    for (size_t i = 0; i < size; i++)
        if (at[i] != value) return false;
    return true;
}

typedef struct touch {
    char *at;
    bool write;
} touch;

static void do_touch(void *argument) {
    const touch *t = argument;
    volatile char *at = t->at;
    if (t->write) *at = 1;
    else (void)*at;
}

static bool crashes(char *at, bool write) {
    touch t = {at, write};
    return test_dies(do_touch, &t);
}

/* ---- the four verbs -------------------------------------------------------------------------- */

static void verbs(dmi_os_mode mode) {
    size_t page = _dmi_os_page_size();
    size_t size = 16 * page;
    char *base = _dmi_os_reserve(size, page, mode, false, "dmi:test");
    REQUIRE(base != NULL);
    CHECK_EQ((uintptr_t)base % _dmi_os_granularity(), 0);

    REQUIRE_EQ(_dmi_os_commit(base + 4 * page, 8 * page, mode), 0);
    CHECK(all_bytes(base + 4 * page, 8 * page, 0));
    memset(base + 4 * page, 7, 8 * page);
    /* Committing again, and more around it, keeps what is there. */
    REQUIRE_EQ(_dmi_os_commit(base + 3 * page, 10 * page, mode), 0);
    _dmi_os_uncount(8 * page); /* counted twice, by contract */
    CHECK(all_bytes(base + 4 * page, 8 * page, 7));
    CHECK(all_bytes(base + 3 * page, page, 0));

    /* A hole in the middle: the neighbours stay, the hole comes back as zeroes. */
    REQUIRE_EQ(_dmi_os_decommit(base + 6 * page, 2 * page, mode), 0);
    CHECK(all_bytes(base + 4 * page, 2 * page, 7));
    CHECK(all_bytes(base + 8 * page, 4 * page, 7));
    REQUIRE_EQ(_dmi_os_commit(base + 6 * page, 2 * page, mode), 0);
    CHECK(all_bytes(base + 6 * page, 2 * page, 0));
    base[6 * page] = 1;

    REQUIRE_EQ(_dmi_os_release(base, size), 0);
    _dmi_os_uncount(10 * page);
}

static void verbs_lazy(void) { verbs(DMI_OS_LAZY); }
static void verbs_strict(void) { verbs(DMI_OS_STRICT); }
TEST(verbs_lazy) { on_all(verbs_lazy); }
TEST(verbs_strict) { on_all(verbs_strict); }

static void uncommitted_crashes(void) {
    size_t page = _dmi_os_page_size();
    char *base = _dmi_os_reserve(4 * page, page, DMI_OS_STRICT, false, NULL);
    REQUIRE(base != NULL);
    REQUIRE_EQ(_dmi_os_commit(base, 2 * page, DMI_OS_STRICT), 0);
    CHECK(!crashes(base, true));
    CHECK(crashes(base + 2 * page, false));
    CHECK(crashes(base + 3 * page, true));
    REQUIRE_EQ(_dmi_os_decommit(base + page, page, DMI_OS_STRICT), 0);
    CHECK(!crashes(base + page - 1, true));
    CHECK(crashes(base + page, false));
    REQUIRE_EQ(_dmi_os_release(base, 4 * page), 0);
    _dmi_os_uncount(page);
}
TEST(uncommitted_crashes) { on_all(uncommitted_crashes); }

static void alignment(void) {
    size_t page = _dmi_os_page_size();
    enum { COUNT = 12 };
    static const size_t aligns[] = {64 * KIB, MIB, 4 * MIB, 32 * MIB};
    for (size_t a = 0; a < sizeof aligns / sizeof *aligns; a++) {
        if (aligns[a] < page) continue;
        for (int mode = DMI_OS_LAZY; mode <= DMI_OS_STRICT; mode++) {
            char *base[COUNT];
            size_t size[COUNT];
            for (int i = 0; i < COUNT; i++) {
                /* Odd sizes spoil the place that the next one would fit. */
                size[i] = i % 3 == 0 ? aligns[a] : aligns[a] + page * (size_t)i;
                base[i] = _dmi_os_reserve(size[i], aligns[a], (dmi_os_mode)mode, false, NULL);
                REQUIRE(base[i] != NULL);
                CHECK_EQ((uintptr_t)base[i] % aligns[a], 0);
                for (int j = 0; j < i; j++)
                    CHECK(base[j] + size[j] <= base[i] || base[i] + size[i] <= base[j]);
                REQUIRE_EQ(_dmi_os_commit(base[i] + size[i] - page, page, (dmi_os_mode)mode), 0);
                base[i][size[i] - 1] = 1;
            }
            for (int i = 0; i < COUNT; i++) {
                CHECK_EQ(base[i][size[i] - 1], 1);
                CHECK_EQ(_dmi_os_release(base[i], size[i]), 0);
                _dmi_os_uncount(page);
            }
        }
    }
}
TEST(alignment) { on_all(alignment); }

static void impossible_sizes(void) {
    size_t page = _dmi_os_page_size();
    size_t huge = (SIZE_MAX / 4) & ~(page - 1);
    CHECK_PTR(_dmi_os_reserve(huge, page, DMI_OS_LAZY, false, NULL), NULL);
    CHECK_PTR(_dmi_os_reserve(huge, 4 * MIB, DMI_OS_STRICT, false, NULL), NULL);
    CHECK_PTR(_dmi_os_reserve(SIZE_MAX & ~(page - 1), 4 * MIB, DMI_OS_LAZY, false, NULL), NULL);
}
TEST(impossible_sizes) { on_all(impossible_sizes); }

static void tables(void) {
    size_t page = _dmi_os_page_size();
    size_t size = 64 * MIB;
    char *table = _dmi_os_reserve_table(size, "dmi:table");
    REQUIRE(table != NULL);
    for (size_t at = 0; at < size; at += MIB + page) CHECK_EQ(table[at], 0);
    CHECK_EQ(table[size - 1], 0);
    REQUIRE_EQ(_dmi_os_commit(table + 8 * MIB, page, DMI_OS_STRICT), 0);
    memset(table + 8 * MIB, 3, page);
    CHECK_EQ(table[8 * MIB - 1], 0);
    CHECK_EQ(table[8 * MIB + page], 0);
    CHECK_EQ(table[8 * MIB + page - 1], 3);
    CHECK_EQ(_dmi_os_release(table, size), 0);
    _dmi_os_uncount(page);
}
TEST(tables) { on_all(tables); }

static void converts(void) {
    size_t page = _dmi_os_page_size();
    char *base = _dmi_os_reserve(8 * page, page, DMI_OS_LAZY, false, "dmi:test");
    REQUIRE(base != NULL);
    REQUIRE_EQ(_dmi_os_commit(base, 2 * page, DMI_OS_LAZY), 0);
    memset(base, 5, 2 * page);
    REQUIRE_EQ(_dmi_os_decommit(base + page, page, DMI_OS_LAZY), 0);
    REQUIRE_EQ(_dmi_os_convert(base + page, 7 * page, DMI_OS_STRICT), 0);
    CHECK(all_bytes(base, page, 5));
    REQUIRE_EQ(_dmi_os_commit(base + 4 * page, page, DMI_OS_STRICT), 0);
    CHECK(all_bytes(base + 4 * page, page, 0));
    memset(base + 4 * page, 6, page);
    REQUIRE_EQ(_dmi_os_convert(base + page, 3 * page, DMI_OS_LAZY), 0);
    REQUIRE_EQ(_dmi_os_convert(base + 5 * page, 3 * page, DMI_OS_LAZY), 0);
    REQUIRE_EQ(_dmi_os_commit(base + page, 3 * page, DMI_OS_LAZY), 0);
    CHECK(all_bytes(base + page, 3 * page, 0));
    memset(base + page, 4, 3 * page);
    CHECK(all_bytes(base + 4 * page, page, 6));
    REQUIRE_EQ(_dmi_os_release(base, 8 * page), 0);
    _dmi_os_uncount(5 * page);
}
TEST(converts) { on_all(converts); }

static void trims(void) {
    if (!_dmi_os_can_trim()) return;
    size_t page = _dmi_os_page_size();
    char *base = _dmi_os_reserve(8 * page, page, DMI_OS_LAZY, false, NULL);
    REQUIRE(base != NULL);
    REQUIRE_EQ(_dmi_os_commit(base, 8 * page, DMI_OS_LAZY), 0);
    memset(base, 9, 8 * page);
    REQUIRE_EQ(_dmi_os_release(base + 6 * page, 2 * page), 0);
    REQUIRE_EQ(_dmi_os_release(base, page), 0);
    CHECK(all_bytes(base + page, 5 * page, 9));
    CHECK(crashes(base, false));
    CHECK(crashes(base + 7 * page, true));
    REQUIRE_EQ(_dmi_os_release(base + page, 5 * page), 0);
    _dmi_os_uncount(8 * page);
}
TEST(trims) { on_all(trims); }

static void remaps(void) {
    size_t page = _dmi_os_page_size();
    char *base = _dmi_os_reserve(4 * page, page, DMI_OS_LAZY, false, NULL);
    REQUIRE(base != NULL);
    REQUIRE_EQ(_dmi_os_commit(base, 4 * page, DMI_OS_LAZY), 0);
    memset(base, 2, 4 * page);
    char *moved = _dmi_os_remap(base, 4 * page, 64 * page, true);
    if (moved == NULL) { /* the OS cannot: nothing may have changed */
        CHECK(all_bytes(base, 4 * page, 2));
        REQUIRE_EQ(_dmi_os_release(base, 4 * page), 0);
        _dmi_os_uncount(4 * page);
        return;
    }
    CHECK(all_bytes(moved, 4 * page, 2));
    REQUIRE_EQ(_dmi_os_commit(moved + 60 * page, page, DMI_OS_LAZY), 0);
    moved[60 * page] = 1;
    char *smaller = _dmi_os_remap(moved, 64 * page, 2 * page, true);
    REQUIRE(smaller != NULL);
    CHECK(all_bytes(smaller, 2 * page, 2));
    REQUIRE_EQ(_dmi_os_release(smaller, 2 * page), 0);
    _dmi_os_uncount(5 * page);
}
TEST(remaps) { on_all(remaps); }

/* ---- giving back ----------------------------------------------------------------------------- */

/* Every other page of a range, more of them than one vector takes. */
static void decommit_many(void) {
    enum { PAGES = 2 * 2500 };
    size_t page = _dmi_os_page_size();
    if (page > 16 * KIB) return; /* 320 MB for nothing */
    static dmi_os_range ranges[PAGES / 2];
    static int refused[PAGES / 2];
    char *base = _dmi_os_reserve(PAGES * page, page, DMI_OS_LAZY, false, NULL);
    REQUIRE(base != NULL);
    REQUIRE_EQ(_dmi_os_commit(base, PAGES * page, DMI_OS_LAZY), 0);
    for (size_t i = 0; i < PAGES; i++) base[i * page] = 1;
    for (size_t i = 0; i < PAGES / 2; i++) {
        ranges[i] = (dmi_os_range){base + 2 * i * page, page};
        refused[i] = -1;
    }
    uint64_t calls = 5;
    dmi_os_counters before, after;
    _dmi_os_counters(&before);
    CHECK_EQ(_dmi_os_decommit_many(ranges, PAGES / 2, refused, &calls), 0);
    _dmi_os_counters(&after);
    CHECK(calls > 5);
    CHECK_EQ(after.decommit_calls - before.decommit_calls, calls - 5);
    CHECK_EQ(before.committed_bytes - after.committed_bytes, PAGES / 2 * page);
    for (size_t i = 0; i < PAGES / 2; i++) CHECK_EQ(refused[i], 0);
    int64_t resident = _dmi_os_resident(base, PAGES * page);
    CHECK(resident == -1 || resident == (int64_t)(PAGES / 2 * page));
    for (size_t i = 1; i < PAGES; i += 2) CHECK_EQ(base[i * page], 1);
    for (size_t i = 0; i < PAGES; i += 2) {
        REQUIRE_EQ(_dmi_os_commit(base + i * page, page, DMI_OS_LAZY), 0);
        CHECK_EQ(base[i * page], 0);
    }
    REQUIRE_EQ(_dmi_os_release(base, PAGES * page), 0);
    _dmi_os_uncount(PAGES * page);
}
TEST(decommit_many) { on_all(decommit_many); }

static void residents(void) {
    size_t page = _dmi_os_page_size();
    size_t size = 256 * page;
    char *base = _dmi_os_reserve(size, page, DMI_OS_LAZY, false, NULL);
    REQUIRE(base != NULL);
    if (_dmi_os_resident(base, size) == -1) { /* the OS does not say */
        REQUIRE_EQ(_dmi_os_release(base, size), 0);
        return;
    }
    CHECK_EQ(_dmi_os_resident(base, size), 0);
    REQUIRE_EQ(_dmi_os_commit(base + page, 100 * page, DMI_OS_LAZY), 0);
    for (size_t i = 1; i <= 100; i++) base[i * page] = 1;
    CHECK_EQ(_dmi_os_resident(base, size), 100 * page);
    CHECK_EQ(_dmi_os_resident(base + 50 * page, 100 * page), 51 * page);
    REQUIRE_EQ(_dmi_os_decommit(base + 20 * page, 30 * page, DMI_OS_LAZY), 0);
    CHECK_EQ(_dmi_os_resident(base, size), 70 * page);
    CHECK(_dmi_os_process_resident() >= 70 * (int64_t)page);
    REQUIRE_EQ(_dmi_os_release(base, size), 0);
    _dmi_os_uncount(70 * page);
}
TEST(residents) { on_all(residents); }

static void offers(void) {
    size_t page = _dmi_os_page_size();
    char *base = _dmi_os_reserve(8 * page, page, DMI_OS_LAZY, false, NULL);
    REQUIRE(base != NULL);
    REQUIRE_EQ(_dmi_os_commit(base, 8 * page, DMI_OS_LAZY), 0);
    memset(base, 8, 8 * page);
    REQUIRE_EQ(_dmi_os_offer(base + 2 * page, 4 * page), 0);
    CHECK(all_bytes(base, 2 * page, 8));
    CHECK(all_bytes(base + 6 * page, 2 * page, 8));
    REQUIRE_EQ(_dmi_os_unoffer(base + 2 * page, 4 * page), 0);
    memset(base + 2 * page, 1, 4 * page);
    CHECK(all_bytes(base + 2 * page, 4 * page, 1));
    /* Offered pages may be decommitted outright. */
    REQUIRE_EQ(_dmi_os_offer(base, page), 0);
    REQUIRE_EQ(_dmi_os_decommit(base, page, DMI_OS_LAZY), 0);
    REQUIRE_EQ(_dmi_os_commit(base, page, DMI_OS_LAZY), 0);
    CHECK(all_bytes(base, page, 0));
    REQUIRE_EQ(_dmi_os_release(base, 8 * page), 0);
    _dmi_os_uncount(8 * page);
}
TEST(offers) { on_all(offers); }

/* ---- accounting and injection ---------------------------------------------------------------- */

static void counters(void) {
    size_t page = _dmi_os_page_size();
    dmi_os_counters a, b;
    _dmi_os_counters(&a);
    char *base = _dmi_os_reserve(8 * page, page, DMI_OS_STRICT, false, NULL);
    REQUIRE(base != NULL);
    REQUIRE_EQ(_dmi_os_commit(base, 4 * page, DMI_OS_STRICT), 0);
    REQUIRE_EQ(_dmi_os_decommit(base, page, DMI_OS_STRICT), 0);
    REQUIRE_EQ(_dmi_os_offer(base + page, page), 0);
    _dmi_os_counters(&b);
    CHECK_EQ(b.reserve_calls - a.reserve_calls, 1);
    CHECK_EQ(b.commit_calls - a.commit_calls, 1);
    CHECK_EQ(b.decommit_calls - a.decommit_calls, 1);
    CHECK_EQ(b.offer_calls - a.offer_calls, 1);
    CHECK_EQ(b.reserved_bytes - a.reserved_bytes, 8 * page);
    CHECK_EQ(b.committed_bytes - a.committed_bytes, 3 * page);
    REQUIRE_EQ(_dmi_os_release(base, 8 * page), 0);
    _dmi_os_uncount(3 * page);
    _dmi_os_counters(&b);
    CHECK_EQ(b.release_calls - a.release_calls, 1);
    CHECK_EQ(b.refused_calls, a.refused_calls);
}
TEST(counters) { on_all(counters); }

static void injection(void) {
    size_t page = _dmi_os_page_size();
    dmi_os_counters a, b;
    _dmi_os_counters(&a);
    _dmi_os_fail_at(2, false);
    char *base = _dmi_os_reserve(8 * page, page, DMI_OS_LAZY, false, NULL); /* 1 */
    REQUIRE(base != NULL);
    CHECK_EQ(_dmi_os_commit(base, page, DMI_OS_LAZY), ENOMEM);  /* 2 */
    REQUIRE_EQ(_dmi_os_commit(base, 4 * page, DMI_OS_LAZY), 0); /* 3 */
    base[0] = 1;
    CHECK_EQ(_dmi_os_fallible_calls(), 3);

    _dmi_os_fail_at(1, true);
    CHECK_PTR(_dmi_os_reserve(page, page, DMI_OS_LAZY, false, NULL), NULL);
    CHECK_PTR(_dmi_os_reserve_table(page, NULL), NULL);
    CHECK_EQ(_dmi_os_commit(base, page, DMI_OS_LAZY), ENOMEM);
    CHECK(_dmi_os_decommit(base, page, DMI_OS_LAZY) != 0);
    CHECK(_dmi_os_offer(base, page) != 0);
    CHECK_EQ(base[0], 1); /* what was refused did not happen */
    CHECK_EQ(_dmi_os_fallible_calls(), 5);

    /* In a batch the failure hits one range. */
    dmi_os_range ranges[4];
    int refused[4] = {-1, -1, -1, -1};
    for (size_t i = 0; i < 4; i++) ranges[i] = (dmi_os_range){base + i * page, page};
    _dmi_os_fail_at(3, false);
    CHECK_EQ(_dmi_os_decommit_many(ranges, 4, refused, NULL), 1);
    _dmi_os_fail_at(0, false);
    CHECK_EQ(refused[0], 0);
    CHECK_EQ(refused[1], 0);
    CHECK_EQ(refused[2], ENOMEM);
    CHECK_EQ(refused[3], 0);
    REQUIRE_EQ(_dmi_os_release(base, 8 * page), 0);
    _dmi_os_uncount(page);
    _dmi_os_counters(&b);
    CHECK_EQ(b.committed_bytes, a.committed_bytes);
    CHECK_EQ(b.reserved_bytes, a.reserved_bytes);
    CHECK_EQ(b.refused_calls - a.refused_calls, 3);
}
TEST(injection) { on_all(injection); }

static void keeps_errno(void) {
    size_t page = _dmi_os_page_size();
    errno = 4711;
    char *base = _dmi_os_reserve(4 * page, 4 * MIB, DMI_OS_STRICT, false, "dmi:test");
    REQUIRE(base != NULL);
    (void)_dmi_os_reserve((SIZE_MAX / 4) & ~(page - 1), page, DMI_OS_LAZY, false, NULL);
    (void)_dmi_os_commit(base, page, DMI_OS_STRICT);
    (void)_dmi_os_resident(base, page);
    (void)_dmi_os_process_resident();
    (void)_dmi_os_offer(base, page);
    (void)_dmi_os_unoffer(base, page);
    (void)_dmi_os_decommit(base, page, DMI_OS_STRICT);
    (void)_dmi_os_release(base, 4 * page);
    (void)_dmi_os_clock();
    (void)_dmi_os_fine_clock();
    (void)_dmi_os_cpu_time();
    (void)_dmi_os_barrier_setup();
    (void)_dmi_os_barrier();
    char bytes[16];
    _dmi_os_random(bytes, sizeof bytes);
    _Atomic uint32_t word = 1;
    _dmi_os_wait(&word, 0, 0);
    _dmi_os_wake(&word, true);
    CHECK_EQ(errno, 4711);
}
TEST(keeps_errno) { on_all(keeps_errno); }

/* ---- time, chance, threads ------------------------------------------------------------------- */

TEST(clock_runs) {
    uint64_t start = _dmi_os_clock();
    uint64_t cpu = _dmi_os_cpu_time();
    test_sleep_ms(60);
    uint64_t passed = _dmi_os_clock() - start;
    CHECK(passed >= 40 * 1000000u); /* coarse: a tick may be missing at either end */
    CHECK(_dmi_os_cpu_time() >= cpu);
}

/* What takes a microsecond can be timed with it. */
TEST(fine_clock_has_small_steps) {
    uint64_t least = UINT64_MAX;
    for (int i = 0; i < 1000; i++) {
        uint64_t now = _dmi_os_fine_clock(), then;
        while ((then = _dmi_os_fine_clock()) == now) continue;
        CHECK(then > now);
        if (then - now < least) least = then - now;
    }
    CHECK(least < 1000);
}

TEST(random_differs) {
    unsigned char a[64] = {0}, b[64] = {0};
    _dmi_os_random(a, 61);
    _dmi_os_random(b, 61);
    CHECK(memcmp(a, b, 61) != 0);
    CHECK_EQ(a[61], 0);
    unsigned seen = 0;
    for (size_t i = 0; i < 61; i++) seen |= a[i];
    CHECK_EQ(seen, 0xff);
}

static _Atomic uint32_t bell;
static _Atomic uint32_t rung;

static void sleep_on_bell(void *argument) {
    (void)argument;
    while (atomic_load(&bell) == 0) _dmi_os_wait(&bell, 0, UINT64_MAX);
    atomic_fetch_add(&rung, 1);
}

TEST(wait_and_wake) {
    uint64_t start = _dmi_os_clock();
    atomic_store(&bell, 0);
    _dmi_os_wait(&bell, 1, UINT64_MAX); /* the word differs: returns at once */
    do _dmi_os_wait(&bell, 0, 30 * 1000000u);
    while (_dmi_os_clock() - start < 20 * 1000000u); /* times out, does not hang */
    atomic_store(&rung, 0);
    test_thread *threads[3];
    for (int i = 0; i < 3; i++) threads[i] = test_thread_start(sleep_on_bell, NULL);
    test_sleep_ms(20);
    CHECK_EQ(atomic_load(&rung), 0);
    atomic_store(&bell, 1);
    _dmi_os_wake(&bell, true);
    for (int i = 0; i < 3; i++) test_thread_join(threads[i]);
    CHECK_EQ(atomic_load(&rung), 3);
}

static _Atomic uint32_t exits;
static void *_Atomic last_exit;

static void note_exit(void *value) {
    atomic_fetch_add(&exits, 1);
    atomic_store(&last_exit, value);
}

static uint64_t ids[3];

static void arm(void *argument) {
    uint64_t *id = argument;
    *id = _dmi_os_thread_id();
    CHECK_EQ(_dmi_os_thread_id(), *id);
    CHECK_EQ(_dmi_os_thread_exit_arm(id), 0);
    CHECK_EQ(atomic_load(&exits), 0);
}

static void do_not_arm(void *argument) { (void)argument; }

TEST(thread_exit) {
    REQUIRE_EQ(_dmi_os_thread_exit_setup(note_exit), 0);
    test_thread_join(test_thread_start(arm, &ids[0]));
    CHECK_EQ(atomic_load(&exits), 1);
    CHECK_PTR(atomic_load(&last_exit), &ids[0]);
    test_thread_join(test_thread_start(do_not_arm, NULL));
    CHECK_EQ(atomic_load(&exits), 1);
    CHECK(ids[0] != 0);
    CHECK(ids[0] != _dmi_os_thread_id());
}

TEST(barrier) {
    int error = _dmi_os_barrier_setup();
    CHECK(error == 0 || error == ENOSYS);
    CHECK_EQ(_dmi_os_barrier(), error);
}

/* ---- what only the fake one has -------------------------------------------------------------- */

static char *fake_base(size_t pages) {
    char *base =
        _dmi_os_reserve(pages * _dmi_os_page_size(), _dmi_os_page_size(), DMI_OS_LAZY, false, NULL);
    REQUIRE(base != NULL);
    return base;
}

static void use_fake(size_t limit) {
    _dmi_fake_setup(16 * KIB, limit);
    _dmi_os_use(&_dmi_fake_backend);
}

static void leave_fake(char *base, size_t pages, size_t committed_pages) {
    REQUIRE_EQ(_dmi_os_release(base, pages * _dmi_os_page_size()), 0);
    _dmi_os_uncount(committed_pages * _dmi_os_page_size());
    CHECK_EQ(_dmi_fake_reservations(), 0);
    CHECK_EQ(_dmi_fake_committed(), 0);
    _dmi_os_use(&_dmi_os_native);
}

TEST(fake_states) {
    use_fake(0);
    size_t page = _dmi_os_page_size();
    char *base = fake_base(8);
    CHECK_EQ(_dmi_fake_state(base + 3), DMI_FAKE_UNCOMMITTED);
    REQUIRE_EQ(_dmi_os_commit(base, 3 * page, DMI_OS_LAZY), 0);
    REQUIRE_EQ(_dmi_os_offer(base + page, page), 0);
    REQUIRE_EQ(_dmi_os_release(base + 7 * page, page), 0);
    CHECK_EQ(_dmi_fake_state(base + page - 1), DMI_FAKE_COMMITTED);
    CHECK_EQ(_dmi_fake_state(base + page), DMI_FAKE_OFFERED);
    CHECK_EQ(_dmi_fake_state(base + 3 * page), DMI_FAKE_UNCOMMITTED);
    CHECK_EQ(_dmi_fake_state(base + 8 * page - 1), DMI_FAKE_RELEASED);
    CHECK_EQ(_dmi_fake_state(&page), DMI_FAKE_UNRESERVED);
    CHECK_EQ(_dmi_fake_committed(), 3 * page);
    CHECK_EQ(_dmi_fake_offered(), page);
    CHECK_EQ(_dmi_fake_redundant(), 0);
    REQUIRE_EQ(_dmi_os_commit(base + 2 * page, 2 * page, DMI_OS_LAZY), 0);
    CHECK_EQ(_dmi_fake_redundant(), 1);
    leave_fake(base, 7, 5);
}

TEST(fake_limit) {
    use_fake(64 * KIB);
    size_t page = _dmi_os_page_size();
    char *base = fake_base(8);
    REQUIRE_EQ(_dmi_os_commit(base, 3 * page, DMI_OS_LAZY), 0);
    memset(base, 1, 3 * page);
    CHECK_EQ(_dmi_os_commit(base + 2 * page, 3 * page, DMI_OS_LAZY), ENOMEM);
    CHECK_EQ(_dmi_fake_state(base + 3 * page), DMI_FAKE_UNCOMMITTED);
    CHECK(all_bytes(base, 3 * page, 1));
    REQUIRE_EQ(_dmi_os_commit(base + 3 * page, page, DMI_OS_LAZY), 0);
    _dmi_fake_limit_set(0);
    REQUIRE_EQ(_dmi_os_commit(base + 4 * page, 4 * page, DMI_OS_LAZY), 0);
    leave_fake(base, 8, 8);
}

TEST(fake_strict_in_lazy_mode) {
    use_fake(0);
    size_t page = _dmi_os_page_size();
    char *base = fake_base(4);
    CHECK(crashes(base, false));
    REQUIRE_EQ(_dmi_os_commit(base, 2 * page, DMI_OS_LAZY), 0);
    CHECK(!crashes(base, true));
    REQUIRE_EQ(_dmi_os_decommit(base, page, DMI_OS_LAZY), 0);
    CHECK(crashes(base, false));
    REQUIRE_EQ(_dmi_os_offer(base + page, page), 0);
    CHECK(crashes(base + page, false));
    leave_fake(base, 4, 1);
}

/* An offered page comes back as it was, as zeroes or as garbage; the seed decides, reproducibly. */
TEST(fake_offers_scramble) {
    enum { PAGES = 64 };
    char first[2][PAGES];
    unsigned kept = 0, zero = 0, garbage = 0;
    for (int round = 0; round < 2; round++) {
        use_fake(0);
        _dmi_fake_seed_set(42);
        size_t page = _dmi_os_page_size();
        char *base = fake_base(PAGES);
        REQUIRE_EQ(_dmi_os_commit(base, PAGES * page, DMI_OS_LAZY), 0);
        memset(base, 8, PAGES * page);
        REQUIRE_EQ(_dmi_os_offer(base, PAGES * page), 0);
        REQUIRE_EQ(_dmi_os_unoffer(base, PAGES * page), 0);
        for (size_t i = 0; i < PAGES; i++) {
            first[round][i] = base[i * page];
            CHECK(all_bytes(base + i * page, page, first[round][i]));
            if (first[round][i] == 8) kept++;
            else if (first[round][i] == 0) zero++;
            else garbage++;
        }
        leave_fake(base, PAGES, PAGES);
    }
    CHECK(kept != 0 && zero != 0 && garbage != 0);
    CHECK_EQ(memcmp(first[0], first[1], PAGES), 0);
}

TEST(fake_clock) {
    use_fake(0);
    CHECK_EQ(_dmi_os_clock(), 1000000000u);
    _dmi_fake_clock_advance(5);
    CHECK_EQ(_dmi_os_clock(), 1000000005u);
    _dmi_fake_clock_set(7);
    CHECK_EQ(_dmi_os_clock(), 7);
    _dmi_os_use(&_dmi_os_native);
}

typedef enum misuse {
    COMMIT_UNRESERVED,
    RELEASE_TWICE,
    DECOMMIT_UNALIGNED,
    LEAVE_RESERVATION,
    OFFER_UNCOMMITTED,
    COMMIT_OFFERED,
    CONVERT_COMMITTED,
    NO_MISUSE
} misuse;

static void do_misuse(void *argument) {
    size_t page = _dmi_os_page_size();
    const dmi_os_backend *os = &_dmi_fake_backend; /* past the checks of os.c */
    char *base = os->reserve(8 * page, page, DMI_OS_LAZY, false, NULL);
    os->commit(base, 2 * page, DMI_OS_LAZY);
    switch (*(misuse *)argument) {
    case COMMIT_UNRESERVED: os->commit(base + 8 * page, page, DMI_OS_LAZY); break;
    case RELEASE_TWICE:
        os->release(base, 8 * page);
        os->release(base, 8 * page);
        break;
    case DECOMMIT_UNALIGNED: os->decommit(base + 16, page, DMI_OS_LAZY); break;
    case LEAVE_RESERVATION: os->commit(base + 7 * page, 2 * page, DMI_OS_LAZY); break;
    case OFFER_UNCOMMITTED: os->offer(base + page, 2 * page); break;
    case COMMIT_OFFERED:
        os->offer(base, page);
        os->commit(base, page, DMI_OS_LAZY);
        break;
    case CONVERT_COMMITTED: os->convert(base, page, DMI_OS_STRICT); break;
    case NO_MISUSE: os->release(base, 8 * page); break;
    }
}

TEST(fake_aborts_on_misuse) {
    if (!test_has_fork) test_skip("an abort would leave the fake's lock held");
    use_fake(0);
    for (misuse kind = COMMIT_UNRESERVED; kind < NO_MISUSE; kind++)
        if (!test_dies(do_misuse, &kind)) test_failed(__FILE__, __LINE__, "misuse %d lived", kind);
    misuse none = NO_MISUSE;
    CHECK(!test_dies(do_misuse, &none));
    _dmi_os_use(&_dmi_os_native);
}
