/* test_glibc.c - the chunks of made-up regions of glibc's malloc. */
#include "test.h"

#include "foreign/glibc.h"
#include "sources.h"

#include <errno.h>

#define BASE UINT64_C(0x7f0000000000)
#define IN_USE UINT64_C(1)
#define MAPPED UINT64_C(2)
#define OTHER_ARENA UINT64_C(4)
#define KEY UINT64_C(0x1122334455667788)

static source memory;
static dmi_view view;

static void begin(void) {
    memset(&memory, 0, sizeof memory);
    _dmi_view_open(&view, source_look, &memory, UINT64_MAX);
}

/* A chunk: the size of the free one before it, its own, its flags. Returns where the next one begins. */
static uint64_t chunk(uint64_t at, uint64_t before, uint64_t size, uint64_t flags) {
    source_put(&memory, at, before, size | flags);
    return at + size;
}

/* Chunks in use, which prove that a chain of them is one. */
static uint64_t chunks(uint64_t at, int count, uint64_t flags) {
    while (count--) at = chunk(at, 0, 32, flags);
    return at;
}

static void expect(dmi_glibc_walk *walk, uint64_t address, uint64_t size, dmi_glibc_state state) {
    dmi_glibc_chunk found;
    REQUIRE(_dmi_glibc_next(walk, &found));
    CHECK_EQ(found.address, address);
    CHECK_EQ(found.size, size);
    CHECK_EQ(found.state, state);
}

static void expect_end(dmi_glibc_walk *walk) {
    dmi_glibc_chunk found;
    CHECK(!_dmi_glibc_next(walk, &found));
    CHECK(!_dmi_glibc_next(walk, &found));
}

TEST(each_state_is_told) {
    begin();
    uint64_t busy = BASE, freed = chunk(busy, 0, 64, IN_USE);
    uint64_t behind = chunk(freed, 0, 128, IN_USE), cached = chunk(behind, 128, 48, 0);
    uint64_t fast = chunk(cached, 0, 32, IN_USE), other = chunk(fast, 0, 32, IN_USE);
    uint64_t top = chunk(other, 0, 32, IN_USE);
    source_put(&memory, cached + 16, 0, KEY);
    source_put(&memory, top, 0, 4096 | IN_USE);
    const uint64_t fastbins[] = {BASE - 32, fast, top + 8192};
    dmi_glibc_region region = {
        .from = BASE, .end = top + 4096, .top = top, .key = KEY, .fast = fastbins, .fast_count = 3};
    dmi_glibc_walk walk;
    _dmi_glibc_begin(&walk, &view, &region, 0);
    expect(&walk, busy, 64, DMI_GLIBC_BUSY);
    expect(&walk, freed, 128, DMI_GLIBC_FREE);
    expect(&walk, behind, 48, DMI_GLIBC_BUSY);
    expect(&walk, cached, 32, DMI_GLIBC_TCACHE);
    expect(&walk, fast, 32, DMI_GLIBC_FAST);
    expect(&walk, other, 32, DMI_GLIBC_BUSY);
    expect(&walk, top, 4096, DMI_GLIBC_TOP);
    expect_end(&walk);
    /* A top that claims more than there is. */
    region.end = top + 64;
    _dmi_glibc_begin(&walk, &view, &region, 0);
    for (int i = 0; i < 6; i++) {
        dmi_glibc_chunk found;
        REQUIRE(_dmi_glibc_next(&walk, &found));
    }
    expect(&walk, top, 64, DMI_GLIBC_TOP);
    expect_end(&walk);
}

TEST(a_region_that_is_none_has_no_chunks) {
    begin();
    uint64_t end = chunks(BASE, 4, IN_USE);
    const dmi_glibc_region none[] = {{.from = BASE + 8, .end = end},
                                     {.from = BASE, .end = end - 8},
                                     {.from = end, .end = BASE},
                                     {.from = BASE, .end = BASE}};
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) {
        dmi_glibc_walk walk;
        _dmi_glibc_begin(&walk, &view, &none[i], 0);
        expect_end(&walk);
    }
    CHECK_EQ(memory.looks, 0);
}

