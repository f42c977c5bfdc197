/* test_replay.c - floor 7: what the checker refuses, what the importer reads, what a replay does. */
#include "test.h"

#include <dmi/replay.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) (sizeof(array) / sizeof *(array))
#define FOR_EVER UINT64_MAX

static int check(const dmi_record *records, uint64_t count, uint32_t objects,
                 dmi_trace_summary *summary) {
    memset(summary, 0, sizeof *summary);
    summary->size = sizeof *summary;
    return dmi_trace_check(records, count, objects, 2, summary);
}

TEST(record_is_sixteen_bytes) { CHECK_EQ(sizeof(dmi_record), 16); }

TEST(check_counts) {
    const dmi_record records[] = {
        {DMI_OP_TIME, 0, 0, 0, 1000},    {DMI_OP_ALLOC, 0, 0, 1, 100}, {DMI_OP_CALLOC, 5, 1, 0, 50},
        {DMI_OP_REALLOC, 0, 0, 1, 4000}, {DMI_OP_RSS, 0, 0, 0, 1},     {DMI_OP_FREE, 0, 0, 0, 0},
        {DMI_OP_TIME, 0, 0, 0, 3000},
    };
    dmi_trace_summary summary;
    REQUIRE_EQ(check(records, COUNT(records), 2, &summary), 0);
    CHECK_EQ(summary.allocations, 2);
    CHECK_EQ(summary.reallocs, 1);
    CHECK_EQ(summary.frees, 1);
    CHECK_EQ(summary.duration_us, 3000);
    CHECK_EQ(summary.live_objects, 1);
    CHECK_EQ(summary.live_bytes, 4000);
    CHECK_EQ(summary.peak_bytes, 4050);
    CHECK(summary.fault == NULL);
}

TEST(check_names_the_first_fault) {
    const dmi_record bad[] = {
        {0, 0, 0, 0, 0},
        {7, 0, 0, 0, 0},
        {DMI_OP_ALLOC, 0, 2, 1, 1},
        {DMI_OP_ALLOC, 0, 0, 2, 1},
        {DMI_OP_ALLOC, 0, 0, 0, 1},
        {DMI_OP_ALLOC, 41, 0, 1, 1},
        {DMI_OP_ALLOC, 0, 0, 1, DMI_TRACE_MAX_SIZE + 1},
        {DMI_OP_FREE, 0, 0, 1, 0},
        {DMI_OP_FREE, 0, 0, 0, 8},
        {DMI_OP_REALLOC, 0, 0, 1, 8},
        {DMI_OP_TIME, 0, 0, 0, DMI_TRACE_MAX_TIME + 1},
        {DMI_OP_TIME, 0, 0, 0, 0},
        {DMI_OP_RSS, 0, 0, 1, 0},
    };
    for (size_t i = 0; i < COUNT(bad); i++) {
        const dmi_record records[] = {
            {DMI_OP_TIME, 0, 0, 0, 1}, {DMI_OP_ALLOC, 0, 0, 0, 8}, bad[i], {99, 0, 0, 0, 0}};
        dmi_trace_summary summary;
        errno = 0;
        CHECK_EQ(check(records, COUNT(records), 2, &summary), -1);
        CHECK_EQ(errno, EINVAL);
        CHECK_EQ(summary.fault_record, 2);
        CHECK(summary.fault != NULL);
    }
}

TEST(check_bounds_the_object_table) {
    const dmi_record record = {DMI_OP_ALLOC, 0, 0, 0, 8};
    dmi_trace_summary summary;
    CHECK_EQ(check(&record, 1, UINT32_MAX, &summary), -1);
    CHECK_EQ(errno, EINVAL);
    CHECK_EQ(check(NULL, 0, 0, &summary), 0);
}

/* ---- an allocator that the test can see into -------------------------------------------------- */

static struct {
    unsigned mallocs, callocs, reallocs, aligned, frees;
    size_t live, last_size, last_align;
    bool full;       /* NULL for everything */
    bool forgetful;  /* realloc loses the contents */
    bool scribbling; /* each malloc damages the block before it */
    unsigned char *last;
} seen;

