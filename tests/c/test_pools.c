/* test_pools.c - the pools of a made-up arena of pymalloc. */
#include "test.h"

#include "foreign/pools.h"
#include "sources.h"

#include <errno.h>

#define BASE UINT64_C(0x7f0000000000)
#define POOL UINT64_C(4096)

static source memory;
static dmi_view view;

static void begin(void) {
    memset(&memory, 0, sizeof memory);
    _dmi_view_open(&view, source_look, &memory, UINT64_MAX);
}

/* A header: blocks in use, the arena's index, the size class, and how far blocks may go. */
static void put_pool(uint64_t at, uint32_t count, uint32_t arena, uint32_t class_, uint32_t last) {
    source_put(&memory, at, count, 0);
    source_put(&memory, at + 32, (uint64_t)class_ << 32 | arena, (uint64_t)last << 32);
}

static void put_sound(uint64_t at, uint32_t count, uint32_t arena, uint32_t class_) {
    put_pool(at, count, arena, class_, (uint32_t)POOL - 16 * (class_ + 1));
}

TEST(pools_are_counted_by_their_class) {
    begin();
    uint64_t blocks = 0, busy = 0;
    for (uint32_t c = 0; c < DMI_POOL_CLASSES; c++) {
        put_sound(BASE + c * POOL, c % 3 + 1, 7, c);
        blocks += c % 3 + 1;
        busy += (c % 3 + 1) * 16 * (c + 1);
    }
    put_sound(BASE + 64 * POOL, 0, 7, 5); /* given back */
    dmi_pools sum = {0};
    CHECK_EQ(_dmi_pools_count(&view, BASE, BASE + 65 * POOL, POOL, 7, &sum), 0);
    CHECK_EQ(sum.used, 64);
    CHECK_EQ(sum.empty, 1);
    CHECK_EQ(sum.unknown, 0);
    CHECK_EQ(sum.busy, busy);
    CHECK_EQ(sum.busy + sum.free + sum.overhead, 64 * POOL);
    for (uint32_t c = 0; c < DMI_POOL_CLASSES; c++) {
        CHECK_EQ(sum.blocks[c], c % 3 + 1);
        CHECK_EQ(sum.room[c], (POOL - DMI_POOL_HEADER) / (16 * (c + 1)));
        blocks -= sum.blocks[c];
    }
    CHECK_EQ(blocks, 0);
}

TEST(what_is_no_pool_of_the_arena_is_unknown) {
    begin();
    put_sound(BASE, 3, 8, 5);                                /* another arena's */
    put_sound(BASE + POOL, 3, 7, DMI_POOL_CLASSES);          /* no class */
    put_sound(BASE + 2 * POOL, 4096, 7, 5);                  /* more than fit */
    put_pool(BASE + 3 * POOL, 3, 7, 5, (uint32_t)POOL - 16); /* of blocks of another size */
    memory.hole = BASE + 4 * POOL;
    memory.hole_end = BASE + 5 * POOL;
    put_sound(BASE + 5 * POOL, 3, 7, 5);
    dmi_pools sum = {0};
    CHECK_EQ(_dmi_pools_count(&view, BASE, BASE + 6 * POOL + 100, POOL, 7, &sum), 0);
    CHECK_EQ(sum.unknown, 5);
    CHECK_EQ(sum.used, 1);
    CHECK_EQ(sum.blocks[5], 3);
}

TEST(a_pool_of_which_half_is_there_is_unknown) {
    begin();
    put_sound(BASE, 3, 7, 5);
    memory.hole = BASE + 32;
    memory.hole_end = BASE + POOL;
    dmi_pools sum = {0};
    CHECK_EQ(_dmi_pools_count(&view, BASE, BASE + POOL, POOL, 7, &sum), 0);
    CHECK_EQ(sum.unknown, 1);
    CHECK_EQ(_dmi_pools_count(&view, BASE, BASE, POOL, 7, &sum), 0);
    CHECK_EQ(sum.unknown, 1);
}

TEST(a_source_that_fails_ends_the_count) {
    for (uint64_t nth = 1; nth <= 4; nth++) {
        begin();
        put_sound(BASE, 3, 7, 5);
        put_sound(BASE + POOL, 3, 7, 5);
        memory.fail_at = nth;
        memory.error = EIO;
        dmi_pools sum = {0};
        CHECK_EQ(_dmi_pools_count(&view, BASE, BASE + 2 * POOL, POOL, 7, &sum), EIO);
        CHECK_EQ(sum.used, (nth - 1) / 2);
    }
}
