/* test_guarded.c - sampled blocks between guards: who gets one, what everybody says of it, what is left behind. */
#include <errno.h>

#include "heap/guarded.h"
#include "heaps.h"
#include "images.h"
#include "profile/tracer.h"

static const char *const policies[] = {"never", "lazy", "eager", "lazy:how=decommit",
                                       "lazy:how=offer"};
enum { POLICIES = sizeof policies / sizeof *policies, BLOCKS = 700 };

static void *create(const char *text, uint32_t flags, uint64_t every) {
    dmi_policy policy = heaps_policy(text);
    dmi_heap_options options = {.size = sizeof options,
                                .flags = flags | DMI_HEAP_MANUAL_CLOCK,
                                .policy = &policy,
                                .guard = every};
    void *heap = dmi_heap_create(&options);
    ENSURE(heap != NULL);
    return heap;
}

static dmi_run *run_of(const void *block) { return _dmi_pagemap_find(block); }

/* Between pages that are not committed, and the page behind begins where it ends. */
static bool guarded(const void *block) {
    dmi_run *run = run_of(block);
    if (run->kind != DMI_RUN_GUARDED) return false;
    const char *at = block, *behind = at + run->block_size;
    ENSURE(at == _dmi_guarded_block(run) && !(run->flags & DMI_RUN_KEPT));
    ENSURE_EQ((uintptr_t)behind % PAGE, 0);
    ENSURE_EQ(_dmi_fake_state(behind), DMI_FAKE_UNCOMMITTED);
    ENSURE_EQ(_dmi_fake_state(behind - 1), DMI_FAKE_COMMITTED);
    const char *first = at - (uintptr_t)at % PAGE;
    ENSURE_EQ(_dmi_fake_state(first - 1), DMI_FAKE_UNCOMMITTED);
    return true;
}

TEST_EACH_PAGE(all_that_holds_of_a_heap_holds_with_samples) {
    static heaps_block table[BLOCKS];
    size_t total = 0;
    for (size_t i = 0; i < 2 * POLICIES; i++) {
        uint64_t seed = i + 1;
        memset(table, 0, sizeof table);
        void *heap = create(policies[i / 2], i % 2 ? DMI_HEAP_HARDENED : 0, 5);
        size_t seen = 0;
        for (size_t step = 0; step < 2500; step++) {
            ENSURE(heaps_step(heap, table, BLOCKS, &seed));
            if (step % 500 == 499) (void)heaps_check(heap);
        }
        for (size_t k = 0; k < BLOCKS; k++)
            seen += table[k].at && run_of(table[k].at)->kind == DMI_RUN_GUARDED;
        total += seen;
        ENSURE_EQ(dmi_heap_advance(heap, 5), 0);
        (void)heaps_check(heap);
        dmi_policy next =
            heaps_policy(policies[(i / 2 + 3) % POLICIES]); /* strict to lazy, and back */
        ENSURE_EQ(dmi_heap_set_policy(heap, &next), 0);
        for (size_t step = 0; step < 500; step++) ENSURE(heaps_step(heap, table, BLOCKS, &seed));
        (void)heaps_check(heap);
        images_image *image = images_new();
        heaps_sums sums = {0};
        ENSURE_EQ(images_walk(image, _dmi_heap_resolve(heap), heaps_sum, &sums), 0);
        ENSURE_EQ(sums.busy, heaps_stats(heap).busy);
        images_delete(image);
        heaps_free_all(heap, table, BLOCKS);
        dmi_stats s = heaps_check(heap);
        ENSURE_EQ(s.busy, 0);
        ENSURE_EQ(dmi_heap_destroy(heap), 0);
    }
    ENSURE(total > 100);
}