static void *spy(void *block) {
    if (block) seen.live++;
    if (seen.scribbling && seen.last) seen.last[0] = 0;
    seen.last = block;
    return block;
}
static void *spy_malloc(size_t size) {
    seen.mallocs++;
    seen.last_size = size;
    return seen.full ? NULL : spy(malloc(size ? size : 1));
}
static void *spy_calloc(size_t count, size_t size) {
    seen.callocs++;
    seen.last_size = count * size;
    return seen.full ? NULL : spy(calloc(count, size ? size : 1));
}
static void *spy_realloc(void *block, size_t size) {
    seen.reallocs++;
    seen.last_size = size;
    if (seen.full) return NULL;
    if (!block) return spy(malloc(size));
    unsigned char *moved = realloc(block, size);
    if (moved && seen.forgetful) moved[0] = 0;
    return moved;
}
/* Aligned blocks of the test are never freed through free(): it hands out parts of one buffer. */
static unsigned char buffer[1 << 16];
static void *spy_aligned(size_t align, size_t size) {
    seen.aligned++;
    seen.last_align = align;
    seen.last_size = size;
    uintptr_t at = ((uintptr_t)buffer + align - 1) & ~(uintptr_t)(align - 1);
    return at + size <= (uintptr_t)buffer + sizeof buffer ? (void *)at : NULL;
}
static void spy_free(void *block) {
    seen.frees++;
    unsigned char *byte = block;
    if (byte >= buffer && byte < buffer + sizeof buffer) return;
    seen.live--;
    free(block);
}
static size_t spy_usable(void *block) {
    (void)block;
    return 1000;
}

static dmi_replay_target on_spy(void) {
    memset(&seen, 0, sizeof seen);
    dmi_replay_target target = {
        .size = sizeof target,
        .malloc_fn = spy_malloc,
        .calloc_fn = spy_calloc,
        .realloc_fn = spy_realloc,
        .aligned_alloc_fn = spy_aligned,
        .free_fn = spy_free,
        .page_size = 4096,
    };
    return target;
}

static const dmi_record life[] = {
    {DMI_OP_ALLOC, 0, 0, 0, 10000},   {DMI_OP_TIME, 0, 0, 0, 40000}, {DMI_OP_CALLOC, 0, 0, 1, 300},
    {DMI_OP_REALLOC, 0, 0, 0, 20000}, {DMI_OP_ALLOC, 8, 0, 2, 700},  {DMI_OP_RSS, 0, 0, 0, 12345},
    {DMI_OP_FREE, 0, 0, 0, 0},        {DMI_OP_ALLOC, 0, 0, 0, 0},    {DMI_OP_REALLOC, 0, 0, 1, 0},
    {DMI_OP_TIME, 0, 0, 0, 90000},
};

static dmi_replay_state play(dmi_replay *replay, uint64_t record, uint64_t us, int expected) {
    dmi_replay_state state = {.size = sizeof state};
    CHECK_EQ(dmi_replay_play(replay, record, us, &state), expected);
    return state;
}

