/* test_cache.c - caches of threads: blocks that others free, threads that sleep, end, or are moved to an eager
 * heap, and an OS that cannot stop them. */
#include <errno.h>
#include <stdatomic.h>

#include "heaps.h"

#define BLOCKS 3000

static void *heap;
static void *blocks[BLOCKS];
static size_t block_size;

/* Orders for a thread: what it does next, one word after the other. */
typedef enum order { WAIT, ALLOCATE, FREE_ALL, FREE_MOST, TOUCH, END } order;
static _Atomic(order) orders;
static test_thread *thread;

static void obey(void *unused) {
    (void)unused;
    for (;;) {
        order next = atomic_load(&orders);
        if (next == WAIT) {
            test_yield();
            continue;
        }
        for (size_t i = 0; i < BLOCKS; i++) {
            if (next == ALLOCATE) ENSURE((blocks[i] = dmi_heap_malloc(heap, block_size)));
            if (next == FREE_ALL || (next == FREE_MOST && i >= BLOCKS / 100)) {
                dmi_heap_free(heap, blocks[i]);
                blocks[i] = NULL;
            }
        }
        if (next == TOUCH) dmi_heap_free(heap, dmi_heap_malloc(heap, block_size));
        atomic_store(&orders, WAIT);
        if (next == END) return;
    }
}

static void order_done(order what) {
    if (!thread) thread = test_thread_start(obey, NULL);
    atomic_store(&orders, what);
    while (atomic_load(&orders) != WAIT) test_yield();
    if (what != END) return;
    test_thread_join(thread);
    thread = NULL;
}

static void begin(const char *policy) {
    heap = heaps_create(policy, 0);
    block_size = 112;
    for (int i = 0; i < 20; i++)
        ENSURE(dmi_heap_malloc(heap, block_size)); /* the bucket is active */
}

static void finish(void) {
    for (size_t i = 0; i < BLOCKS; i++) dmi_heap_free(heap, blocks[i]);
    ENSURE_EQ(dmi_heap_trim(heap, NULL), 0);
    ENSURE_EQ(heaps_check(heap).busy_blocks, 20);
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
}

/* Runs that are begun beside those that wait to be used again. */
static uint64_t slack(void) {
    return 2 * _dmi_bucket_run(_dmi_bucket(block_size), SIZE_MAX) + 4 * PAGE;
}

TEST_EACH_PAGE(blocks_that_another_thread_freed_come_back) {
    begin("never");
    for (size_t i = 0; i < BLOCKS; i++) ENSURE((blocks[i] = dmi_heap_malloc(heap, block_size)));
    uint64_t committed = heaps_check(heap).committed;
    for (int round = 0; round < 10; round++) {
        order_done(FREE_ALL);
        ENSURE_EQ(heaps_check(heap).busy_blocks, 20);
        for (size_t i = 0; i < BLOCKS; i++) ENSURE((blocks[i] = dmi_heap_malloc(heap, block_size)));
        ENSURE(heaps_check(heap).committed <= committed + slack());
    }
    order_done(END);
    finish();
}

TEST_EACH_PAGE(a_sleeping_thread_strands_no_memory) {
    begin("lazy:delay=1");
    order_done(ALLOCATE);
    uint64_t full = heaps_check(heap).committed;
    order_done(FREE_MOST);
    ENSURE_EQ(heaps_check(heap).busy_blocks, 20 + BLOCKS / 100);
    /* It does nothing from here on. */
    ENSURE_EQ(dmi_heap_advance(heap, 2.5), 0);
    dmi_stats s = heaps_check(heap);
    ENSURE_EQ(s.reclaimable, 0);
    ENSURE(s.reason_in_flight <= 2 * PAGE);
    ENSURE(s.committed <= s.page_bound + 6 * PAGE && s.committed < full);
    /* Others free what it holds. */
    for (size_t i = 0; i < BLOCKS; i++) {
        dmi_heap_free(heap, blocks[i]);
        blocks[i] = NULL;
    }
    ENSURE_EQ(heaps_check(heap).busy_blocks, 20);
    ENSURE_EQ(dmi_heap_advance(heap, 2.5), 0);
    ENSURE(heaps_check(heap).committed <= 8 * PAGE);
    /* It wakes, and finds everything in order. */
    for (int round = 0; round < 5; round++) {
        order_done(ALLOCATE);
        ENSURE_EQ(heaps_check(heap).busy_blocks, 20 + BLOCKS);
        order_done(FREE_ALL);
        ENSURE_EQ(dmi_heap_trim(heap, NULL), 0);
        ENSURE(heaps_check(heap).committed <= 8 * PAGE);
    }
    order_done(END);
    finish();
}