/* Of each size up to 32 KiB, with each alignment. */
TEST_EACH_PAGE(a_sample_is_a_block_like_any_other) {
    void *heap = create("lazy", 0, 1);
    for (size_t size = 0; size <= DMI_GUARDED_MAX; size = size * 5 / 4 + 1) {
        unsigned char *block = dmi_heap_malloc(heap, size);
        ENSURE(block && guarded(block));
        size_t usable = dmi_usable_size(block);
        ENSURE(usable >= size && usable < size + 16 + !size);
        memset(block, 7, usable);
        dmi_found found = {.size = sizeof found};
        ENSURE_EQ(dmi_find(block + usable / 2, &found), 0);
        ENSURE(found.heap == heap && found.range.address == (uintptr_t)block);
        ENSURE_EQ(found.range.size, usable);
        ENSURE_EQ(found.range.state, DMI_STATE_BUSY);
        ENSURE_EQ(dmi_heap_check(heap, block), DMI_OK);
        ENSURE_EQ(dmi_heap_check(heap, block + 1), DMI_FAULT_INTERIOR);
        ENSURE_EQ(dmi_usable_size(block + 16), 0);
        ENSURE_EQ(dmi_usable_size(block + usable), 0); /* its guard */
        ENSURE(dmi_heap_realloc(heap, block, size) == block);
        unsigned char *more = dmi_heap_realloc(heap, block, size + 64);
        ENSURE(more != block && (size < 1 || more[size - 1] == 7));
        ENSURE_EQ(dmi_heap_check(heap, block), DMI_FAULT_FREE);
        ENSURE_EQ(dmi_heap_free_checked(heap, block), DMI_FAULT_FREE);
        ENSURE_EQ(_dmi_fake_state(block), DMI_FAKE_UNCOMMITTED);
        ENSURE_EQ(dmi_find(block, &found), 0);
        ENSURE_EQ(found.range.state, DMI_STATE_UNCOMMITTED);
        ENSURE_EQ(dmi_usable_size(block), 0);
        ENSURE_EQ(dmi_heap_free_checked(heap, more), DMI_OK);
    }
    for (size_t align = 16; align <= PAGE; align *= 2) {
        char *block = dmi_heap_aligned_alloc(heap, align, 40);
        ENSURE(block && (uintptr_t)block % align == 0);
        ENSURE_EQ(run_of(block)->kind, DMI_RUN_GUARDED);
        dmi_heap_free(heap, block);
    }
    ENSURE_EQ(heaps_check(heap).busy, 0);
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
}

TEST_EACH_PAGE(the_oldest_freed_slot_is_used_again_and_no_busy_one) {
    static char *block[DMI_GUARDED_SLOTS + 20];
    void *heap = create("never", DMI_HEAP_NO_LFH, 1); /* no list that the fast path takes from */
    for (size_t i = 0; i < DMI_GUARDED_SLOTS; i++) {
        block[i] = dmi_heap_malloc(heap, 100);
        ENSURE(guarded(block[i]));
        memset(block[i], (int)i, 100);
    }
    for (size_t i = 0; i < 20; i++) { /* all are busy: the ordinary way */
        block[DMI_GUARDED_SLOTS + i] = dmi_heap_malloc(heap, 100);
        ENSURE(run_of(block[DMI_GUARDED_SLOTS + i])->kind != DMI_RUN_GUARDED);
    }
    static const size_t order[] = {200, 3, 77, 140, 9};
    for (size_t i = 0; i < 5; i++) dmi_heap_free(heap, block[order[i]]);
    for (size_t i = 0; i < 5; i++) {
        char *again = dmi_heap_malloc(heap, 100);
        ENSURE(again == block[order[i]]);
        for (size_t k = 0; k < 100; k++) ENSURE_EQ(again[k], 0);
        memset(again, (int)order[i], 100);
    }
    for (size_t i = 0; i < DMI_GUARDED_SLOTS; i++)
        for (size_t k = 0; k < 100; k += 9) ENSURE_EQ((unsigned char)block[i][k], i % 256);
    for (size_t i = 0; i < DMI_GUARDED_SLOTS + 20; i++) dmi_heap_free(heap, block[i]);
    ENSURE_EQ(heaps_check(heap).busy, 0);
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
}