TEST(replay_makes_the_recorded_calls) {
    dmi_replay_target target = on_spy();
    dmi_replay *replay = dmi_replay_open(life, COUNT(life), 3, 2, &target, DMI_REPLAY_SCOUT);
    REQUIRE(replay != NULL);
    dmi_replay_state state = play(replay, 1, FOR_EVER, 0);
    CHECK_EQ(state.position, 1);
    CHECK_EQ(state.busy, 10000);
    CHECK_EQ(seen.last_size, 10000);
    state = play(replay, 5, FOR_EVER, 0);
    CHECK_EQ(seen.last_align, 256);
    CHECK_EQ(seen.last_size, 768); /* a multiple of the alignment, as C11 wanted it */
    CHECK_EQ(state.busy, 20000 + 300 + 700);
    state = play(replay, FOR_EVER, FOR_EVER, 1);
    CHECK_EQ(state.position, COUNT(life));
    CHECK_EQ(state.operations, 7);
    CHECK_EQ(state.clock_us, 90000);
    CHECK_EQ(state.recorded_rss, 12345);
    CHECK_EQ(state.peak_busy, 21000);
    CHECK_EQ(state.peak_position, 5);
    CHECK_EQ(state.busy, 700);
    CHECK_EQ(state.failed, 0);
    CHECK_EQ(state.damaged, 0);
    CHECK_EQ(seen.mallocs, 2);
    CHECK_EQ(seen.callocs, 1);
    CHECK_EQ(seen.reallocs, 2);
    CHECK_EQ(seen.aligned, 1);
    CHECK_EQ(seen.frees, 1);
    CHECK_EQ(seen.last_size, 1); /* realloc(p, 0) means something else in every library */
    dmi_replay_drain(replay);
    CHECK_EQ(seen.frees, 4);
    CHECK_EQ(seen.live, 0);
    dmi_replay_close(replay);
}

TEST(replay_asks_for_usable_sizes_where_it_can) {
    dmi_replay_target target = on_spy();
    target.usable_size_fn = spy_usable;
    dmi_replay *replay = dmi_replay_open(life, COUNT(life), 3, 2, &target, DMI_REPLAY_SCOUT);
    REQUIRE(replay != NULL);
    dmi_replay_state state = play(replay, FOR_EVER, FOR_EVER, 1);
    CHECK_EQ(state.peak_busy, 3000);
    CHECK_EQ(state.peak_position, 5);
    dmi_replay_drain(replay);
    dmi_replay_close(replay);
}

TEST(replay_writes_every_page_of_a_block) {
    dmi_replay_target target = on_spy();
    dmi_replay *replay = dmi_replay_open(life, COUNT(life), 3, 2, &target, 0);
    REQUIRE(replay != NULL);
    play(replay, 1, FOR_EVER, 0);
    unsigned char *block = seen.last;
    CHECK(block[0] != 0);
    size_t pages = 0;
    for (size_t at = 1; at < 10000; at++) {
        if (((uintptr_t)block + at) % 4096 != 0) continue;
        CHECK_EQ(block[at], block[0]);
        pages++;
    }
    CHECK(pages >= 2);
    dmi_replay_drain(replay);
    dmi_replay_close(replay);
}

TEST(replay_lives_with_an_allocator_that_is_full) {
    dmi_replay_target target = on_spy();
    dmi_replay *replay = dmi_replay_open(life, COUNT(life), 3, 2, &target, DMI_REPLAY_SCOUT);
    REQUIRE(replay != NULL);
    play(replay, 1, FOR_EVER, 0);
    seen.full = true; /* the calloc fails, the realloc keeps its block, the second alloc fails */
    dmi_replay_state state = play(replay, FOR_EVER, FOR_EVER, 1);
    CHECK_EQ(state.failed, 4);
    CHECK_EQ(state.damaged, 0);
    CHECK_EQ(state.busy, 700); /* the aligned block: that call does not fail here */
    CHECK_EQ(seen.live, 0);
    dmi_replay_close(replay);
}

TEST(scouting_sees_lost_contents) {
    for (int fault = 0; fault < 2; fault++) {
        dmi_replay_target target = on_spy();
        seen.forgetful = fault == 0;
        seen.scribbling = fault == 1;
        dmi_replay *replay = dmi_replay_open(life, COUNT(life), 3, 2, &target, DMI_REPLAY_SCOUT);
        REQUIRE(replay != NULL);
        dmi_replay_state state = play(replay, FOR_EVER, FOR_EVER, 1);
        CHECK(state.damaged > 0);
        dmi_replay_drain(replay);
        dmi_replay_close(replay);
    }
}