TEST(a_stretch_that_was_left_behind_ends_with_fences) {
    begin();
    uint64_t freed = chunks(BASE, 2, IN_USE | OTHER_ARENA);
    uint64_t fence = chunk(freed, 0, 96, IN_USE | OTHER_ARENA);
    chunk(fence, 96, 16, 0);
    chunk(fence + 16, 0, 16, IN_USE);
    dmi_glibc_region region = {.from = BASE, .end = fence + 32, .flags = OTHER_ARENA};
    dmi_glibc_walk walk;
    _dmi_glibc_begin(&walk, &view, &region, 0);
    expect(&walk, BASE, 32, DMI_GLIBC_BUSY);
    expect(&walk, BASE + 32, 32, DMI_GLIBC_BUSY);
    expect(&walk, freed, 96, DMI_GLIBC_FREE);
    expect(&walk, fence, 16, DMI_GLIBC_FENCE);
    expect(&walk, fence + 16, 16, DMI_GLIBC_FENCE);
    expect_end(&walk);
}

TEST(what_makes_no_sense_is_left_out_up_to_where_it_does_again) {
    /* Sizes that no chunk has, flags that none of this region has. */
    const uint64_t bad[] = {24 | IN_USE, UINT64_C(1) << 40 | IN_USE, 64 | 8 | IN_USE,
                            64 | MAPPED | IN_USE, 64 | OTHER_ARENA | IN_USE};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        begin();
        uint64_t at = chunks(BASE, 2, IN_USE);
        source_put(&memory, at, 0, bad[i]);
        uint64_t end = chunks(at + 256, 20, IN_USE);
        dmi_glibc_region region = {.from = BASE, .end = end};
        dmi_glibc_walk walk;
        _dmi_glibc_begin(&walk, &view, &region, 0);
        expect(&walk, BASE, 32, DMI_GLIBC_BUSY);
        expect(&walk, BASE + 32, 32, DMI_GLIBC_BUSY);
        expect(&walk, at, 256, DMI_GLIBC_UNKNOWN);
        for (int n = 0; n < 20; n++)
            expect(&walk, at + 256 + 32u * (unsigned)n, 32, DMI_GLIBC_BUSY);
        expect_end(&walk);
    }
}

TEST(a_few_words_that_look_like_a_chunk_prove_nothing) {
    begin();
    uint64_t at = chunks(BASE, 1, IN_USE);
    source_put(&memory, at, 0, 8 | IN_USE); /* damaged */
    /* Two that follow each other, and then text. */
    source_put(&memory, at + 64, 0, 32 | IN_USE);
    source_put(&memory, at + 96, 0, 32 | IN_USE);
    source_put(&memory, at + 128, 0, UINT64_C(0x6c6f6e6720737472));
    /* One whose successor says that it is free, and of another size. */
    source_put(&memory, at + 256, 0, 48 | IN_USE);
    source_put(&memory, at + 304, 80, 32);
    uint64_t good = at + 512, end = chunks(good, 12, IN_USE);
    dmi_glibc_region region = {.from = BASE, .end = end};
    dmi_glibc_walk walk;
    _dmi_glibc_begin(&walk, &view, &region, 0);
    expect(&walk, BASE, 32, DMI_GLIBC_BUSY);
    expect(&walk, at, good - at, DMI_GLIBC_UNKNOWN);
    expect(&walk, good, 32, DMI_GLIBC_BUSY);
}

TEST(a_free_chunk_before_a_fence_proves_itself) {
    begin();
    source_put(&memory, BASE, 0, 8);
    uint64_t good = BASE + 160, fence = chunk(good, 0, 64, IN_USE);
    chunk(fence, 64, 16, 0);
    chunk(fence + 16, 0, 16, IN_USE);
    dmi_glibc_region region = {.from = BASE, .end = fence + 32};
    dmi_glibc_walk walk;
    _dmi_glibc_begin(&walk, &view, &region, 0);
    expect(&walk, BASE, 160, DMI_GLIBC_UNKNOWN);
    expect(&walk, good, 64, DMI_GLIBC_FREE);
    expect(&walk, fence, 16, DMI_GLIBC_FENCE);
    expect(&walk, fence + 16, 16, DMI_GLIBC_FENCE);
    expect_end(&walk);
}

TEST(what_goes_on_up_to_the_top_makes_sense) {
    begin();
    source_put(&memory, BASE, 0, 8);
    uint64_t top = chunk(BASE + 64, 0, 32, IN_USE);
    source_put(&memory, top, 0, 4096 | IN_USE);
    dmi_glibc_region region = {.from = BASE, .end = top + 4096, .top = top};
    dmi_glibc_walk walk;
    _dmi_glibc_begin(&walk, &view, &region, 0);
    expect(&walk, BASE, 64, DMI_GLIBC_UNKNOWN);
    expect(&walk, BASE + 64, 32, DMI_GLIBC_BUSY);
    expect(&walk, top, 4096, DMI_GLIBC_TOP);
    expect_end(&walk);
}

