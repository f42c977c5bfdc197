/* test_fault.c - a fixed scenario in which the nth call to the system fails, for every n, once or for good:
 * what fails says so and changes nothing, and afterwards everything can still be given back. */
#include <errno.h>

#include "heaps.h"

#define BLOCKS 120

static heaps_block table[BLOCKS];

/* What must hold after every step, whatever failed. */
static void closes(void *heap) {
    dmi_fault fault = {.size = sizeof fault};
    ENSURE_EQ(dmi_heap_validate(heap, &fault), 0);
    dmi_stats s = heaps_stats(heap);
    ENSURE_EQ(s.reserved, s.uncommitted + s.committed);
    ENSURE_EQ(s.committed,
              s.busy + s.free_lfh + s.free_list + s.free_pages + s.offered + s.overhead);
    uint64_t busy = 0, blocks = 0;
    for (size_t i = 0; i < BLOCKS; i++)
        if (table[i].at) {
            busy += dmi_usable_size(table[i].at);
            blocks++;
        }
    ENSURE_EQ(s.busy, busy);
    ENSURE_EQ(s.busy_blocks, blocks);
}

static unsigned failures;

/* The scenario's steps are the same in every run, but for what failed. */
static void scenario(void *heap, const char *policy_text) {
    uint64_t seed = 11;
    for (unsigned step = 0; step < 160; step++) {
        errno = 0;
        if (!heaps_step(heap, table, BLOCKS, &seed)) {
            ENSURE_EQ(errno, ENOMEM);
            failures++;
        }
        if (step % 8 == 0) closes(heap);
        if (step % 16 == 3) ENSURE_EQ(dmi_heap_advance(heap, 0.7), 0);
        if (step == 80) {
            dmi_policy other = heaps_policy("eager"), back = heaps_policy(policy_text);
            if (dmi_heap_set_policy(heap, &other)) failures++;
            closes(heap);
            if (dmi_heap_set_policy(heap, &back)) failures++;
            closes(heap);
        }
        if (step == 120) {
            for (size_t i = 0; i < BLOCKS; i += 2)
                if (table[i].at) {
                    dmi_heap_free(heap, table[i].at);
                    table[i].at = NULL;
                }
            ENSURE_EQ(dmi_heap_trim(heap, NULL), 0);
        }
    }
    closes(heap);
}

static const char *policy_of_run;
static uint32_t flags_of_run;

static void every_call_fails_once(bool sticky, size_t stride) {
    uint64_t n = 1, calls = 0;
    void *first = heaps_create("never", 0); /* what a process needs once */
    for (size_t i = 0; i < 200; i++) ENSURE(dmi_heap_malloc(first, 100 + i * i * 7));
    bool again = true;
    for (n = 1; again; n += stride) {
        floors_step = (unsigned long)n;
        dmi_policy policy = heaps_policy(policy_of_run);
        dmi_heap_options options = {.size = sizeof options,
                                    .flags = DMI_HEAP_MANUAL_CLOCK | flags_of_run,
                                    .policy = &policy};
        _dmi_os_fail_at(n, sticky);
        void *heap = dmi_heap_create(&options);
        if (heap) scenario(heap, policy_of_run);
        else ENSURE_EQ(errno, ENOMEM);
        calls = _dmi_os_fallible_calls();
        again = calls >= n;
        _dmi_os_fail_at(0, false);
        if (!heap) continue;
        heaps_free_all(heap, table, BLOCKS);
        ENSURE_EQ(dmi_heap_trim(heap, NULL), 0);
        closes(heap);
        ENSURE(heaps_check(heap).committed <= 4 * PAGE);
        ENSURE_EQ(dmi_heap_destroy(heap), 0);
    }
    ENSURE(calls > 20 && (failures > 0 || !sticky));
}

#define FAULTS(name, policy)                                                                       \
    TEST_EACH_PAGE(name##_once) {                                                                  \
        policy_of_run = policy;                                                                    \
        every_call_fails_once(false, 1);                                                           \
    }                                                                                              \
    TEST_EACH_PAGE(name##_for_good) {                                                              \
        policy_of_run = policy;                                                                    \
        every_call_fails_once(true, 3);                                                            \
    }

FAULTS(lazy_discard, "lazy")
FAULTS(lazy_decommit, "lazy:how=decommit")
FAULTS(eager_decommit, "eager:how=decommit")
FAULTS(lazy_offer, "lazy:how=offer")
FAULTS(decay_discard, "decay")

TEST_EACH_PAGE(huge_pages_once) {
    flags_of_run = DMI_HEAP_HUGE_PAGES;
    policy_of_run = "lazy";
    every_call_fails_once(false, 1);
}

/* A limit of memory instead: what does not fit is refused, and fits again after frees. */
TEST_EACH_PAGE(memory_runs_out_and_comes_back) {
    void *heap = heaps_create("lazy:how=decommit", 0);
    uint64_t seed = 4;
    for (unsigned i = 0; i < 300; i++) ENSURE(heaps_step(heap, table, BLOCKS, &seed));
    unsigned refused = 0;
    for (unsigned round = 0; round < 5; round++) {
        ENSURE_EQ(dmi_heap_trim(heap, NULL), 0);
        _dmi_fake_limit_set(_dmi_fake_committed() + round * 8 * PAGE);
        for (unsigned i = 0; i < 300; i++) {
            refused += !heaps_step(heap, table, BLOCKS, &seed);
            if (i % 10 == 0) closes(heap);
        }
        _dmi_fake_limit_set(0);
        for (unsigned i = 0; i < 100; i++) ENSURE(heaps_step(heap, table, BLOCKS, &seed));
    }
    ENSURE(refused > 0);
    heaps_free_all(heap, table, BLOCKS);
    ENSURE_EQ(dmi_heap_trim(heap, NULL), 0);
    ENSURE(heaps_check(heap).committed <= 4 * PAGE);
}