TEST(replay_stops_where_the_clock_would_pass) {
    const dmi_record gaps[] = {{DMI_OP_TIME, 0, 0, 0, 10000},
                               {DMI_OP_TIME, 0, 0, 0, 1010000},
                               {DMI_OP_TIME, 0, 0, 0, 1010000 + 6000000000}};
    dmi_replay_target target = {.size = sizeof target, .page_size = 4096};
    dmi_replay *replay = dmi_replay_open(gaps, COUNT(gaps), 0, 1, &target, 0);
    REQUIRE(replay != NULL);
    dmi_replay_state state = play(replay, FOR_EVER, 9999, 0);
    CHECK_EQ(state.clock_us, 0);
    CHECK_EQ(state.position, 0);
    state = play(replay, FOR_EVER, 10000, 0);
    CHECK_EQ(state.clock_us, 10000);
    CHECK_EQ(state.position, 1);
    /* Within a gap it stops at whole slices of 50 ms, wherever it was stopped before. */
    state = play(replay, FOR_EVER, 170000, 0);
    CHECK_EQ(state.clock_us, 160000);
    state = play(replay, FOR_EVER, 215000, 0);
    CHECK_EQ(state.clock_us, 210000);
    CHECK_EQ(state.position, 1);
    state = play(replay, 2, FOR_EVER, 0);
    CHECK_EQ(state.clock_us, 1010000);
    /* A long gap has slices of a 1200th: 5 seconds. */
    state = play(replay, FOR_EVER, 1010000 + 9000000, 0);
    CHECK_EQ(state.clock_us, 1010000 + 5000001);
    state = play(replay, FOR_EVER, FOR_EVER, 1);
    CHECK_EQ(state.clock_us, 1010000 + 6000000000);
    state = play(replay, FOR_EVER, FOR_EVER, 1);
    CHECK_EQ(state.position, 3);
    dmi_replay_close(replay);
}

TEST(replay_refuses_what_it_cannot_play) {
    dmi_replay_target target = on_spy();
    const dmi_record dead = {DMI_OP_FREE, 0, 0, 0, 0};
    CHECK(dmi_replay_open(&dead, 1, 1, 1, &target, 0) == NULL);
    CHECK_EQ(errno, EINVAL);
    target.free_fn = NULL;
    CHECK(dmi_replay_open(life, COUNT(life), 3, 2, &target, 0) == NULL);
    target = on_spy();
    target.page_size = 1000;
    CHECK(dmi_replay_open(life, COUNT(life), 3, 2, &target, 0) == NULL);
    target = on_spy();
    target.size--;
    CHECK(dmi_replay_open(life, COUNT(life), 3, 2, &target, 0) == NULL);
    CHECK(dmi_replay_open(life, COUNT(life), 3, 2, NULL, 0) == NULL);
    dmi_replay_close(NULL);
}

/* ---- on dmi's own heaps ----------------------------------------------------------------------- */

