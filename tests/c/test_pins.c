/* test_pins.c - walks into an array against walks by calls; pins against what freeing the block sets free. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "heaps.h"

enum { BLOCKS = 1500 };

/* Blocks of many sizes, most of them freed in random order. */
static void churn(void *heap, uint32_t seed, size_t largest) {
    void *blocks[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++) {
        seed = seed * 1664525u + 1013904223u;
        blocks[i] = dmi_heap_malloc(heap, (seed >> 8) % largest + 1);
        ENSURE(blocks[i] != NULL);
    }
    for (size_t i = 0; i < BLOCKS; i++) {
        seed = seed * 1664525u + 1013904223u;
        if ((seed >> 16) % 8) dmi_heap_free(heap, blocks[i]);
    }
}

typedef struct copy {
    dmi_range *out;
    size_t count;
} copy;

static int keep(void *argument, const dmi_range *range) {
    copy *c = argument;
    c->out[c->count++] = *range;
    return 0;
}

TEST_EACH_PAGE(an_array_holds_what_a_visitor_sees) {
    static const char *policies[] = {"never", "eager", "lazy:how=offer", "lazy:how=decommit"};
    for (size_t p = 0; p < sizeof policies / sizeof *policies; p++) {
        void *heap = heaps_create(policies[p], 0);
        churn(heap, 7, 9000);
        churn(heap, 11, 100);
        ENSURE(dmi_heap_malloc(heap, (size_t)32 << 20));
        ENSURE_EQ(dmi_heap_advance(heap, 10), 0);
        size_t capacity = 200000, count = 0;
        copy seen = {.out = calloc(capacity, sizeof(dmi_range))};
        dmi_range *filled = calloc(capacity, sizeof *filled);
        ENSURE(seen.out && filled);
        ENSURE_EQ(dmi_heap_walk(heap, keep, &seen), 0);
        ENSURE_EQ(dmi_heap_walk_array(heap, filled, capacity, &count), 0);
        ENSURE_EQ(count, seen.count);
        ENSURE(memcmp(filled, seen.out, count * sizeof *filled) == 0);
        for (size_t room = 0; room < seen.count; room = room * 3 + 5) {
            memset(filled, 0, capacity * sizeof *filled);
            ENSURE_EQ(dmi_heap_walk_array(heap, filled, room, &count), 0);
            ENSURE_EQ(count, seen.count);
            ENSURE(memcmp(filled, seen.out, room * sizeof *filled) == 0);
            ENSURE_EQ(filled[room].size, 0);
        }
        free(seen.out);
        free(filled);
        heaps_check(heap);
        ENSURE_EQ(dmi_heap_destroy(heap), 0);
        ENSURE(dmi_heap_walk_array(heap, NULL, 0, &count) == -1 && errno == EINVAL);
    }
}

TEST_EACH_PAGE(a_freed_block_lets_go_what_it_pinned) {
    for (uint32_t flags = 0; flags <= DMI_HEAP_NO_LFH; flags++) {
        void *heap = heaps_create("never", flags);
        churn(heap, 3, 12000);
        size_t freed = 0, count = 0;
        for (;; freed++) {
            dmi_pin pins[3];
            ENSURE_EQ(dmi_heap_pins(heap, pins, 3, &count), 0);
            if (count == 0) break;
            for (size_t i = 1; i < count && i < 3; i++)
                ENSURE(pins[i - 1].pinned >= pins[i].pinned);
            void *block = (void *)(uintptr_t)pins[0].address;
            ENSURE_EQ(dmi_heap_check(heap, block), DMI_OK);
            ENSURE_EQ(dmi_usable_size(block), pins[0].size);
            uint64_t before = heaps_stats(heap).reclaimable;
            dmi_heap_free(heap, block);
            uint64_t gained = heaps_stats(heap).reclaimable - before;
            ENSURE(gained >= pins[0].pinned);
            /* Its own bytes, old tags, and the tail of a run that held nothing else. */
            ENSURE(gained <= pins[0].pinned + 2 * pins[0].size + 64);
        }
        ENSURE(freed > 0);
        heaps_check(heap);
        ENSURE_EQ(dmi_heap_pins(heap, NULL, 0, NULL), 0);
        ENSURE_EQ(dmi_heap_destroy(heap), 0);
        ENSURE(dmi_heap_pins(heap, NULL, 0, NULL) == -1 && errno == EINVAL);
    }
}