TEST(a_chunk_that_was_read_while_it_changed_is_read_again) {
    begin();
    uint64_t at = chunks(BASE, 2, IN_USE), end = chunks(at, 12, IN_USE);
    memory.healed = memory.pairs[2];
    memory.pairs[2].words[1] = 8 | IN_USE;
    memory.heals_at = 4;
    dmi_glibc_region region = {.from = BASE, .end = end};
    dmi_glibc_walk walk;
    _dmi_glibc_begin(&walk, &view, &region, 8);
    for (int n = 0; n < 14; n++) expect(&walk, BASE + 32u * (unsigned)n, 32, DMI_GLIBC_BUSY);
    expect_end(&walk);
    /* Not so often as one would like: then it is left out. */
    begin();
    at = chunks(BASE, 2, IN_USE);
    end = chunks(at, 12, IN_USE);
    memory.pairs[2].words[1] = 8 | IN_USE;
    _dmi_glibc_begin(&walk, &view, &region, 3);
    expect(&walk, BASE, 32, DMI_GLIBC_BUSY);
    expect(&walk, BASE + 32, 32, DMI_GLIBC_BUSY);
    expect(&walk, at, 32, DMI_GLIBC_UNKNOWN);
}

TEST(a_chunk_that_the_next_one_contradicts_is_unknown) {
    begin();
    uint64_t wrong = chunks(BASE, 1, IN_USE), next = chunk(wrong, 0, 64, IN_USE);
    uint64_t end = chunks(chunk(next, 48, 32, 0), 9, IN_USE); /* it says: free, 48 bytes */
    dmi_glibc_region region = {.from = BASE, .end = end};
    dmi_glibc_walk walk;
    for (unsigned retries = 0; retries < 3; retries++) {
        _dmi_glibc_begin(&walk, &view, &region, retries);
        expect(&walk, BASE, 32, DMI_GLIBC_BUSY);
        expect(&walk, wrong, 64, DMI_GLIBC_UNKNOWN);
        expect(&walk, next, 32, DMI_GLIBC_BUSY);
    }
    /* Outside the main arena a busy chunk says so. */
    begin();
    end = chunks(chunk(chunks(BASE, 1, IN_USE | OTHER_ARENA), 0, 64, IN_USE), 9,
                 IN_USE | OTHER_ARENA);
    region = (dmi_glibc_region){.from = BASE, .end = end, .flags = OTHER_ARENA};
    _dmi_glibc_begin(&walk, &view, &region, 0);
    expect(&walk, BASE, 32, DMI_GLIBC_BUSY);
    expect(&walk, BASE + 32, 64, DMI_GLIBC_UNKNOWN);
    expect(&walk, BASE + 96, 32, DMI_GLIBC_BUSY);
}

TEST(memory_that_is_not_there_is_stepped_over) {
    begin();
    uint64_t at = chunks(BASE, 3, IN_USE), end = chunks(BASE + 8192, 12, IN_USE);
    memory.hole = at;
    memory.hole_end = BASE + 8192;
    dmi_glibc_region region = {.from = BASE, .end = end};
    dmi_glibc_walk walk;
    _dmi_glibc_begin(&walk, &view, &region, 0);
    expect(&walk, BASE, 32, DMI_GLIBC_BUSY);
    expect(&walk, BASE + 32, 32, DMI_GLIBC_BUSY);
    /* Whether it is free says the next one, which is not there. */
    expect(&walk, BASE + 64, 32, DMI_GLIBC_UNKNOWN);
    expect(&walk, at, BASE + 8192 - at, DMI_GLIBC_UNKNOWN);
    for (int n = 0; n < 12; n++) expect(&walk, BASE + 8192 + 32u * (unsigned)n, 32, DMI_GLIBC_BUSY);
    expect_end(&walk);
    /* A hole in the middle of what makes no sense. */
    begin();
    source_put(&memory, BASE, 0, 8);
    memory.hole = BASE + 4096;
    memory.hole_end = BASE + 8192;
    end = chunks(BASE + 8192, 12, IN_USE);
    _dmi_glibc_begin(&walk, &view, &region, 0);
    expect(&walk, BASE, 8192, DMI_GLIBC_UNKNOWN);
    expect(&walk, BASE + 8192, 32, DMI_GLIBC_BUSY);
    /* A chunk is proved by what can be read alone. */
    begin();
    source_put(&memory, BASE, 0, 8);
    chunks(BASE + 64, 3, IN_USE);
    memory.hole = BASE + 160;
    memory.hole_end = BASE + 8192;
    chunks(BASE + 8192, 12, IN_USE);
    _dmi_glibc_begin(&walk, &view, &region, 0);
    expect(&walk, BASE, 8192, DMI_GLIBC_UNKNOWN);
}

