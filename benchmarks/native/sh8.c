/* sh8.c - bursts of mixed sizes on several threads at once, with larger sizes among them.
 *
 * sh8 [threads 2] [bursts a thread 120000] [largest size 8000]
 */
#include "bursts.h"

typedef struct work {
    size_t bursts, max_size;
    bench_random random;
    uint64_t blocks;
    char apart[64]; /* two threads' counters on two cache lines */
} work;

static void *run(void *argument) {
    work *self = argument;
    self->blocks = bursts_run(self->bursts, self->max_size, &self->random);
    return NULL;
}

int main(int argc, char **argv) {
    size_t threads = bench_argument(argc, argv, 1, 2);
    size_t bursts = bench_argument(argc, argv, 2, 120000);
    size_t max_size = bench_argument(argc, argv, 3, 8000);
    double start = bench_now();
    work *all = bench_malloc(threads * sizeof *all);
    for (size_t i = 0; i < threads; i++) {
        all[i].bursts = bursts;
        all[i].max_size = max_size;
        all[i].random = bench_seed(80 + i);
    }
    bench_parallel(threads, run, all, sizeof *all);
    uint64_t blocks = 0;
    for (size_t i = 0; i < threads; i++) blocks += all[i].blocks;
    free(all);
    return bench_report("sh8", blocks, bench_now() - start);
}