TEST_EACH_PAGE(what_an_ended_thread_had_is_used_by_others) {
    begin("never");
    order_done(ALLOCATE);
    order_done(FREE_MOST);
    order_done(END);
    uint64_t committed = heaps_check(heap).committed;
    ENSURE_EQ(heaps_check(heap).busy_blocks, 20 + BLOCKS / 100);
    for (size_t i = 0; i < BLOCKS; i++)
        if (!blocks[i]) ENSURE((blocks[i] = dmi_heap_malloc(heap, block_size)));
    ENSURE(heaps_check(heap).committed <= committed + slack());
    /* The next thread takes the record of the one that ended. */
    order_done(FREE_ALL);
    order_done(ALLOCATE);
    order_done(END);
    ENSURE_EQ(heaps_check(heap).busy_blocks, 20 + BLOCKS);
    finish();
}

TEST_EACH_PAGE(a_heap_that_becomes_eager_takes_the_caches_over) {
    begin("never");
    order_done(ALLOCATE);
    order_done(FREE_MOST);
    dmi_policy eager = heaps_policy("eager"), never = heaps_policy("never");
    ENSURE_EQ(dmi_heap_set_policy(heap, &eager), 0);
    dmi_stats s = heaps_check(heap);
    ENSURE(s.reclaimable <= 2 * PAGE && s.reason_in_flight <= 2 * PAGE);
    order_done(TOUCH);
    for (size_t i = 0; i < BLOCKS; i++) {
        dmi_heap_free(heap, blocks[i]);
        blocks[i] = NULL;
        if (i % 500 == 0) ENSURE_EQ(heaps_check(heap).reason_in_flight, 0);
    }
    ENSURE(heaps_check(heap).committed <= 8 * PAGE);
    order_done(ALLOCATE);
    ENSURE_EQ(dmi_heap_set_policy(heap, &never), 0);
    order_done(FREE_ALL);
    ENSURE_EQ(heaps_check(heap).busy_blocks, 20);
    order_done(END);
    finish();
}

TEST_EACH_PAGE(a_destroyed_heap_leaves_the_threads_that_used_it) {
    for (int round = 0; round < 5; round++) {
        begin(round % 2 ? "lazy" : "eager");
        order_done(ALLOCATE);
        ENSURE_EQ(dmi_heap_destroy(heap), 0);
    }
    begin("never");
    order_done(ALLOCATE);
    order_done(FREE_ALL);
    order_done(END);
    finish();
}

/* ---- looks at memory that goes ------------------------------------------------------------------------- */

#define LARGE ((size_t)700 << 10)
static _Atomic(uintptr_t) seen[8];
static _Atomic(bool) looking, done;

/* Frees what is no block, all the time: mostly the inside of something that just went, or goes. */
static void free_wrongly(void *unused) {
    (void)unused;
    while (!atomic_load(&done)) {
        dmi_heap_free(heap, dmi_heap_malloc(heap, block_size));
        atomic_store(&looking, true);
        for (int i = 0; i < 80; i++) {
            uintptr_t address = atomic_load(&seen[i % 8]);
            if (address) ENSURE(dmi_heap_free_checked(heap, (void *)(address + 8)) != DMI_OK);
        }
    }
}

