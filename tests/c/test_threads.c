/* test_threads.c - what the subsegments of a heap hold, thread by thread. */
#include "test.h"

#include "heaps.h"

#include <errno.h>
#include <string.h>

#define ROWS 32

typedef struct worker {
    void *heap;
    void *blocks[600];
    size_t count, size;
    bool frees; /* all but the one in the middle */
    atomic_bool ready, may_go;
} worker;

static void work(void *argument) {
    worker *w = argument;
    for (size_t i = 0; i < w->count; i++) w->blocks[i] = dmi_heap_malloc(w->heap, w->size);
    if (w->frees)
        for (size_t i = 0; i < w->count; i++)
            if (i != w->count / 2) dmi_heap_free(w->heap, w->blocks[i]);
    atomic_store(&w->ready, true);
    while (!atomic_load(&w->may_go)) test_sleep_ms(1);
}

static test_thread *start(worker *w) {
    test_thread *thread = test_thread_start(work, w);
    while (!atomic_load(&w->ready)) test_sleep_ms(1);
    return thread;
}

static dmi_thread_usage sum_of(const dmi_thread_usage *rows, size_t count) {
    dmi_thread_usage sum = {0};
    for (size_t i = 0; i < count; i++) {
        sum.committed += rows[i].committed;
        sum.busy += rows[i].busy;
        sum.free += rows[i].free;
        sum.in_flight += rows[i].in_flight;
        sum.unknown += rows[i].unknown;
    }
    return sum;
}

static int sum_lfh(void *argument, const dmi_range *range) {
    dmi_thread_usage *sum = argument;
    if (range->kind != DMI_RANGE_LFH) return 0;
    if (range->state == DMI_STATE_BUSY) sum->busy += range->size;
    if (range->state == DMI_STATE_FREE) sum->free += range->size;
    return 0;
}

/* The rows sum to what the walk says of subsegments. */
static size_t rows_of(void *heap, dmi_thread_usage *rows) {
    size_t count = dmi_heap_threads(heap, rows, ROWS);
    ENSURE(count <= ROWS);
    dmi_thread_usage sum = sum_of(rows, count);
    dmi_stats stats = heaps_stats(heap);
    dmi_thread_usage walked = {0};
    ENSURE_EQ(dmi_heap_walk(heap, sum_lfh, &walked), 0);
    CHECK_EQ(sum.busy, walked.busy);
    CHECK_EQ(sum.free, walked.free);
    CHECK_EQ(sum.free, stats.free_lfh);
    CHECK_EQ(sum.in_flight, stats.reason_in_flight);
    CHECK(sum.committed >= sum.busy + sum.free);
    return count;
}

TEST_EACH_PAGE(each_thread_has_a_row) {
    void *heap = heaps_create("never", 0);
    dmi_thread_usage rows[ROWS];
    CHECK_EQ(dmi_heap_threads(heap, rows, ROWS), 0);
    static worker workers[3];
    test_thread *threads[3];
    for (size_t i = 0; i < 3; i++) {
        memset(&workers[i], 0, sizeof workers[i]);
        workers[i].heap = heap;
        workers[i].count = 150 * (i + 1);
        workers[i].size = 200;
        threads[i] = start(&workers[i]);
    }
    static void *own[200];
    for (size_t i = 0; i < 200; i++) own[i] = dmi_heap_malloc(heap, 100);
    size_t count = rows_of(heap, rows);
    CHECK_EQ(count, 4);
    for (size_t i = 0; i < count; i++) {
        CHECK(rows[i].thread != 0);
        for (size_t k = 0; k < i; k++) CHECK(rows[k].thread != rows[i].thread);
    }
    /* Rows for which there is no room are counted. */
    dmi_thread_usage few[2];
    CHECK_EQ(dmi_heap_threads(heap, few, 1) >= 2, true);
    CHECK(dmi_heap_threads(heap, NULL, 5) >= 2);
    for (size_t i = 0; i < 3; i++) {
        atomic_store(&workers[i].may_go, true);
        test_thread_join(threads[i]);
    }
    /* What threads that ended have left is one row, of the number 0. */
    count = rows_of(heap, rows);
    size_t ended = 0;
    for (size_t i = 0; i < count; i++) ended += rows[i].thread == 0;
    CHECK_EQ(ended, 1);
    CHECK_EQ(count, 2);
    for (size_t i = 0; i < 3; i++)
        for (size_t k = 0; k < workers[i].count; k++) dmi_heap_free(heap, workers[i].blocks[k]);
    for (size_t i = 0; i < 200; i++) dmi_heap_free(heap, own[i]);
    heaps_check(heap);
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
    CHECK_EQ(dmi_heap_threads(heap, rows, ROWS), 0);
}

TEST_EACH_PAGE(an_idle_thread_keeps_a_page_of_each_size) {
    void *heap = heaps_create("never", 0);
    static worker w;
    memset(&w, 0, sizeof w);
    w.heap = heap;
    w.count = 200;
    w.size = 512;
    w.frees = true;
    test_thread *thread = start(&w);
    dmi_thread_usage rows[ROWS];
    size_t count = rows_of(heap, rows);
    CHECK_EQ(count, 1);
    CHECK_EQ(rows[0].busy, 512);
    /* An operation that is under way may touch the head of its list, whose page stays for that. */
    CHECK(rows[0].in_flight > 0);
    CHECK(rows[0].in_flight <= PAGE);
    CHECK(rows[0].in_flight <= rows[0].free);
    CHECK_EQ(rows[0].unknown, 0);
    atomic_store(&w.may_go, true);
    test_thread_join(thread);
    dmi_heap_free(heap, w.blocks[w.count / 2]);
    heaps_check(heap);
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
}
