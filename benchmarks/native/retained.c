/* retained.c - what is still resident after a peak, against what no allocator can go below.
 *
 * retained [pattern r] [seconds 12] [MiB at the peak 600]
 *
 * Log-normal blocks grow to the peak; a tenth of the bytes stays live. What goes is
 *   r   drawn at random, in random order
 *   c   contiguous stretches: of each 10,000 blocks in the order of their birth, 9,000
 *   p   the peak's blocks only: a tenth lived before it and was being replaced while it grew, one
 *       block for each 32 new ones
 * Then a trickle of 1,000 replacements and 1,000 short-lived blocks a second for so many seconds,
 * as a service that is nearly idle. Each second one line: second, resident, page bound, ratio,
 * lazily freed (bytes); at the end name, blocks allocated, seconds without the trickle.
 */
#include "peak.h"

#define STRETCH 10000
#define TICKS 50 /* a second */
#define TICK_BLOCKS 20

static void grow(peak_blocks *set, uint64_t bytes, bench_random *random) {
    while (set->bytes < bytes) peak_add(set, peak_make(random));
}

static void peak_at_random(peak_blocks *live, uint64_t peak, bench_random *random) {
    grow(live, peak, random);
    while (live->bytes > peak / 10) peak_drop(live, bench_below(random, live->count));
}

static void peak_in_stretches(peak_blocks *live, uint64_t peak, bench_random *random) {
    grow(live, peak, random);
    size_t kept = 0;
    for (size_t i = 0; i < live->count; i++) {
        if (i % STRETCH < STRETCH / 10) {
            live->block[kept++] = live->block[i];
        } else {
            free(live->block[i].address);
            live->bytes -= live->block[i].size;
        }
    }
    live->count = kept;
}

static void peak_on_top(peak_blocks *live, uint64_t peak, bench_random *random, uint64_t *blocks) {
    peak_blocks extra;
    peak_open(&extra, peak);
    grow(live, peak / 10, random);
    while (live->bytes + extra.bytes < peak) {
        for (size_t i = 0; i < 32; i++) peak_add(&extra, peak_make(random));
        peak_replace(live, bench_below(random, live->count), random);
    }
    *blocks += extra.count;
    peak_drop_all(&extra);
}

static void trickle(peak_blocks *live, bench_random *random, double until) {
    while (bench_now() < until) {
        for (size_t i = 0; i < TICK_BLOCKS; i++) {
            peak_replace(live, bench_below(random, live->count), random);
            free(peak_make(random).address);
        }
        struct timespec pause = {0, 1000000000 / TICKS};
        nanosleep(&pause, NULL);
    }
}

int main(int argc, char **argv) {
    const char *pattern = argc > 1 ? argv[1] : "r";
    size_t seconds = bench_argument(argc, argv, 2, 12);
    uint64_t peak = (uint64_t)bench_argument(argc, argv, 3, 600) << 20;
    if (strlen(pattern) != 1 || !strchr("rcp", *pattern)) {
        fprintf(stderr, "retained: no pattern '%s'; r, c, p\n", pattern);
        return 2;
    }

    static peak_blocks live;
    static peak_pages pages;
    peak_open(&live, peak);
    peak_pages_open(&pages, peak);
    bench_random random = bench_seed(600);
    uint64_t blocks = 0;

    double start = bench_now();
    if (*pattern == 'r') peak_at_random(&live, peak, &random);
    else if (*pattern == 'c') peak_in_stretches(&live, peak, &random);
    else peak_on_top(&live, peak, &random, &blocks);
    double took = bench_now() - start;

    double after = bench_now();
    for (size_t second = 0;; second++) {
        peak_pages_clear(&pages);
        peak_pages_add(&pages, &live);
        peak_print((double)second, &pages);
        if (second == seconds) break;
        trickle(&live, &random, after + (double)(second + 1));
    }
    blocks += live.count;
    peak_drop_all(&live);
    char name[16];
    snprintf(name, sizeof name, "retained_%s", pattern);
    return bench_report(name, blocks, took);
}