static void segments_go_under_a_look(void) {
    begin("never");
    test_thread *looker = test_thread_start(free_wrongly, NULL);
    /* Its subsegment must not lie in the segments that are to go. */
    while (!atomic_load(&looking)) test_yield();
    unsigned went = 0;
    /* One that somebody looks at stays, and that is most of the time. */
    for (int round = 0; round < 400 || (went <= 10 && round < 100000); round++) {
        void *large[8];
        for (int i = 0; i < 8; i++) {
            ENSURE((large[i] = dmi_heap_malloc(heap, LARGE)));
            atomic_store(&seen[i], (uintptr_t)large[i]);
        }
        uint64_t reserved = heaps_stats(heap).reserved;
        for (int i = 0; i < 8; i++) dmi_heap_free(heap, large[i]);
        ENSURE_EQ(dmi_heap_trim(heap, NULL), 0);
        went += heaps_stats(heap).reserved < reserved;
    }
    ENSURE(went > 10);
    atomic_store(&done, true);
    test_thread_join(looker);
    finish();
}

static unsigned found;

static void count_report(const dmi_fault_report *report, void *unused) {
    (void)report, (void)unused;
    found++;
}

/* Two blocks side by side, the last ones that were handed out. */
static char *allocate_two(void) {
    char *block = dmi_heap_malloc(heap, block_size), *next = dmi_heap_malloc(heap, block_size);
    while (next != block + block_size) {
        block = next;
        ENSURE((next = dmi_heap_malloc(heap, block_size)));
    }
    return block;
}

/* Free an address that is none but leads to that block: it is found when it would be handed out, and the block behind is
 * not written to. */
static void free_and_find(char *block, uintptr_t address) {
    unsigned char was[112], *next = (unsigned char *)block + block_size;
    for (size_t i = 0; i < sizeof was; i++) was[i] = next[i] = (unsigned char)(i + 1);
    found = 0;
    dmi_heap_free(heap, (void *)address);
    ENSURE(memcmp(next, was, sizeof was) == 0);
    char *got = dmi_heap_malloc(heap, block_size);
    ENSURE(got && (got + block_size <= block || got >= block + 2 * block_size));
    ENSURE_EQ(found, 1);
}

TEST_EACH_PAGE(what_a_wrong_free_writes_lies_within_its_block) {
    begin("never");
    dmi_set_fault_handler(count_report, NULL);
    for (uintptr_t off = 1; off < block_size; off++) {
        char *block = allocate_two();
        free_and_find(block, (uintptr_t)block + off);
    }
    for (unsigned bit = DMI_ADDRESS_BITS; bit < 63; bit++) { /* bits that no address has */
        char *block = allocate_two();
        free_and_find(block, (uintptr_t)block | (uintptr_t)1 << bit);
    }
    dmi_set_fault_handler(NULL, NULL);
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
}

TEST_EACH_PAGE(a_wrong_free_survives_that_its_segment_goes) { segments_go_under_a_look(); }

/* ---- an OS without a barrier --------------------------------------------------------------------------- */

static int refuse(void) { return ENOSYS; }

static void use_without_barrier(void) {
    static dmi_os_backend backend;
    backend = _dmi_fake_backend;
    backend.barrier_setup = backend.barrier = refuse;
    _dmi_os_use(&backend);
}

TEST_EACH_PAGE(without_a_barrier_a_wrong_free_survives_too) {
    use_without_barrier();
    segments_go_under_a_look();
}

TEST_EACH_PAGE(without_a_barrier_nobody_is_stopped_and_nothing_breaks) {
    use_without_barrier();
    begin("lazy:delay=1");
    order_done(ALLOCATE);
    order_done(FREE_MOST);
    dmi_stats s = heaps_stats(heap);
    ENSURE_EQ(s.committed,
              s.busy + s.free_lfh + s.free_list + s.free_pages + s.offered + s.overhead);
    ENSURE_EQ(s.busy_blocks, 20 + BLOCKS / 100);
    errno = 0;
    ENSURE(dmi_heap_validate(heap, NULL) == -1 && errno == ENOTSUP);
    ENSURE_EQ(dmi_heap_advance(heap, 3), 0);
    ENSURE_EQ(dmi_heap_trim(heap, NULL), 0);
    ENSURE_EQ(heaps_stats(heap).busy_blocks, 20 + BLOCKS / 100);
    order_done(END);
    ENSURE_EQ(dmi_heap_trim(heap, NULL), 0); /* now its cache can be had */
    s = heaps_check(heap);
    ENSURE_EQ(s.reclaimable, 0);
    finish();
}
