/* test_window.c - the window that segments stand in: where it is, in which order places are taken, what happens where
 * somebody else is. */
#include <errno.h>
#include <string.h>

#include "os/fake.h"
#include "os/window.h"
#include "segment/segment.h"
#include "test.h"

#define KIB ((uintptr_t)1 << 10)
#define MIB ((uintptr_t)1 << 20)

static uint64_t state;
static uint64_t next_random(void) { /* splitmix64 */
    uint64_t z = state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

TEST(window_draws_are_spread_over_the_area) {
    enum { DRAWS = 200000, PARTS = 64 };
    static unsigned in_part[PARTS], at_offset[PARTS];
    uintptr_t room = DMI_WINDOW_AREA - DMI_WINDOW_SIZE;
    memset(in_part, 0, sizeof in_part);
    memset(at_offset, 0, sizeof at_offset);
    state = 1;
    for (int i = 0; i < DRAWS; i++) {
        uintptr_t at = _dmi_window_draw(next_random(), 4 * KIB);
        REQUIRE(at >= DMI_WINDOW_FROM && at < DMI_WINDOW_FROM + room);
        CHECK_EQ(at % (4 * KIB), 0);
        /* What comes first needs one stretch. */
        CHECK(at % DMI_WINDOW_STRETCH + DMI_WINDOW_WHOLE <= DMI_WINDOW_STRETCH);
        in_part[(at - DMI_WINDOW_FROM) / (room / PARTS)]++;
        at_offset[at / (4 * KIB) % PARTS]++;
    }
    /* Six standard deviations about DRAWS / PARTS. */
    for (int i = 0; i < PARTS; i++) {
        CHECK(in_part[i] > 2800 && in_part[i] < 3460);
        CHECK(at_offset[i] > 2800 && at_offset[i] < 3460);
    }
}

TEST(window_has_28_bits) {
    uintptr_t stretches = (DMI_WINDOW_AREA - DMI_WINDOW_SIZE) / DMI_WINDOW_STRETCH;
    size_t granule = _dmi_os_granularity();
    uintptr_t offsets = (DMI_WINDOW_STRETCH - DMI_WINDOW_WHOLE) / granule;
#if !defined(_WIN32)
    if (granule > 16 * KIB) test_skip("pages are larger than 16 KiB");
#endif
    CHECK(stretches * offsets >= UINT64_C(1) << 28);
    /* Each of those is a place of its own. */
    CHECK_EQ(_dmi_window_draw(0, granule), DMI_WINDOW_FROM);
    CHECK_EQ(_dmi_window_draw(1, granule), DMI_WINDOW_FROM + granule);
    CHECK_EQ(_dmi_window_draw(offsets, granule), DMI_WINDOW_FROM + DMI_WINDOW_STRETCH);
    CHECK_EQ(_dmi_window_draw(stretches * offsets - 1, granule),
             DMI_WINDOW_FROM + (stretches - 1) * DMI_WINDOW_STRETCH + (offsets - 1) * granule);
}

TEST(window_is_clear_of_what_others_want) {
    uintptr_t from = DMI_WINDOW_FROM, to = DMI_WINDOW_FROM + DMI_WINDOW_AREA;
    static const struct {
        const char *who;
        uintptr_t from, to;
    } others[] = {
#if !defined(_WIN32)
        {"low 4 GiB", 0, 0x100000000},
        {"ASan's shadow, x86-64", 0x7fff8000, 0x100080000000},
        {"ASan's shadow, AArch64", 0x1000000000, 0x201010000000},
        {"ASan's and LSan's allocators", 0x500000000000, 0x540000000000},
        {"Go's first arenas, x86-64", 0xc000000000, 0x10c000000000},
        {"Go's first arenas, AArch64", 0x4000000000, 0x104000000000},
        {"HotSpot, compressed references", 0x80000000, 10 * UINT64_C(0x800000000) + 0x800000000},
        {"ZGC up to 8 TiB", 0x40000000000, 0x300000000000},
#if defined(__aarch64__)
        {"PIE programs", 0xaaaaaaaaa000, 0xabaaaaaaa000},
        {"stack and mappings", 0xf00000000000, 0x1000000000000},
#else
        {"PIE programs and brk", 0x555555554000, 0x565595554000},
        {"stack and mappings, 28 bits", 0x7e0000000000, 0x800000000000},
        {"stack and mappings, 32 bits", 0x6fe000000000, 0x800000000000},
#endif
#else
        {"DLLs, stacks", 0x7ff000000000, 0x800000000000},
        {"the heaps of the system", 0, 0x30000000000},
#endif
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        CHECK(to <= others[i].from || from >= others[i].to);
}

/* ---- places ------------------------------------------------------------------------------------ */

static uintptr_t claim(size_t size, size_t align) {
    return (uintptr_t)_dmi_window_claim(size, align);
}

TEST(window_hands_out_the_lowest_free_place) {
    _dmi_window_reset();
    CHECK_EQ(claim(MIB, 4 * KIB), 0); /* none is open */
    _dmi_window_open(12345, 4 * KIB);
    uintptr_t base = _dmi_window_draw(12345, 4 * KIB);
    _dmi_window_open(99, 4 * KIB); /* once is enough */
    uintptr_t a = claim(MIB, 4 * KIB), b = claim(2 * MIB, 4 * KIB), c = claim(MIB, 4 * KIB);
    CHECK_EQ(a, base);
    CHECK_EQ(b, a + MIB + 4 * KIB); /* a gap */
    CHECK_EQ(c, b + 2 * MIB + 4 * KIB);
    _dmi_window_yield((void *)b, 2 * MIB);
    CHECK_EQ(claim(3 * MIB, 4 * KIB), c + MIB + 4 * KIB); /* too large for the hole */
    CHECK_EQ(claim(MIB, 4 * KIB), b);
    CHECK_EQ(claim(MIB - 4 * KIB, 4 * KIB), b + MIB + 4 * KIB); /* the rest of it */
    _dmi_window_yield((void *)a, MIB);
    CHECK_EQ(claim(MIB, 4 * KIB), a);
    uintptr_t aligned = claim(MIB, 2 * MIB);
    CHECK_EQ(aligned % (2 * MIB), 0);
    CHECK(aligned > c);
    /* A part of a range, and what is none of its ranges. */
    _dmi_window_yield((void *)(c + 512 * KIB), 512 * KIB);
    CHECK_EQ(claim(512 * KIB, 4 * KIB), c + 512 * KIB);
    _dmi_window_yield((void *)(aligned + 64 * MIB), MIB);
    _dmi_window_yield((void *)(uintptr_t)0x10000, MIB);
    CHECK(claim(MIB, 4 * KIB) != aligned + 64 * MIB);
    _dmi_window_reset();
}

TEST(window_remembers_as_many_holes_as_its_table_has_room_for) {
    enum { RANGES = 3000 };
    static uintptr_t at[RANGES];
    _dmi_window_reset();
    _dmi_window_open(7, 64 * KIB);
    for (size_t i = 0; i < RANGES; i++) at[i] = claim(64 * KIB, 64 * KIB);
    for (size_t i = 1; i < RANGES; i++) CHECK_EQ(at[i], at[i - 1] + 128 * KIB);
    for (size_t i = 1; i < RANGES - 1; i += 2) _dmi_window_yield((void *)at[i], 64 * KIB);
    /* 511 of those were remembered; each comes once, the lowest first. */
    for (size_t i = 1; i < 2 * 511; i += 2) CHECK_EQ(claim(64 * KIB, 64 * KIB), at[i]);
    CHECK_EQ(claim(64 * KIB, 64 * KIB), at[RANGES - 1] + 128 * KIB);
    CHECK_EQ(claim(DMI_WINDOW_SIZE, 64 * KIB), 0);
    CHECK_EQ(claim(SIZE_MAX - 64 * KIB, 64 * KIB), 0);
    _dmi_window_reset();
}

/* Everything against a plain map of what is taken. */
TEST(window_agrees_with_a_map_of_granules) {
    enum { GRANULES = 1024, HELD = 48 };
    static unsigned char map[GRANULES]; /* 1: range, 2: gap */
    struct {
        size_t first, count;
    } held[HELD] = {{0, 0}};
    memset(map, 0, sizeof map);
    _dmi_window_reset();
    _dmi_window_open(3, 4 * KIB);
    uintptr_t base = _dmi_window_draw(3, 4 * KIB);
    state = 5;
    for (int step = 0; step < 20000; step++) {
        size_t i = next_random() % HELD;
        if (held[i].count) {
            _dmi_window_yield((void *)(base + held[i].first * 4 * KIB), held[i].count * 4 * KIB);
            memset(map + held[i].first, 0, held[i].count + 1);
            held[i].count = 0;
            continue;
        }
        size_t count = 1 + next_random() % 16, align = (size_t)1 << next_random() % 3;
        size_t first = (align - base / (4 * KIB) % align) % align;
        for (;; first += align) {
            REQUIRE(first + count + 1 < GRANULES);
            size_t free_ones = 0;
            while (free_ones <= count && !map[first + free_ones]) free_ones++;
            if (free_ones > count) break;
        }
        REQUIRE_EQ(claim(count * 4 * KIB, align * 4 * KIB), base + first * 4 * KIB);
        memset(map + first, 1, count);
        map[first + count] = 2;
        held[i].first = first;
        held[i].count = count;
    }
    _dmi_window_reset();
}

/* ---- through the door -------------------------------------------------------------------------- */

static dmi_os_backend changed;
static int (*real_at)(void *, size_t, dmi_os_mode, bool, const char *);
static int refusals, refused_with;

static int refuse_at(void *place, size_t size, dmi_os_mode mode, bool huge, const char *name) {
    if (refusals == 0) return real_at(place, size, mode, huge, name);
    refusals--;
    return refused_with;
}

static void use_changed(int how_often, int error) {
    changed = _dmi_fake_backend;
    real_at = changed.reserve_at;
    changed.reserve_at = refuse_at;
    refusals = how_often;
    refused_with = error;
    _dmi_os_use(&changed);
    _dmi_fake_setup(4096, 0);
}

static bool in_window(const void *address) {
    uintptr_t at = (uintptr_t)address;
    return at >= DMI_WINDOW_FROM && at < DMI_WINDOW_FROM + DMI_WINDOW_AREA;
}

static char *reserve(size_t size) {
    return _dmi_os_reserve_in_order(size, 64 * KIB, DMI_OS_STRICT, false, NULL);
}

TEST(window_what_others_took_is_passed_over) {
    use_changed(0, 0);
    char *a = reserve(MIB);
    if (!in_window(a)) {
        CHECK_EQ(_dmi_os_release(a, MIB), 0);
        test_skip("no window here: a sanitizer owns the addresses, or there are too few");
    }
    refusals = 3;
    refused_with = EEXIST;
    char *b = reserve(MIB);
    CHECK(b > a + 4 * MIB && b < a + 5 * MIB);
    CHECK_EQ(_dmi_os_release(a, MIB), 0);
    char *c = reserve(MIB);
    CHECK_EQ((uintptr_t)c, (uintptr_t)a);
    char *d = reserve(MIB); /* what was somebody's stays so */
    CHECK(d > b);
    CHECK_EQ(_dmi_os_release(b, MIB), 0);
    CHECK_EQ(_dmi_os_release(c, MIB), 0);
    CHECK_EQ(_dmi_os_release(d, MIB), 0);
}

TEST(window_where_there_is_no_place_any_address_will_do) {
    use_changed(1000, EEXIST);
    char *a = reserve(MIB);
    CHECK(a != NULL && !in_window(a));
    CHECK_EQ(refusals, 1000 - 8); /* and no more tries than that */
    CHECK_EQ(_dmi_os_release(a, MIB), 0);

    use_changed(1, ENOMEM); /* no such addresses, or no more: one try, and the place is not lost */
    a = reserve(MIB);
    CHECK(a != NULL && !in_window(a));
    char *b = reserve(MIB), *c = NULL;
    if (in_window(b)) CHECK_EQ((uintptr_t)b % (4 * MIB) < 3 * MIB / 2 + 64 * KIB, true);
    CHECK_EQ(_dmi_os_release(a, MIB), 0);
    CHECK_EQ(_dmi_os_release(b, MIB), 0);
    c = reserve(MIB);
    CHECK_EQ((uintptr_t)c, (uintptr_t)b);
    CHECK_EQ(_dmi_os_release(c, MIB), 0);
}

/* The segments of several spaces, in the order in which they came. */
TEST(window_segments_stand_in_order) {
    use_changed(0, 0);
    REQUIRE_EQ(_dmi_space_setup(), 0);
    static dmi_space spaces[2];
    for (int i = 0; i < 2; i++) _dmi_space_init(&spaces[i], DMI_OS_STRICT, false, "dmi", 0);
    const char *last = NULL;
    bool windowed = true;
    for (int i = 0; i < 8; i++) {
        dmi_space *space = &spaces[i % 2];
        size_t before = space->segment_count;
        REQUIRE(_dmi_run_alloc(space, 1024 << (i / 2), 1, DMI_RUN_LARGE, false, NULL) != NULL);
        REQUIRE_EQ(space->segment_count, before + 1);
        const dmi_segment *segment = space->last_segment;
        windowed = windowed && in_window(segment->reservation);
        if (windowed && last) CHECK(segment->reservation > last);
        last = segment->base + segment->size;
    }
    for (int i = 0; i < 2; i++) _dmi_space_release(&spaces[i]);
    if (!windowed)
        test_skip("no window here: a sanitizer owns the addresses, or there are too few");
}
