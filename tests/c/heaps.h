/* heaps.h - what the tests of floors 5 and 6 share: blocks with known contents, and what must hold of a heap
 * between two operations. */
#ifndef DMI_HEAPS_H
#define DMI_HEAPS_H

#include <dmi/dmi.h>

#include "floors.h"
#include "heap/cache.h"
#include "heap/pass.h"
#include "heap/registry.h"
#include "heap/take.h"
#include "heap/visit.h"

#define PAGE (_dmi_os_page_size())

static inline dmi_policy heaps_policy(const char *text) {
    dmi_policy policy = {.size = sizeof policy};
    ENSURE_EQ(dmi_policy_parse(text, &policy, NULL, 0), 0);
    return policy;
}

static inline void *heaps_create(const char *policy_text, uint32_t flags) {
    dmi_policy policy = heaps_policy(policy_text);
    dmi_heap_options options = {
        .size = sizeof options, .flags = flags | DMI_HEAP_MANUAL_CLOCK, .policy = &policy};
    void *heap = dmi_heap_create(&options);
    ENSURE(heap != NULL);
    return heap;
}

static inline dmi_stats heaps_stats(void *heap) {
    dmi_stats stats = {.size = sizeof stats};
    ENSURE_EQ(dmi_heap_stats(heap, &stats, DMI_STATS_DETAIL), 0);
    return stats;
}

typedef struct heaps_sums {
    uint64_t all, busy, uncommitted, offered, overhead, busy_blocks;
    uint64_t next, segment;
} heaps_sums;

static inline int heaps_sum(void *argument, const dmi_range *range) {
    heaps_sums *sums = argument;
    ENSURE(range->size > 0);
    if (range->segment != sums->segment) ENSURE_EQ(range->address, range->segment);
    else ENSURE_EQ(range->address, sums->next);
    sums->segment = range->segment;
    sums->next = range->address + range->size;
    sums->all += range->size;
    switch (range->state) {
    case DMI_STATE_BUSY:
        sums->busy += range->size;
        sums->busy_blocks++;
        break;
    case DMI_STATE_UNCOMMITTED: sums->uncommitted += range->size; break;
    case DMI_STATE_OFFERED: sums->offered += range->size; break;
    case DMI_STATE_OVERHEAD: sums->overhead += range->size; break;
    default: ENSURE_EQ(range->state, DMI_STATE_FREE);
    }
    return 0;
}

/* The waterfall closes, the reasons sum up, the walk says the same, nothing is damaged. */
static inline dmi_stats heaps_check(void *heap) {
    dmi_fault fault = {.size = sizeof fault};
    int damaged = dmi_heap_validate(heap, &fault);
    if (damaged) test_failed(__FILE__, __LINE__, "validate: %d %s", damaged, fault.message);
    ENSURE_EQ(damaged, 0);
    dmi_stats s = heaps_stats(heap);
    ENSURE_EQ(s.reserved, s.uncommitted + s.committed);
    ENSURE_EQ(s.committed,
              s.busy + s.free_lfh + s.free_list + s.free_pages + s.offered + s.overhead);
    ENSURE_EQ(s.free_lfh + s.free_list + s.free_pages, s.reclaimable + s.pinned);
    uint64_t reasons = 0;
#define ADD(name, doc) reasons += s.reason_##name;
    DMI_REASONS(ADD)
#undef ADD
    ENSURE_EQ(reasons, s.committed - s.busy);
    ENSURE(s.page_bound <= s.committed);
    heaps_sums sums = {0};
    ENSURE_EQ(dmi_heap_walk(heap, heaps_sum, &sums), 0);
    ENSURE_EQ(sums.all, s.reserved);
    ENSURE_EQ(sums.busy, s.busy);
    ENSURE_EQ(sums.busy_blocks, s.busy_blocks);
    ENSURE_EQ(sums.uncommitted, s.uncommitted);
    ENSURE_EQ(sums.offered, s.offered);
    floors_check_space(&_dmi_heap_resolve(heap)->space);
    return s;
}

/* ---- blocks with contents ---------------------------------------------------------------------------- */

typedef struct heaps_block {
    unsigned char *at;
    size_t size;
    unsigned char value;
} heaps_block;

static inline void heaps_fill(heaps_block *b) { memset(b->at, b->value, b->size); }

static inline void heaps_intact(const heaps_block *b, size_t size) {
    for (size_t i = 0; i < size; i += i < 64 || i + 64 > size ? 1 : 61)
        ENSURE_EQ(b->at[i], b->value);
    if (size) ENSURE_EQ(b->at[size - 1], b->value);
}

static inline size_t heaps_size(uint64_t *seed) {
    uint64_t r = test_random(seed), how = r % 100;
    size_t most = how < 60 ? 300 : how < 85 ? 5000 : how < 97 ? 60000 : how < 99 ? 400000 : 3000000;
    return (size_t)(r >> 8) % most;
}

/* One random operation on a table of blocks. False: the allocation failed, nothing changed. */
static inline bool heaps_step(void *heap, heaps_block *table, size_t count, uint64_t *seed) {
    uint64_t r = test_random(seed);
    heaps_block *b = &table[(r >> 8) % count];
    if (b->at) heaps_intact(b, b->size);
    if (b->at && r % 4 == 0) {
        size_t size = heaps_size(seed) + 1;
        unsigned char *to = dmi_heap_realloc(heap, b->at, size);
        if (!to) {
            heaps_intact(b, b->size);
            return false;
        }
        b->at = to;
        heaps_intact(b, b->size < size ? b->size : size);
        b->size = size;
        heaps_fill(b);
        return true;
    }
    if (b->at) {
        dmi_heap_free(heap, b->at);
        b->at = NULL;
        return true;
    }
    size_t size = heaps_size(seed), align = 16;
    if (r % 8 == 1) align = (size_t)16 << ((r >> 32) % 14);
    unsigned char *at = r % 8 == 1   ? dmi_heap_aligned_alloc(heap, align, size)
                        : r % 8 == 2 ? dmi_heap_calloc(heap, 1, size)
                                     : dmi_heap_malloc(heap, size);
    if (!at) return false;
    ENSURE_EQ((uintptr_t)at % align, 0);
    ENSURE(dmi_usable_size(at) >= size);
    for (size_t i = 0; r % 8 == 2 && i < size; i++) ENSURE_EQ(at[i], 0);
    *b = (heaps_block){at, size, (unsigned char)(r >> 40)};
    heaps_fill(b);
    return true;
}

static inline void heaps_free_all(void *heap, heaps_block *table, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (!table[i].at) continue;
        heaps_intact(&table[i], table[i].size);
        dmi_heap_free(heap, table[i].at);
        table[i].at = NULL;
    }
}

#endif
