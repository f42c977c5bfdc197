/* larson.c - a server that never stops: requests replace blocks at random, and the thread that
 * serves them is replaced too, so that most blocks are freed by a thread that did not allocate
 * them.
 *
 * larson [lanes 2] [generations 100] [blocks a lane 5000] [replacements a generation 150000]
 *
 * The main thread allocates everything first and deals the blocks out at random, so that two lanes
 * begin with neighbouring blocks. A lane is a chain of threads: each replaces blocks of 8 to 1,000
 * bytes, starts its successor, hands its blocks over and ends; the successor joins it.
 */
#include "bench.h"

typedef struct lane {
    void **blocks;
    size_t count;
    size_t replacements;
    size_t generations_left;
    bench_random random;
    pthread_t last; /* the thread that ran before this one, or the last one of all at the end */
    int has_last;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    int done;
} lane;

static void *serve(void *argument) {
    lane *self = argument;
    pthread_mutex_lock(&self->lock);
    pthread_t before = self->last;
    int has_before = self->has_last;
    pthread_mutex_unlock(&self->lock);
    if (has_before) bench_join(before);

    bench_random random = self->random;
    for (size_t i = 0; i < self->replacements; i++) {
        size_t victim = bench_below(&random, self->count);
        free(self->blocks[victim]);
        self->blocks[victim] = bench_malloc(bench_between(&random, 8, 1000));
    }
    self->random = random;

    pthread_mutex_lock(&self->lock);
    self->last = pthread_self();
    self->has_last = 1;
    if (--self->generations_left == 0) {
        self->done = 1;
        pthread_cond_signal(&self->changed);
    } else {
        /* Under the lock: the successor reads `last` only when it is written. */
        bench_thread(serve, self);
    }
    pthread_mutex_unlock(&self->lock);
    return NULL;
}

int main(int argc, char **argv) {
    size_t lanes = bench_argument(argc, argv, 1, 2);
    size_t generations = bench_argument(argc, argv, 2, 100);
    size_t count = bench_argument(argc, argv, 3, 5000);
    size_t replacements = bench_argument(argc, argv, 4, 150000);

    double start = bench_now();
    size_t total = lanes * count;
    void **blocks = bench_malloc(total * sizeof *blocks);
    bench_random random = bench_seed(1);
    for (size_t i = 0; i < total; i++) blocks[i] = bench_malloc(bench_between(&random, 8, 1000));
    for (size_t i = total; i > 1; i--) {
        size_t j = bench_below(&random, i);
        void *swap = blocks[i - 1];
        blocks[i - 1] = blocks[j];
        blocks[j] = swap;
    }

    lane *all = bench_malloc(lanes * sizeof *all);
    memset(all, 0, lanes * sizeof *all);
    for (size_t i = 0; i < lanes; i++) {
        all[i].blocks = blocks + i * count;
        all[i].count = count;
        all[i].replacements = replacements;
        all[i].generations_left = generations;
        all[i].random = bench_seed(i + 2);
        pthread_mutex_init(&all[i].lock, NULL);
        pthread_cond_init(&all[i].changed, NULL);
        bench_thread(serve, &all[i]);
    }
    for (size_t i = 0; i < lanes; i++) {
        pthread_mutex_lock(&all[i].lock);
        while (!all[i].done) pthread_cond_wait(&all[i].changed, &all[i].lock);
        pthread_mutex_unlock(&all[i].lock);
        bench_join(all[i].last);
        pthread_mutex_destroy(&all[i].lock);
        pthread_cond_destroy(&all[i].changed);
    }
    for (size_t i = 0; i < total; i++) free(blocks[i]);
    free(blocks);
    free(all);
    return bench_report("larson", lanes * generations * replacements + total, bench_now() - start);
}
