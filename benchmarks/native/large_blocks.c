/* large_blocks.c - blocks of 64 KiB to 8 MiB come and go, every page of them touched: who maps and
 * unmaps each of them pays the kernel for every page, every time.
 *
 * large_blocks [replacements 6000] [slots 24]
 */
#include "bench.h"

int main(int argc, char **argv) {
    size_t replacements = bench_argument(argc, argv, 1, 6000);
    size_t count = bench_argument(argc, argv, 2, 24);
    double start = bench_now();
    void **slots = bench_malloc(count * sizeof *slots);
    memset(slots, 0, count * sizeof *slots);
    bench_random random = bench_seed(11);
    for (size_t i = 0; i < replacements; i++) {
        /* Even over the doublings, not over the bytes: smaller ones are more common. */
        size_t low = (size_t)65536 << bench_below(&random, 7);
        void **slot = &slots[bench_below(&random, count)];
        free(*slot);
        *slot = bench_malloc(bench_between(&random, low, 2 * low));
    }
    for (size_t i = 0; i < count; i++) free(slots[i]);
    free(slots);
    return bench_report("large_blocks", replacements, bench_now() - start);
}
