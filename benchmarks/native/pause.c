/* pause.c - how long one malloc takes while much memory is given back.
 *
 * pause [MiB to give back 1024] [slots of 50 ms 80] [threads 8] [one byte in so many stays 40]
 *
 * Each thread allocates its share of log-normal blocks and frees all but one byte in 40 at random, so
 * that about as many bytes wait on free pages as were asked for. From then on all of them allocate without a
 * rest: random replacement in 1,000 places, 16 to 1,024 bytes by a power law, one in 256 up to 40,000
 * bytes. Each malloc is timed by the processor's counter where it has one, else by the monotonic clock:
 * time on the wall, preemption and page faults included, which every allocator and policy has.
 *
 * Prints a line for each slot of 50 ms: slot, resident bytes at its end, and how many mallocs took how
 * long, as `bucket:count`; bucket b holds 2^(b/4) to 2^((b+1)/4) ns. The last line is `longest` and the
 * longest malloc of all in ns, then name, mallocs timed, seconds.
 */
#include "peak.h"

#define SLOT_NS 50000000u
#define SLOTS_MAX 1200
#define BUCKETS 160
#define PLACES 1000

typedef struct worker {
    uint32_t (*counts)[BUCKETS]; /* by slot */
    uint64_t longest, mallocs;   /* ticks */
    size_t index;
} worker;

static worker all[64];
static pthread_barrier_t step;
static size_t threads, slots, survive;
static uint64_t share, begin_ticks;
static double ticks_per_ns;

static inline uint64_t ticks(void) {
#if defined(__x86_64__)
    unsigned processor;
    return __builtin_ia32_rdtscp(&processor);
#else
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
#endif
}

static void calibrate(void) {
    double start = bench_now();
    uint64_t from = ticks();
    while (bench_now() < start + 0.1) {
    }
    ticks_per_ns = (double)(ticks() - from) / ((bench_now() - start) * 1e9);
}

static size_t bucket_of(uint64_t taken) {
    double ns = (double)taken / ticks_per_ns;
    int exponent;
    if (ns < 1) return 0;
    double mantissa = frexp(ns, &exponent); /* [0.5, 1) */
    size_t quarter = mantissa < 0.5946035575013605   ? 0
                     : mantissa < 0.7071067811865476 ? 1
                     : mantissa < 0.8408964152537145 ? 2
                                                     : 3;
    size_t bucket = (size_t)(exponent - 1) * 4 + quarter;
    return bucket < BUCKETS ? bucket : BUCKETS - 1;
}

static size_t size_of(bench_random *random) {
    if (bench_below(random, 256) == 0) return bench_between(random, 1025, 40000);
    return bench_between(random, 16, (size_t)16 << bench_below(random, 7));
}

static void *work(void *argument) {
    worker *self = argument;
    bench_random random = bench_seed(900 + self->index);
    peak_blocks peak;
    peak_open(&peak, share);
    while (peak.bytes < share) peak_add(&peak, peak_make(&random));
    while (peak.bytes > share / survive) peak_drop(&peak, bench_below(&random, peak.count));
    void **place = peak_map(PLACES * sizeof *place);
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step); /* begin_ticks is set */

    double per_slot = ticks_per_ns * SLOT_NS;
    uint64_t end = begin_ticks + (uint64_t)(per_slot * (double)slots), now = ticks();
    while (now < end) {
        size_t at = bench_below(&random, PLACES), size = size_of(&random);
        free(place[at]);
        uint64_t from = ticks();
        void *block = malloc(size);
        now = ticks();
        if (!block) bench_fail("out of memory");
        bench_touch(block, size);
        place[at] = block;
        uint64_t taken = now - from;
        if (taken > self->longest) self->longest = taken;
        size_t slot = (size_t)((double)(now - begin_ticks) / per_slot);
        if (slot < slots) self->counts[slot][bucket_of(taken)]++;
        self->mallocs++;
    }
    for (size_t i = 0; i < PLACES; i++) free(place[i]);
    peak_drop_all(&peak);
    return NULL;
}

/* Cheap, unlike peak_read, which would hold up the page faults that are measured. */
static uint64_t resident_now(void) {
    char text[128];
    int file = open("/proc/self/statm", O_RDONLY);
    ssize_t got = file < 0 ? -1 : read(file, text, sizeof text - 1);
    if (got <= 0) bench_fail("/proc/self/statm cannot be read");
    close(file);
    text[got] = 0;
    char *second = strchr(text, ' ');
    return (second ? strtoull(second, NULL, 10) : 0) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void sleep_until(uint64_t when) {
    uint64_t now = ticks();
    if (now >= when) return;
    double ns = (double)(when - now) / ticks_per_ns;
    struct timespec pause = {(time_t)(ns / 1e9), (long)fmod(ns, 1e9)};
    nanosleep(&pause, NULL);
}

int main(int argc, char **argv) {
    uint64_t bytes = (uint64_t)bench_argument(argc, argv, 1, 1024) << 20;
    slots = bench_argument(argc, argv, 2, 80);
    threads = bench_argument(argc, argv, 3, 8);
    survive = bench_argument(argc, argv, 4, 40);
    if (threads > 64) bench_fail("at most 64 threads");
    if (slots > SLOTS_MAX) bench_fail("at most 1200 slots");
    share = bytes / threads / 100 * 113; /* what survives keeps some pages */
    calibrate();

    static pthread_t handles[64];
    static uint64_t resident[SLOTS_MAX];
    pthread_barrier_init(&step, NULL, (unsigned)threads + 1);
    for (size_t i = 0; i < threads; i++) {
        all[i].index = i;
        all[i].counts = peak_map(slots * sizeof *all[i].counts);
    }
    for (size_t i = 0; i < threads; i++) handles[i] = bench_thread(work, &all[i]);
    pthread_barrier_wait(&step);
    double start = bench_now();
    begin_ticks = ticks();
    pthread_barrier_wait(&step);
    for (size_t s = 0; s < slots; s++) {
        sleep_until(begin_ticks + (uint64_t)(ticks_per_ns * SLOT_NS * (double)(s + 1)));
        resident[s] = resident_now();
    }
    for (size_t i = 0; i < threads; i++) bench_join(handles[i]);
    double took = bench_now() - start;

    uint64_t longest = 0, mallocs = 0;
    for (size_t i = 0; i < threads; i++) {
        if (all[i].longest > longest) longest = all[i].longest;
        mallocs += all[i].mallocs;
    }
    for (size_t s = 0; s < slots; s++) {
        printf("%zu %" PRIu64, s, resident[s]);
        for (size_t b = 0; b < BUCKETS; b++) {
            uint64_t count = 0;
            for (size_t i = 0; i < threads; i++) count += all[i].counts[s][b];
            if (count) printf(" %zu:%" PRIu64, b, count);
        }
        printf("\n");
    }
    printf("longest %.0f\n", (double)longest / ticks_per_ns);
    pthread_barrier_destroy(&step);
    return bench_report("pause", mallocs, took);
}