TEST(a_source_that_fails_ends_the_walk) {
    for (uint64_t nth = 1; nth < 40; nth++) {
        static dmi_glibc_tally tally;
        begin();
        uint64_t bad = chunks(BASE, 6, IN_USE);
        source_put(&memory, bad, 0, 8);
        uint64_t end = chunks(bad + 64, 10, IN_USE);
        dmi_glibc_region region = {.from = BASE, .end = end, .key = KEY};
        memory.fail_at = nth;
        memory.error = ESRCH;
        memset(&tally, 0, sizeof tally);
        tally.page = 4096;
        int error = _dmi_glibc_count(&view, &region, 1, &tally);
        if (memory.looks < nth) break;
        CHECK_EQ(error, ESRCH);
        CHECK(tally.bytes[DMI_GLIBC_BUSY] <= end - BASE);
    }
    begin();
    uint64_t end = chunks(BASE, 100, IN_USE);
    dmi_glibc_region region = {.from = BASE, .end = end};
    static dmi_glibc_tally tally;
    tally.page = 4096;
    _dmi_view_open(&view, source_look, &memory, 10);
    CHECK_EQ(_dmi_glibc_count(&view, &region, 0, &tally), EFBIG);
    CHECK_EQ(memory.looks, 10);
}

/* ---- counting ------------------------------------------------------------------------------------------ */

static dmi_glibc_tally tally;

typedef struct given {
    uint64_t address, size;
} given;
static given pages[16];
static size_t page_count;

static void note_pages(void *context, uint64_t address, uint64_t size) {
    CHECK_PTR(context, &tally);
    REQUIRE(page_count < 16);
    pages[page_count++] = (given){address, size};
}

static void count(const dmi_glibc_region *region) {
    memset(&tally, 0, sizeof tally);
    tally.page = 4096;
    tally.pages = note_pages;
    tally.context = &tally;
    page_count = 0;
    CHECK_EQ(_dmi_glibc_count(&view, region, 0, &tally), 0);
}

TEST(whole_pages_in_free_chunks_are_what_a_trim_gives) {
    begin();
    /* A free chunk of 5 pages less its front, one too small, and busy ones between. */
    uint64_t freed = chunk(BASE, 0, 64, IN_USE), behind = chunk(freed, 0, 5 * 4096, IN_USE);
    uint64_t small = chunk(behind, 5 * 4096, 32, 0), next = chunk(small, 0, 4096, IN_USE);
    uint64_t end = chunk(next, 4096, 32, 0);
    dmi_glibc_region region = {.from = BASE, .end = end};
    count(&region);
    CHECK_EQ(page_count, 1);
    CHECK_EQ(pages[0].address, BASE + 4096);
    CHECK_EQ(pages[0].size, 4 * 4096);
    CHECK_EQ(tally.trim, 4 * 4096);
    CHECK_EQ(tally.bytes[DMI_GLIBC_FREE], 6 * 4096);
    CHECK_EQ(tally.counts[DMI_GLIBC_BUSY], 3);
    CHECK_EQ(tally.small[2], 2);
    CHECK_EQ(tally.small[4], 1);
    tally.pages = NULL; /* nobody wants the ranges */
    tally.trim = 0;
    CHECK_EQ(_dmi_glibc_count(&view, &region, 0, &tally), 0);
    CHECK_EQ(tally.trim, 4 * 4096);
}

TEST(chunks_of_fastbins_are_joined_with_their_neighbours) {
    begin();
    uint64_t fast = chunk(BASE, 0, 64, IN_USE), freed = chunk(fast, 0, 32, IN_USE);
    uint64_t behind = chunk(freed, 0, 8192, IN_USE), last = chunk(behind, 8192, 64, 0);
    uint64_t top = chunk(last, 0, 96, IN_USE);
    source_put(&memory, top, 0, 4096 | IN_USE);
    const uint64_t bins[] = {fast, last};
    dmi_glibc_region region = {
        .from = BASE, .end = top + 4096, .top = top, .fast = bins, .fast_count = 2};
    count(&region);
    CHECK_EQ(tally.bytes[DMI_GLIBC_FAST], 128);
    CHECK_EQ(tally.before_top, 96);
    CHECK_EQ(tally.bytes[DMI_GLIBC_TOP], 4096);
    CHECK_EQ(tally.trim, 4096);
}

