/* inspect.c - what looking at a heap costs, and what it costs those who are at work beside it.
 *
 * inspect [MiB 1024] [block 64] [seconds of the latency part 2]
 *
 * A heap of that many MiB in blocks of one size is looked at full, and again after half of its blocks were
 * freed at random: stats without detail, the walk into an array, the walk in chunks, find of random
 * addresses. Then two threads allocate and free beside a thread that asks for stats all the time, and
 * without it, in turns; how long a call took is counted in powers of two of nanoseconds.
 */
#include <dmi/dmi.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TURNS 7

static void *heap;
static char **blocks;
static size_t count, size = 64;
static dmi_range *ranges;
static size_t room;

static uint64_t now(clockid_t clock) {
    struct timespec t;
    (void)clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t seed = 88172645463325252u;
static uint64_t any(void) {
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

static void must(int ok, const char *what) {
    if (ok) return;
    (void)fprintf(stderr, "inspect: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* The least, the median and the most of the turns. */
static void tell(const char *what, const char *unit, double *turns, size_t n) {
    qsort(turns, n, sizeof *turns, by_value);
    printf("%-28s %10.3f %10.3f %10.3f  %s\n", what, turns[0], turns[n / 2], turns[n - 1], unit);
}

static void walk_array(const char *what) {
    double turns[TURNS];
    size_t found = 0;
    for (size_t i = 0; i < TURNS; i++) {
        uint64_t from = now(CLOCK_MONOTONIC);
        must(dmi_heap_walk_array(heap, ranges, room, &found) == 0 && found <= room, "walk");
        turns[i] = (double)found * 1e3 / (double)(now(CLOCK_MONOTONIC) - from);
    }
    tell(what, "million ranges/s", turns, TURNS);
}

static void stats(const char *what) {
    double turns[64];
    for (size_t i = 0; i < 64; i++) {
        dmi_stats s = {.size = sizeof s};
        uint64_t from = now(CLOCK_MONOTONIC);
        must(dmi_heap_stats(heap, &s, 0) == 0, "stats");
        turns[i] = (double)(now(CLOCK_MONOTONIC) - from) / 1e3;
    }
    tell(what, "microseconds", turns, 64);
}

static void find(const char *what, int state) {
    double turns[TURNS];
    for (size_t i = 0; i < TURNS; i++) {
        const char *asked[1000];
        for (size_t k = 0; k < 1000; k++) {
            dmi_found found = {.size = sizeof found};
            do {
                asked[k] = blocks[any() % count] + any() % size;
                must(dmi_find(asked[k], &found) == 0, "find");
            } while (found.range.state != (uint32_t)state);
        }
        uint64_t from = now(CLOCK_MONOTONIC);
        for (size_t k = 0; k < 1000; k++) {
            dmi_found found = {.size = sizeof found};
            must(dmi_find(asked[k], &found) == 0, "find");
        }
        turns[i] = (double)(now(CLOCK_MONOTONIC) - from) / 1e3;
    }
    tell(what, "ns", turns, TURNS);
}

/* ---- beside those who are at work ------------------------------------------------------------------- */

typedef struct worker {
    pthread_t thread;
    uint64_t times[40]; /* by the power of two of nanoseconds */
    uint64_t most;
} worker;

static atomic_int stop;

static void note(worker *w, uint64_t ns) {
    w->times[ns ? 63 - __builtin_clzll(ns) : 0]++;
    if (ns > w->most) w->most = ns;
}

/* Bursts, so that slow paths and their locks are met all the time. */
static void *work(void *argument) {
    worker *w = argument;
    static _Thread_local char *mine[4096];
    while (!stop) {
        for (size_t i = 0; i < 4096; i++) {
            uint64_t from = now(CLOCK_THREAD_CPUTIME_ID);
            mine[i] = dmi_heap_malloc(heap, size);
            note(w, now(CLOCK_THREAD_CPUTIME_ID) - from);
        }
        for (size_t i = 0; i < 4096; i++) dmi_heap_free(heap, mine[i]);
    }
    return NULL;
}

static void *ask(void *argument) {
    uint64_t *asked = argument;
    while (!stop) {
        dmi_stats s = {.size = sizeof s};
        must(dmi_heap_stats(heap, &s, 0) == 0, "stats");
        must(s.reserved == s.uncommitted + s.committed &&
                 s.committed ==
                     s.busy + s.free_lfh + s.free_list + s.free_pages + s.offered + s.overhead,
             "the waterfall does not close");
        ++*asked;
    }
    return NULL;
}

static void latencies(unsigned seconds) {
    uint64_t times[2][40] = {{0}}, most[2] = {0}, asked = 0;
    for (unsigned turn = 0; turn < 2 * seconds; turn++) {
        worker w[2];
        pthread_t asker;
        memset(w, 0, sizeof w);
        stop = 0;
        if (turn % 2) must(pthread_create(&asker, NULL, ask, &asked) == 0, "thread");
        for (size_t i = 0; i < 2; i++)
            must(pthread_create(&w[i].thread, NULL, work, &w[i]) == 0, "thread");
        struct timespec rest = {.tv_sec = 1};
        (void)nanosleep(&rest, NULL);
        stop = 1;
        if (turn % 2) (void)pthread_join(asker, NULL);
        for (size_t i = 0; i < 2; i++) {
            (void)pthread_join(w[i].thread, NULL);
            for (size_t k = 0; k < 40; k++) times[turn % 2][k] += w[i].times[k];
            if (w[i].most > most[turn % 2]) most[turn % 2] = w[i].most;
        }
    }
    printf("\none malloc, CPU time of its thread; %llu stats beside it\n%12s %14s %14s\n",
           (unsigned long long)asked, "ns up to", "without", "with stats");
    for (size_t k = 0; k < 40; k++)
        if (times[0][k] || times[1][k])
            printf("%12llu %14llu %14llu\n", 2ull << k, (unsigned long long)times[0][k],
                   (unsigned long long)times[1][k]);
    printf("%12s %14llu %14llu\n", "most", (unsigned long long)most[0],
           (unsigned long long)most[1]);
}

int main(int argc, char **argv) {
    size_t mib = argc > 1 ? strtoull(argv[1], NULL, 0) : 1024;
    if (argc > 2) size = strtoull(argv[2], NULL, 0);
    unsigned seconds = argc > 3 ? (unsigned)strtoul(argv[3], NULL, 0) : 2;
    dmi_policy never = {.size = sizeof never};
    must(dmi_policy_parse("never", &never, NULL, 0) == 0, "policy");
    dmi_heap_options options = {.size = sizeof options, .policy = &never};
    heap = dmi_heap_create(&options);
    must(heap != NULL, "heap");
    count = (mib << 20) / size;
    blocks = malloc(count * sizeof *blocks);
    room = count + count / 8 + 100000;
    ranges = calloc(room, sizeof *ranges);
    must(blocks && ranges, "memory");
    memset(ranges, 1, room * sizeof *ranges);
    for (size_t i = 0; i < count; i++) {
        blocks[i] = dmi_heap_malloc(heap, size);
        must(blocks[i] != NULL, "malloc");
        memset(blocks[i], (int)i, size);
    }
    printf("%zu MiB in blocks of %zu bytes\n%-28s %10s %10s %10s\n", mib, size, "", "least",
           "median", "most");
    stats("stats, full");
    walk_array("walk_array, full");
    find("find, busy", DMI_STATE_BUSY);
    for (size_t i = count; i-- > 1;) {
        size_t other = any() % (i + 1);
        char *kept = blocks[i];
        blocks[i] = blocks[other];
        blocks[other] = kept;
    }
    for (size_t i = 0; i < count / 2; i++) dmi_heap_free(heap, blocks[i]);
    stats("stats, half free");
    walk_array("walk_array, half free");
    find("find, busy, half free", DMI_STATE_BUSY);
    find("find, free, half free", DMI_STATE_FREE);
    if (seconds) latencies(seconds);
    return dmi_heap_destroy(heap) != 0;
}