TEST(replay_on_a_heap_follows_its_clock) {
    const dmi_policy lazy = {.size = sizeof lazy, .when = DMI_WHEN_LAZY, .delay = 1};
    dmi_heap_options options = {
        .size = sizeof options, .flags = DMI_HEAP_MANUAL_CLOCK, .policy = &lazy};
    void *heap = dmi_heap_create(&options);
    REQUIRE(heap != NULL);
    dmi_replay_target target = {.size = sizeof target, .heap = heap, .page_size = 4096};

    enum { BLOCKS = 3000 };
    dmi_record *records = calloc(2 * BLOCKS + 2, sizeof *records);
    REQUIRE(records != NULL);
    uint64_t random = 1;
    for (uint32_t i = 0; i < BLOCKS; i++)
        records[i] = (dmi_record){DMI_OP_ALLOC, 0, 0, i, test_random(&random) % 3000};
    records[BLOCKS] = (dmi_record){DMI_OP_TIME, 0, 0, 0, 1000000};
    for (uint32_t i = 0; i < BLOCKS; i++)
        records[BLOCKS + 1 + i] = (dmi_record){DMI_OP_FREE, 0, 0, i, 0};
    records[2 * BLOCKS + 1] = (dmi_record){DMI_OP_TIME, 0, 0, 0, 9000000};

    dmi_replay *replay =
        dmi_replay_open(records, 2 * BLOCKS + 2, BLOCKS, 1, &target, DMI_REPLAY_SCOUT);
    REQUIRE(replay != NULL);
    dmi_stats stats = {.size = sizeof stats};
    dmi_replay_state state = play(replay, BLOCKS, FOR_EVER, 0);
    REQUIRE_EQ(dmi_heap_stats(heap, &stats, 0), 0);
    CHECK_EQ(stats.busy, state.busy);
    CHECK_EQ(stats.busy_blocks, BLOCKS);
    state = play(replay, 2 * BLOCKS + 1, FOR_EVER, 0);
    REQUIRE_EQ(dmi_heap_stats(heap, &stats, 0), 0);
    CHECK_EQ(stats.busy, 0);
    CHECK_EQ(state.busy, 0);
    uint64_t kept = stats.committed;
    state = play(replay, FOR_EVER, FOR_EVER, 1); /* eight silent seconds, the delay is one */
    REQUIRE_EQ(dmi_heap_stats(heap, &stats, 0), 0);
    CHECK(stats.committed < kept / 4);
    CHECK_EQ(state.damaged, 0);
    CHECK_EQ(state.failed, 0);
    dmi_replay_close(replay);
    free(records);
    CHECK_EQ(dmi_heap_destroy(heap), 0);
    CHECK(dmi_replay_open(life, COUNT(life), 3, 2, &target, 0) == NULL); /* a heap that is gone */
}

/* ---- heaptrack -------------------------------------------------------------------------------- */

TEST(heaptrack_text_becomes_records) {
    static const char text[] = "v 10400 3\nX a b\nI 1000 10\nt aaaa 0\nt bbbb 0\n"
                               "+ 40 1 1000\n- 1000\n+ 80 2 2000\nc 14\nR 2\n- 9999\n- 2000\n";
    dmi_heaptrack *import = dmi_heaptrack_open();
    REQUIRE(import != NULL);
    for (size_t i = 0; i < sizeof text - 1; i++) /* a byte at a time: every line is carried over */
        REQUIRE_EQ(dmi_heaptrack_feed(import, text + i, 1), 0);
    dmi_import_result result = {.size = sizeof result};
    REQUIRE_EQ(dmi_heaptrack_finish(import, &result), 0);
    const dmi_record expected[] = {
        {DMI_OP_ALLOC, 0, 0, 0, 64},   {DMI_OP_REALLOC, 0, 0, 0, 128},
        {DMI_OP_TIME, 0, 0, 0, 20000}, {DMI_OP_RSS, 0, 0, 0, 2 * 4096},
        {DMI_OP_FREE, 0, 0, 0, 0},
    };
    REQUIRE_EQ(result.count, COUNT(expected));
    CHECK_EQ(memcmp(result.records, expected, sizeof expected), 0);
    CHECK_EQ(result.objects, 1);
    CHECK_EQ(result.page_size, 4096);
    CHECK_EQ(result.unknown_frees, 1);
    CHECK_EQ(result.reallocs, 1);
    CHECK_EQ(dmi_heaptrack_finish(import, &result), -1); /* once only */
    dmi_heaptrack_close(import);
}

TEST(heaptrack_names_the_bad_line) {
    static const char text[] = "v 10400 3\n+ 40 0 1000\n+ 40 0\n+ 40 0 3000\n";
    dmi_heaptrack *import = dmi_heaptrack_open();
    REQUIRE(import != NULL);
    CHECK_EQ(dmi_heaptrack_feed(import, text, sizeof text - 1), -1);
    CHECK_EQ(errno, EINVAL);
    uint64_t offset = 0;
    CHECK(dmi_heaptrack_fault(import, &offset) != NULL);
    CHECK_EQ(offset, 22);
    CHECK_EQ(dmi_heaptrack_feed(import, "\n", 1), -1); /* it stays broken */
    dmi_import_result result = {.size = sizeof result};
    CHECK_EQ(dmi_heaptrack_finish(import, &result), -1);
    dmi_heaptrack_close(import);
}