/* So many of those that come to an empty list: within six standard deviations. */
TEST_EACH_PAGE(about_one_place_in_n_is_sampled) {
    enum { MANY = 100000 };
    static void *block[MANY];
    static const uint64_t rates[] = {1000, 5000};
    for (size_t r = 0; r < 2; r++) {
        void *heap = create("never", 0, rates[r]);
        size_t samples = 0;
        for (size_t i = 0; i < MANY; i++) {
            block[i] = dmi_heap_malloc(heap, 64);
            ENSURE(block[i]);
            samples += run_of(block[i])->kind == DMI_RUN_GUARDED;
        }
        double wanted = (double)MANY / (double)rates[r], room = 6 * (1 + wanted / 8);
        ENSURE((double)samples > wanted - room && (double)samples < wanted + room);
        ENSURE_EQ(dmi_heap_destroy(heap), 0);
    }
}

TEST_EACH_PAGE(without_memory_there_is_no_sample_and_nothing_changed) {
    for (uint64_t nth = 1; nth < 40; nth++) {
        void *heap = create(nth % 2 ? "lazy" : "lazy:how=decommit", 0, 1);
        char *first = dmi_heap_malloc(heap, 500);
        ENSURE(first);
        memset(first, 1, 500);
        _dmi_os_fail_at(nth, nth % 3 == 0);
        char *second = dmi_heap_malloc(heap, 500);
        if (second) memset(second, 2, 500);
        dmi_heap_free(heap, first);
        char *third = dmi_heap_malloc(heap, 9000);
        if (third) memset(third, 3, 9000);
        _dmi_os_fail_at(0, false);
        (void)heaps_check(heap);
        if (second) ENSURE_EQ(second[499], 2);
        dmi_heap_free(heap, second);
        dmi_heap_free(heap, third);
        ENSURE_EQ(heaps_check(heap).busy, 0);
        ENSURE_EQ(dmi_heap_destroy(heap), 0);
    }
}

TEST_EACH_PAGE(options_are_checked_and_told) {
    dmi_heap_options options = {.size = sizeof options, .guard = DMI_GUARD_MOST + 1};
    errno = 0;
    ENSURE(!dmi_heap_create(&options) && errno == EINVAL);
    options.guard = 123;
    void *heap = dmi_heap_create(&options);
    dmi_heap_info info = {.size = sizeof info};
    ENSURE_EQ(dmi_heap_get_info(heap, &info), 0);
    ENSURE_EQ(info.guard, 123);
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
    options.size = offsetof(dmi_heap_options, guard); /* an older caller */
    heap = dmi_heap_create(&options);
    info.size = offsetof(dmi_heap_info, guard);
    info.guard = 9;
    ENSURE_EQ(dmi_heap_get_info(heap, &info), 0);
    ENSURE_EQ(info.guard, 9);
    info.size = sizeof info;
    ENSURE_EQ(dmi_heap_get_info(heap, &info), 0);
    ENSURE_EQ(info.guard, 0);
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
}

/* ---- stacks ---------------------------------------------------------------------------------------------- */

static dmi_fault_report seen;
static dmi_fault_frame frames[3][DMI_TRACE_FRAMES]; /* allocated, freed, found */

static void note_report(const dmi_fault_report *report, void *argument) {
    const dmi_fault_stack *stacks[] = {&report->allocated, &report->freed, &report->found};
    ENSURE(argument == (void *)&seen);
    ENSURE_EQ(report->size, sizeof *report);
    seen = *report;
    memset(frames, 0, sizeof frames);
    for (size_t i = 0; i < 3; i++) {
        ENSURE(stacks[i]->count <= DMI_TRACE_FRAMES);
        for (size_t k = 0; k < stacks[i]->count; k++) frames[i][k] = stacks[i]->frames[k];
    }
}

/* Their frames are told apart by where they lie. The innermost six are left out: they lie where the heap's own code does. */
enum { DEEP = 10 };
static __attribute__((noinline, aligned(256))) void *allocate_deep(void *heap, unsigned depth) {
    void *block = depth ? allocate_deep(heap, depth - 1) : dmi_heap_malloc(heap, 100);
    __asm__ volatile("" : "+r"(block));
    return block;
}
static __attribute__((noinline, aligned(256))) void *allocate_apart(void *heap, unsigned depth) {
    void *block = depth ? allocate_apart(heap, depth - 1) : dmi_heap_malloc(heap, 100);
    __asm__ volatile("" : "+r"(block));
    return block;
}
static __attribute__((noinline, aligned(256))) void free_deep(void *heap, void *block,
                                                              unsigned depth) {
    if (depth) free_deep(heap, block, depth - 1);
    else dmi_heap_free(heap, block);
    __asm__ volatile("");
}

