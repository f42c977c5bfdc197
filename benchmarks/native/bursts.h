/* bursts.h - the work of sh6 and sh8: bursts of equal blocks whose size changes from burst to
 * burst, each burst freed in another order while the next one is already being allocated.
 */
#ifndef BURSTS_H
#define BURSTS_H

#include "bench.h"

#define BURST_WINDOW 64 /* bursts that live at once */

typedef struct burst {
    void **blocks;
    size_t count;
} burst;

/* Small sizes get long bursts: a burst holds at most about 64 KiB. */
static inline size_t burst_length(size_t size) {
    size_t length = 65536 / size;
    return length > 600 ? 600 : length < 8 ? 8 : length;
}

/* Free one burst: forwards, backwards, every second one and then the rest, or shuffled. */
static inline void burst_free(burst *old, bench_random *random) {
    size_t n = old->count;
    void **blocks = old->blocks;
    switch (bench_below(random, 4)) {
    case 0:
        for (size_t i = 0; i < n; i++) free(blocks[i]);
        break;
    case 1:
        for (size_t i = n; i-- > 0;) free(blocks[i]);
        break;
    case 2:
        for (size_t i = 0; i < n; i += 2) free(blocks[i]);
        for (size_t i = 1; i < n; i += 2) free(blocks[i]);
        break;
    default:
        for (size_t left = n; left > 0; left--) {
            size_t pick = bench_below(random, left);
            free(blocks[pick]);
            blocks[pick] = blocks[left - 1];
        }
    }
    free(blocks);
    old->blocks = NULL;
}

/* Run `bursts` bursts of sizes up to max_size; small ones are drawn far more often. Returns the
 * number of blocks allocated. */
static inline uint64_t bursts_run(size_t bursts, size_t max_size, bench_random *random) {
    burst window[BURST_WINDOW] = {{NULL, 0}};
    uint64_t blocks = 0;
    for (size_t i = 0; i < bursts; i++) {
        size_t limit = max_size;
        while (limit > 32 && bench_next(random) & 1) limit /= 2;
        size_t size = bench_between(random, 1, limit);
        burst *slot = &window[bench_below(random, BURST_WINDOW)];
        burst made;
        made.count = burst_length(size);
        made.blocks = bench_malloc(made.count * sizeof(void *));
        for (size_t k = 0; k < made.count; k++) made.blocks[k] = bench_malloc(size);
        blocks += made.count + 1;
        if (slot->blocks) burst_free(slot, random);
        *slot = made;
    }
    for (size_t i = 0; i < BURST_WINDOW; i++)
        if (window[i].blocks) burst_free(&window[i], random);
    return blocks;
}

#endif
