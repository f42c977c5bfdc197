/* test_glibc_damage.c - regions of glibc's malloc into which somebody wrote: the walk ends, its chunks lie side by
 * side, and nothing outside is read. DMI_FUZZ: how many. */
#include "foreign/glibc.h"
#include "test.h"

#include <stdlib.h>
#include <string.h>

#define THERE UINT64_C(0x7f0000100000)
#define PAGE UINT64_C(4096)
#define PAGES 32u
#define END (THERE + PAGES * PAGE)
#define KEY UINT64_C(0x1234567890abcdef)

static uint64_t words[PAGES * PAGE / 8];
static bool gone[PAGES];
static uint64_t looks;

static int look(void *context, uint64_t address, size_t wanted, dmi_piece *piece) {
    (void)context;
    looks++;
    if (address < THERE || address >= END) {
        CHECK(!"nobody asks for what lies outside");
        return 0;
    }
    uint64_t page = (address - THERE) / PAGE, end = page;
    while (end < PAGES && !gone[end] && (end - page) * PAGE < wanted + PAGE) end++;
    if (end == page) {
        while (end < PAGES && gone[end]) end++;
        piece->goes_on = THERE + end * PAGE;
        return 0;
    }
    *piece = (dmi_piece){(const unsigned char *)words + page * PAGE, THERE + page * PAGE,
                         (size_t)((end - page) * PAGE), 0};
    return 0;
}

static void put(uint64_t address, uint64_t word) { words[(address - THERE) / 8] = word; }

/* Chunks of all sizes, some of them free, up to a top. Returns where that begins. */
static uint64_t make(uint64_t flags, uint64_t *seed) {
    uint64_t at = THERE, before = 0;
    memset(words, 0, sizeof words);
    memset(gone, 0, sizeof gone);
    while (at < END - 4096) {
        uint64_t size = 32 + test_random(seed) % 64 * 16;
        if (before) put(at, before);
        put(at + 8, size | flags | (before ? 0 : 1));
        before = !before && test_random(seed) % 4 == 0 ? size : 0;
        if (!before && test_random(seed) % 8 == 0) put(at + 24, KEY);
        at += size;
    }
    if (before) put(at, before);
    put(at + 8, (END - at) | (before ? 0 : 1));
    return at;
}

static void damage(uint64_t *seed) {
    for (unsigned n = 1 + (unsigned)(test_random(seed) % 40); n; n--) {
        uint64_t word = test_random(seed);
        if (word % 3 == 0) word = word >> 32 & 0xfff;
        if (word % 3 == 1) word >>= 44;
        put(THERE + test_random(seed) % (PAGES * PAGE / 8) * 8, word);
    }
    if (test_random(seed) % 4 == 0) gone[test_random(seed) % PAGES] = true;
}

TEST(whatever_somebody_writes_the_chunks_lie_side_by_side_and_end) {
    static dmi_glibc_tally tally;
    const char *times = getenv("DMI_FUZZ");
    uint64_t seed = 4711;
    for (unsigned long round = 0, most = times ? strtoul(times, NULL, 0) : 1500; round < most;
         round++) {
        uint64_t flags = round % 2 ? 4 : 0, top = make(flags, &seed);
        damage(&seed);
        uint64_t list[] = {THERE + 64, THERE + 4096};
        dmi_glibc_region region = {THERE, END, top, flags, round % 3 ? KEY : 0, list, 2};
        dmi_view view;
        dmi_glibc_walk walk;
        dmi_glibc_chunk chunk = {.address = THERE};
        uint64_t at = THERE, sums[DMI_GLIBC_UNKNOWN + 1] = {0};
        looks = 0;
        _dmi_view_open(&view, look, NULL, 1000000);
        _dmi_glibc_begin(&walk, &view, &region, (unsigned)(round % 3));
        while (_dmi_glibc_next(&walk, &chunk)) {
            CHECK(chunk.address == at && chunk.size <= END - at);
            CHECK(chunk.size >= 16 || chunk.state == DMI_GLIBC_TOP);
            at = chunk.address + chunk.size;
            sums[chunk.state] += chunk.size;
            if (test_has_failed()) return;
        }
        /* A top that claims less than there is ends it all the same. */
        CHECK(at == END || chunk.state == DMI_GLIBC_TOP);
        CHECK(view.error == 0 && looks < 50000);
        memset(&tally, 0, offsetof(dmi_glibc_tally, caches));
        memset(&tally.large_other, 0, sizeof tally - offsetof(dmi_glibc_tally, large_other));
        tally.cache_count = 0;
        tally.page = PAGE;
        _dmi_view_open(&view, look, NULL, 1000000);
        CHECK_EQ(_dmi_glibc_count(&view, &region, (unsigned)(round % 3), &tally), 0);
        for (size_t i = 0; i <= DMI_GLIBC_UNKNOWN; i++) CHECK_EQ(tally.bytes[i], sums[i]);
        if (test_has_failed()) return;
    }
}