/* Does one of the frames lie in that function? Each has 256 bytes for itself. */
static bool leads_through(const dmi_fault_frame *stack, const void *function) {
    for (size_t i = 0; i < DMI_TRACE_FRAMES; i++)
        if ((uintptr_t)stack[i].address - (uintptr_t)function < 256) return true;
    return false;
}
static bool allocates(const dmi_fault_frame *stack) {
    return leads_through(stack, (const void *)(uintptr_t)allocate_deep);
}
static bool frees(const dmi_fault_frame *stack) {
    return leads_through(stack, (const void *)(uintptr_t)free_deep);
}

TEST_EACH_PAGE(reports_say_who_allocated_and_who_freed) {
    ENSURE(_dmi_tracer == &_dmi_profile_tracer);
    void *heap = create("lazy", DMI_HEAP_NO_LFH, 1);
    dmi_set_fault_handler(note_report, &seen);
    for (size_t turn = 0; turn < 3; turn++) {
        void *block = allocate_deep(heap, DEEP);
        ENSURE(guarded(block));
        dmi_heap_free(heap, (char *)block + 16); /* busy: nobody freed it */
        ENSURE_EQ(seen.kind, DMI_FAULT_INTERIOR);
        ENSURE(allocates(frames[0]));
        ENSURE(seen.freed.count == 0 && seen.found.count > 0);
        free_deep(heap, block, DEEP);
        free_deep(heap, block, DEEP);
        ENSURE_EQ(seen.kind, DMI_FAULT_FREE);
        ENSURE(allocates(frames[0]));
        ENSURE(frees(frames[1]));
        ENSURE(frees(frames[2]));
    }
    void *deep = allocate_deep(heap, 60);
    free_deep(heap, deep, DEEP);
    free_deep(heap, deep, DEEP);
    ENSURE_EQ(seen.allocated.count, DMI_TRACE_FRAMES);
    ENSURE_EQ(seen.allocated.cut, 1);
    dmi_set_fault_handler(NULL, NULL);
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
}

static bool is_of(const dmi_trace *trace, const void *function) {
    for (size_t i = 0; trace && i < trace->count; i++)
        if ((uintptr_t)trace->frame[i] - (uintptr_t)function < 256) return true;
    return false;
}
static bool is_deep(const dmi_trace *trace) {
    bool apart = is_of(trace, (const void *)(uintptr_t)allocate_apart);
    ENSURE(is_of(trace, (const void *)(uintptr_t)allocate_deep) == !apart);
    return !apart;
}

/* Each slot has stacks of its own, and a block that is in it anew has not those of the last one. */
TEST_EACH_PAGE(each_slot_keeps_its_own_stacks) {
    static void *block[DMI_GUARDED_SLOTS];
    const dmi_trace *allocated, *freed;
    void *heap = create("never", DMI_HEAP_NO_LFH, 1);
    for (size_t i = 0; i < DMI_GUARDED_SLOTS; i++) {
        block[i] = i % 2 ? allocate_deep(heap, DEEP) : allocate_apart(heap, DEEP);
        _dmi_guarded_traces(run_of(block[i]), &allocated, &freed);
        ENSURE(!freed && is_deep(allocated) == (i % 2 == 1));
    }
    for (size_t i = 0; i < DMI_GUARDED_SLOTS; i++) {
        if (i % 3 == 0) free_deep(heap, block[i], DEEP);
        _dmi_guarded_traces(run_of(block[i]), &allocated, &freed);
        ENSURE(is_deep(allocated) == (i % 2 == 1));
        ENSURE(is_of(freed, (const void *)(uintptr_t)free_deep) == (i % 3 == 0));
    }
    void *again = allocate_deep(heap, DEEP);
    ENSURE(again == block[0]);
    _dmi_guarded_traces(run_of(again), &allocated, &freed);
    ENSURE(!freed && is_deep(allocated));
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
}
