/* test_engine.c - passes of the engine: what each kind leaves, and what a refusal leaves behind. */
#include "heaps.h"

static dmi_heap *make(const char *policy, size_t size, size_t count, void **blocks) {
    dmi_heap *heap = _dmi_heap_resolve(heaps_create(policy, 0));
    for (size_t i = 0; i < 20; i++) ENSURE(dmi_heap_malloc(heap->handle, size));
    for (size_t i = 0; i < count; i++) ENSURE((blocks[i] = dmi_heap_malloc(heap->handle, size)));
    return heap;
}

static uint64_t pass(dmi_heap *heap, dmi_pass_kind kind, uint64_t limit, uint64_t *found) {
    dmi_sweep sweep;
    _dmi_lock(&heap->pass);
    _dmi_sweep_init(&sweep, &heap->engine, kind, limit);
    _dmi_heap_pass(heap, &sweep);
    _dmi_unlock(&heap->pass);
    if (found) *found = sweep.found;
    return sweep.given;
}

TEST_EACH_PAGE(a_count_gives_nothing_and_a_limit_leaves_its_bytes) {
    static void *blocks[200];
    size_t unit = (DMI_BUCKET_MAX + PAGE) / PAGE * PAGE;
    dmi_heap *heap = make("never", unit, 200, blocks);
    for (size_t i = 0; i < 200; i += 2) dmi_heap_free(heap->handle, blocks[i]);
    dmi_stats before = heaps_check(heap->handle);
    uint64_t found;
    ENSURE_EQ(pass(heap, DMI_PASS_COUNT, 0, &found), 0);
    ENSURE_EQ(found, before.reclaimable);
    ENSURE_EQ(heaps_check(heap->handle).committed, before.committed);
    for (uint64_t limit = before.reclaimable; limit >= 3 * PAGE; limit = limit * 2 / 3) {
        uint64_t given = pass(heap, DMI_PASS_LIMIT, limit, NULL);
        dmi_stats after = heaps_check(heap->handle);
        ENSURE(after.reclaimable <= limit && after.reclaimable + PAGE > limit / PAGE * PAGE);
        ENSURE_EQ(after.committed, before.committed - given);
        before = after;
    }
    ENSURE(pass(heap, DMI_PASS_ALL, 0, NULL) > 0);
    ENSURE_EQ(heaps_check(heap->handle).reclaimable, 0);
}

/* What became free since the last pass is not due at this one, though others beside it are. */
TEST_EACH_PAGE(nothing_goes_before_its_delay) {
    static void *blocks[200];
    size_t unit = (DMI_BUCKET_MAX + PAGE) / PAGE * PAGE;
    dmi_heap *heap = make("lazy:delay=1", unit, 200, blocks);
    uint64_t before = heaps_check(heap->handle).committed;
    for (size_t i = 0; i < 100; i += 2) dmi_heap_free(heap->handle, blocks[i]);
    ENSURE_EQ(dmi_heap_advance(heap->handle, 0.9), 0);
    ENSURE_EQ(heaps_check(heap->handle).committed, before);
    for (size_t i = 100; i < 200; i += 2) dmi_heap_free(heap->handle, blocks[i]);
    ENSURE_EQ(dmi_heap_advance(heap->handle, 0.9), 0);
    ENSURE(heaps_check(heap->handle).committed >= before - 50 * unit);
    ENSURE_EQ(dmi_heap_advance(heap->handle, 3), 0);
    ENSURE_EQ(heaps_check(heap->handle).committed, before - 100 * unit);
}

/* After a peak half is left at each half-life, and nothing after six. */
TEST_EACH_PAGE(decay_follows_its_curve) {
    static void *blocks[400];
    size_t unit = (DMI_BUCKET_MAX + PAGE) / PAGE * PAGE;
    dmi_heap *heap = make("decay:half_life=1", unit, 400, blocks);
    ENSURE_EQ(dmi_heap_advance(heap->handle, 10), 0);
    for (size_t i = 0; i < 400; i += 2) dmi_heap_free(heap->handle, blocks[i]);
    double all = (double)heaps_check(heap->handle).reclaimable;
    for (int t = 1; t <= 3; t++) {
        ENSURE_EQ(dmi_heap_advance(heap->handle, 1), 0);
        double left = (double)heaps_check(heap->handle).reclaimable / all * (1 << t);
        ENSURE(left > 0.7 && left < 1.3);
    }
    ENSURE_EQ(dmi_heap_advance(heap->handle, 4), 0);
    ENSURE_EQ(heaps_check(heap->handle).reclaimable, 0);
}

