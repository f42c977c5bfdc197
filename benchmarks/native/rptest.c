/* rptest.c - several threads replace blocks at random and now and then swap one with whatever
 * another thread left in a letter box, so that some blocks are freed far from home, one at a time.
 *
 * rptest [threads 2] [loops 400] [slots a thread 4000] [replacements a loop 10000] [swap one in 8]
 *
 * Sizes follow a power law from 16 to 8,192 bytes. After each loop a tenth of the slots is freed at
 * once.
 */
#include "bench.h"

#include <stdatomic.h>

#define BOXES 256

static _Atomic(void *) boxes[BOXES];

typedef struct work {
    size_t loops, slots, replacements, swap;
    bench_random random;
    uint64_t blocks;
    char apart[64];
} work;

static size_t draw_size(bench_random *random) {
    size_t high = 8192;
    uint64_t bits = bench_next(random);
    for (; high > 64 && (bits & 3); bits >>= 2) high /= 2;
    return bench_between(random, 16, high);
}

static void *run(void *argument) {
    work *self = argument;
    bench_random random = self->random;
    void **slots = bench_malloc(self->slots * sizeof *slots);
    memset(slots, 0, self->slots * sizeof *slots);
    uint64_t blocks = 0;
    for (size_t loop = 0; loop < self->loops; loop++) {
        for (size_t i = 0; i < self->replacements; i++) {
            void **slot = &slots[bench_below(&random, self->slots)];
            free(*slot);
            *slot = bench_malloc(draw_size(&random));
            blocks++;
            if (bench_below(&random, self->swap) == 0) {
                _Atomic(void *) *box = &boxes[bench_below(&random, BOXES)];
                *slot = atomic_exchange_explicit(box, *slot, memory_order_acq_rel);
            }
        }
        size_t first = bench_below(&random, self->slots);
        for (size_t i = 0; i < self->slots / 10; i++) {
            void **slot = &slots[(first + i) % self->slots];
            free(*slot);
            *slot = NULL;
        }
    }
    for (size_t i = 0; i < self->slots; i++) free(slots[i]);
    free(slots);
    self->blocks = blocks;
    return NULL;
}

int main(int argc, char **argv) {
    size_t threads = bench_argument(argc, argv, 1, 2);
    size_t loops = bench_argument(argc, argv, 2, 400);
    size_t slots = bench_argument(argc, argv, 3, 4000);
    size_t replacements = bench_argument(argc, argv, 4, 10000);
    size_t swap = bench_argument(argc, argv, 5, 8);
    double start = bench_now();
    work *all = bench_malloc(threads * sizeof *all);
    for (size_t i = 0; i < threads; i++) {
        all[i].loops = loops;
        all[i].slots = slots;
        all[i].replacements = replacements;
        all[i].swap = swap;
        all[i].random = bench_seed(40 + i);
    }
    bench_parallel(threads, run, all, sizeof *all);
    uint64_t blocks = 0;
    for (size_t i = 0; i < threads; i++) blocks += all[i].blocks;
    for (size_t i = 0; i < BOXES; i++) free(atomic_load(&boxes[i]));
    free(all);
    return bench_report("rptest", blocks, bench_now() - start);
}
