/* sleepers.c - threads that make the peak and then sleep: what they cached, and what others freed
 * of theirs, comes back only if somebody fetches it.
 *
 * sleepers [seconds 8] [threads 8] [MiB in all at the peak 600]
 *
 * Each thread allocates its share of log-normal blocks and frees nine in ten at random: half of
 * them its own, half its neighbour's. Then all of them sleep and nobody allocates. Each second one
 * line: second, resident, page bound, ratio, lazily freed (bytes); at the end name, blocks
 * allocated, seconds without the sleep.
 */
#include "peak.h"

typedef struct sleeper {
    peak_blocks blocks;
    uint64_t share, made;
    size_t index;
} sleeper;

static sleeper *all;
static size_t threads;
static pthread_barrier_t step;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static int morning;

static void drop_down_to(peak_blocks *set, uint64_t bytes, bench_random *random) {
    while (set->bytes > bytes) peak_drop(set, bench_below(random, set->count));
}

static void *work_and_sleep(void *argument) {
    sleeper *self = argument;
    bench_random random = bench_seed(800 + self->index);
    while (self->blocks.bytes < self->share) peak_add(&self->blocks, peak_make(&random));
    self->made = self->blocks.count;
    drop_down_to(&self->blocks, self->share / 100 * 55, &random);
    pthread_barrier_wait(&step);
    drop_down_to(&all[(self->index + 1) % threads].blocks, self->share / 10, &random);
    pthread_barrier_wait(&step);

    pthread_mutex_lock(&lock);
    while (!morning) pthread_cond_wait(&wake, &lock);
    pthread_mutex_unlock(&lock);
    peak_drop_all(&self->blocks);
    return NULL;
}

int main(int argc, char **argv) {
    size_t seconds = bench_argument(argc, argv, 1, 8);
    threads = bench_argument(argc, argv, 2, 8);
    uint64_t peak = (uint64_t)bench_argument(argc, argv, 3, 600) << 20;
    if (threads > 64) bench_fail("at most 64 threads");

    static peak_pages pages;
    static pthread_t handles[64];
    peak_pages_open(&pages, peak);
    all = peak_map(threads * sizeof *all);
    for (size_t i = 0; i < threads; i++) {
        all[i].share = peak / threads;
        all[i].index = i;
        peak_open(&all[i].blocks, all[i].share);
    }
    pthread_barrier_init(&step, NULL, (unsigned)threads + 1);

    double start = bench_now();
    for (size_t i = 0; i < threads; i++) handles[i] = bench_thread(work_and_sleep, &all[i]);
    pthread_barrier_wait(&step);
    pthread_barrier_wait(&step);
    double after = bench_now(), took = after - start;

    for (size_t second = 0;; second++) {
        peak_pages_clear(&pages);
        for (size_t i = 0; i < threads; i++) peak_pages_add(&pages, &all[i].blocks);
        peak_print((double)second, &pages);
        if (second == seconds) break;
        double left = after + (double)(second + 1) - bench_now();
        struct timespec pause = {(time_t)left, (long)((left - floor(left)) * 1e9)};
        if (left > 0) nanosleep(&pause, NULL);
    }

    uint64_t blocks = 0;
    for (size_t i = 0; i < threads; i++) blocks += all[i].made;
    pthread_mutex_lock(&lock);
    morning = 1;
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&lock);
    for (size_t i = 0; i < threads; i++) bench_join(handles[i]);
    pthread_barrier_destroy(&step);
    return bench_report("sleepers", blocks, took);
}