TEST_EACH_PAGE(what_was_offered_goes_when_somebody_trims) {
    static void *blocks[400];
    for (size_t size = PAGE / 16; size <= 8 * PAGE; size *= 8) {
        dmi_heap *heap = make("eager:how=offer", size, 400, blocks);
        for (size_t i = 0; i < 400; i++) dmi_heap_free(heap->handle, blocks[i]);
        dmi_stats s = heaps_check(heap->handle);
        ENSURE(s.offered > 10 * PAGE);
        ENSURE_EQ(_dmi_fake_offered(), s.offered);
        dmi_trim_report report = {.size = sizeof report};
        ENSURE_EQ(dmi_heap_trim(heap->handle, &report), 0);
        ENSURE(report.decommitted >= s.offered);
        ENSURE_EQ(heaps_check(heap->handle).offered, 0);
        ENSURE_EQ(dmi_heap_destroy(heap->handle), 0);
    }
}

/* A block over three pages, of which the outer two were to go and the OS refuses both: it comes back once. */
TEST_EACH_PAGE(a_block_between_two_refused_ranges_comes_back_once) {
    static void *blocks[60];
    size_t size = 3 * PAGE;
    if (size > DMI_BUCKET_MAX) return; /* no subsegment has such blocks */
    for (int second_fails = 0; second_fails < 2; second_fails++) {
        dmi_heap *heap = make("never", size, 60, blocks);
        for (size_t i = 0; i < 60; i++)
            if (i % 3) dmi_heap_free(heap->handle, blocks[i]);
        dmi_run *run = _dmi_pagemap_get(blocks[31]);
        ENSURE_EQ(run->kind, DMI_RUN_LFH);
        ENSURE(run->block_size >= size);
        dmi_blockmap map;
        size_t pinned, block = _dmi_lfh_index(run, blocks[31]);
        size_t first = block * run->block_size >> _dmi_page_shift;
        if (block * run->block_size % PAGE) first++;
        uint64_t pages[2] = {0, 0};
        pages[first / 64] |= UINT64_C(1) << (first % 64);
        pages[(first + 2) / 64] |= UINT64_C(1) << ((first + 2) % 64);
        dmi_sweep sweep;
        _dmi_sweep_init(&sweep, &heap->engine, DMI_PASS_ALL, 0);
        ENSURE(_dmi_lfh_free_map(run, false, &map, &pinned, NULL));
        _dmi_lfh_park(run, &map, pinned, pages);
        unsigned parked = run->parked;
        ENSURE(parked > 0);
        sweep.batch[0].run = sweep.batch[1].run = run;
        sweep.batch[0].first = run->first + (uint32_t)first;
        sweep.batch[1].first = run->first + (uint32_t)first + 2;
        sweep.batch[0].pages = sweep.batch[1].pages = 1;
        sweep.count = 2;
        _dmi_os_fail_at(1, second_fails != 0);
        _dmi_sweep_flush(&sweep);
        _dmi_os_fail_at(0, false);
        if (second_fails) ENSURE_EQ(run->parked, 0);
        else ENSURE(run->parked > 0 && run->parked <= parked);
        (void)heaps_check(heap->handle);
        ENSURE_EQ(dmi_heap_destroy(heap->handle), 0);
    }
}

TEST_EACH_PAGE(refused_pages_are_asked_for_again_only_by_a_trim) {
    static void *blocks[100];
    dmi_heap *heap = make("lazy:delay=1", 5 * PAGE, 100, blocks);
    for (size_t i = 0; i < 100; i++) dmi_heap_free(heap->handle, blocks[i]);
    uint64_t committed = heaps_check(heap->handle).committed;
    _dmi_os_fail_at(1, true);
    ENSURE_EQ(dmi_heap_advance(heap->handle, 3), 0);
    uint64_t calls = _dmi_os_fallible_calls();
    ENSURE(calls > 0);
    ENSURE_EQ(dmi_heap_advance(heap->handle, 30), 0);
    ENSURE_EQ(_dmi_os_fallible_calls(), calls);
    _dmi_os_fail_at(0, false);
    dmi_stats s = heaps_check(heap->handle);
    ENSURE_EQ(s.committed, committed);
    ENSURE_EQ(s.reason_refused, s.reclaimable);
    ENSURE(s.refused_calls > 0);
    ENSURE_EQ(dmi_heap_trim(heap->handle, NULL), 0);
    ENSURE_EQ(heaps_check(heap->handle).reclaimable, 0);
}
