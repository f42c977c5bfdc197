/* alloc_test.c - random replacement in one large set of slots, sizes by a power law: small blocks
 * by far the most, but each doubling of the size holds its share of the bytes.
 *
 * alloc_test [slots 100000] [replacements 20000000]
 *
 * A slot is visited twice: once it is filled, the next time emptied, so that about half of them are
 * live.
 */
#include "bench.h"

/* 16 bytes to 64 KiB; each doubling is half as likely as the one before. */
static size_t power_law_size(bench_random *random) {
    uint64_t bits = bench_next(random);
    size_t low = 8;
    while ((bits & 1) && low < 32768) {
        low *= 2;
        bits >>= 1;
    }
    return bench_between(random, low + 1, 2 * low);
}

int main(int argc, char **argv) {
    size_t count = bench_argument(argc, argv, 1, 100000);
    size_t replacements = bench_argument(argc, argv, 2, 20000000);
    double start = bench_now();
    void **slots = bench_malloc(count * sizeof *slots);
    memset(slots, 0, count * sizeof *slots);
    bench_random random = bench_seed(3);
    uint64_t blocks = 0;
    for (size_t i = 0; i < replacements; i++) {
        void **slot = &slots[bench_below(&random, count)];
        if (*slot) {
            free(*slot);
            *slot = NULL;
        } else {
            *slot = bench_malloc(power_law_size(&random));
            blocks++;
        }
    }
    for (size_t i = 0; i < count; i++) free(slots[i]);
    free(slots);
    return bench_report("alloc_test", blocks, bench_now() - start);
}