TEST(a_chunk_alone_on_a_page_pins_what_is_free_there) {
    begin();
    uint64_t freed = chunk(BASE, 0, 32, IN_USE), busy = chunk(freed, 0, 4096 + 2048, IN_USE);
    uint64_t rest = chunk(busy, 4096 + 2048, 64, 0), end = BASE + 3 * 4096;
    uint64_t last = chunk(rest, 0, end - 32 - rest, IN_USE);
    chunk(last, last - rest, 32, 0);
    dmi_glibc_region region = {.from = BASE, .end = end};
    count(&region);
    /* Page 0: the first chunk alone. Page 1: the one in the middle. Page 2: the last. */
    CHECK_EQ(tally.pin_count, 3);
    CHECK_EQ(tally.pinned, (4096 - 32) + (4096 - 64) + (4096 - 32));
    uint64_t sum = 0;
    for (size_t i = 0; i < tally.pin_count; i++) sum += tally.pins[i].pinned;
    CHECK_EQ(sum, tally.pinned);
    CHECK_EQ(tally.pins[0].pinned, 4096 - 64); /* a heap: the least first */
    CHECK_EQ(tally.pins[0].address, busy);
    CHECK_EQ(tally.pins[0].size, 64);
}

TEST(of_many_pins_those_that_hold_most_are_kept) {
    begin();
    enum { PAGES = 4 * DMI_GLIBC_PINS };
    uint64_t at = BASE, before = 0;
    for (uint64_t p = 0; p < PAGES; p++) {
        /* A busy chunk at the front of each page, of 32 bytes up, and free bytes behind it. */
        uint64_t size = 32 + 16 * ((p * 37) % 128), rest = 4096 - size;
        at = chunk(at, before, size, before ? 0 : IN_USE);
        at = chunk(at, 0, rest, IN_USE);
        before = rest;
    }
    uint64_t end = chunk(at, before, 32, 0);
    dmi_glibc_region region = {.from = BASE, .end = end};
    count(&region);
    CHECK_EQ(tally.pin_count, DMI_GLIBC_PINS);
    /* The chunks of each size are two: so the 32 smallest sizes are kept, which pin most. */
    for (size_t i = 0; i < tally.pin_count; i++) {
        CHECK(tally.pins[i].pinned >= 4096 - (32 + 16 * 32));
        if (i) CHECK(tally.pins[i].pinned >= tally.pins[(i - 1) / 2].pinned);
    }
}

TEST(large_sizes_are_counted_as_long_as_there_is_room) {
    begin();
    uint64_t at = BASE;
    enum { SIZES = 5000 };
    for (uint64_t i = 0; i < SIZES; i++) at = chunk(at, 0, 16 * (DMI_GLIBC_SMALL + i), IN_USE);
    at = chunk(at, 0, 16 * DMI_GLIBC_SMALL, IN_USE);
    uint64_t end = chunk(at, 0, 16 * (DMI_GLIBC_SMALL - 1), IN_USE);
    dmi_glibc_region region = {.from = BASE, .end = end};
    count(&region);
    uint64_t chunks_seen = tally.large_other, bytes = tally.large_other_bytes, twice = 0;
    for (size_t i = 0; i < DMI_GLIBC_LARGE; i++) {
        chunks_seen += tally.large[i].count;
        bytes += tally.large[i].count * tally.large[i].size;
        twice += tally.large[i].count == 2 && tally.large[i].size == 16 * DMI_GLIBC_SMALL;
    }
    CHECK_EQ(chunks_seen, SIZES + 1);
    CHECK(tally.large_other >= SIZES - DMI_GLIBC_LARGE);
    CHECK_EQ(bytes + 16 * (DMI_GLIBC_SMALL - 1), tally.bytes[DMI_GLIBC_BUSY]);
    CHECK_EQ(twice, 1);
    CHECK_EQ(tally.small[DMI_GLIBC_SMALL - 1], 1);
}

TEST(chunks_that_may_hold_a_cache_are_named) {
    begin();
    uint64_t end = BASE;
    for (unsigned i = 0; i < DMI_GLIBC_CACHES + 10; i++) end = chunk(end, 0, 656, IN_USE);
    end = chunks(end, 2, IN_USE);
    dmi_glibc_region region = {.from = BASE, .end = end};
    memset(&tally, 0, sizeof tally);
    tally.page = 4096;
    tally.cache_chunk = 656;
    CHECK_EQ(_dmi_glibc_count(&view, &region, 0, &tally), 0);
    CHECK_EQ(tally.cache_count, DMI_GLIBC_CACHES);
    for (size_t i = 0; i < tally.cache_count; i++) CHECK_EQ(tally.caches[i], BASE + 656 * i);
}
