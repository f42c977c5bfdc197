/* mstress.c - generations of threads with objects of every age: most die at once, some live as long
 * as their thread, some are handed to a thread that is not born yet.
 *
 * mstress [threads 2] [generations 100] [objects a thread 100000]
 *
 * An object is an array of words that know their own address, so that a block handed out twice is
 * found.
 */
#include "bench.h"

#include <stdatomic.h>

#define HANDED_ON 20000
#define KEPT 30000

typedef struct object {
    size_t words;
    uintptr_t word[];
} object;

static _Atomic(object *) handed_on[HANDED_ON];

typedef struct work {
    size_t objects;
    bench_random random;
    uint64_t blocks;
    char apart[64];
} work;

static object *make(bench_random *random) {
    uint64_t bits = bench_next(random);
    size_t words = 1 + (bits & 7);
    if ((bits & 0x30) == 0) words *= 8;
    if ((bits & 0x7fc0) == 0) words *= 64; /* one in 512: up to 32 KiB */
    object *made = malloc(sizeof *made + words * sizeof made->word[0]);
    if (!made) bench_fail("out of memory");
    made->words = words;
    for (size_t i = 0; i < words; i++) made->word[i] = (uintptr_t)made ^ i;
    return made;
}

static void drop(object *old) {
    if (!old) return;
    for (size_t i = 0; i < old->words; i++)
        if (old->word[i] != ((uintptr_t)old ^ i)) bench_fail("an object was overwritten");
    free(old);
}

static void *live(void *argument) {
    work *self = argument;
    bench_random random = self->random;
    object **kept = bench_malloc(KEPT * sizeof *kept);
    memset(kept, 0, KEPT * sizeof *kept);
    object *recent[16] = {NULL};
    for (size_t i = 0; i < self->objects; i++) {
        object *made = make(&random);
        size_t fate = bench_below(&random, 100);
        if (fate < 75) {
            object **slot = &recent[i % 16];
            drop(*slot);
            *slot = made;
        } else if (fate < 95) {
            object **slot = &kept[bench_below(&random, KEPT)];
            drop(*slot);
            *slot = made;
        } else {
            _Atomic(object *) *slot = &handed_on[bench_below(&random, HANDED_ON)];
            drop(atomic_exchange_explicit(slot, made, memory_order_acq_rel));
        }
    }
    for (size_t i = 0; i < 16; i++) drop(recent[i]);
    for (size_t i = 0; i < KEPT; i++) drop(kept[i]);
    free(kept);
    self->random = random;
    self->blocks += self->objects + 1;
    return NULL;
}

int main(int argc, char **argv) {
    size_t threads = bench_argument(argc, argv, 1, 2);
    size_t generations = bench_argument(argc, argv, 2, 100);
    size_t objects = bench_argument(argc, argv, 3, 100000);
    double start = bench_now();
    work *all = bench_malloc(threads * sizeof *all);
    for (size_t i = 0; i < threads; i++) {
        all[i].objects = objects;
        all[i].random = bench_seed(90 + i);
        all[i].blocks = 0;
    }
    for (size_t g = 0; g < generations; g++) {
        bench_parallel(threads, live, all, sizeof *all);
        /* Between generations a quarter of what was handed on dies on the main thread. */
        for (size_t i = g % 4; i < HANDED_ON; i += 4) drop(atomic_exchange(&handed_on[i], NULL));
    }
    for (size_t i = 0; i < HANDED_ON; i++) drop(atomic_load(&handed_on[i]));
    uint64_t blocks = 0;
    for (size_t i = 0; i < threads; i++) blocks += all[i].blocks;
    free(all);
    return bench_report("mstress", blocks, bench_now() - start);
}
