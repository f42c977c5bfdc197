/* scale.c - does an operation cost more when many blocks live?
 *
 * scale [operations 2000000]
 *
 * For 10^3 to 10^7 live blocks of 64 bytes: random replacement (free one, allocate one, write a byte),
 * beside a random walk that writes a byte in an array of the same bytes, which shows what the caches and
 * the TLB alone make of it. The last column is how much more the replacement grew than the walk.
 */
#include "bench.h"

#define SIZE 64

static double walk(size_t count, size_t operations) {
    char *array = bench_malloc(count * SIZE);
    memset(array, 1, count * SIZE);
    bench_random random = bench_seed(5);
    double start = bench_now();
    for (size_t i = 0; i < operations; i++) array[bench_below(&random, count) * SIZE]++;
    double seconds = bench_now() - start;
    free(array);
    return seconds / (double)operations * 1e9;
}

static double replace(size_t count, size_t operations) {
    char **slots = bench_malloc(count * sizeof *slots);
    for (size_t i = 0; i < count; i++) {
        slots[i] = bench_malloc(SIZE);
        *slots[i] = 1;
    }
    bench_random random = bench_seed(7);
    double start = bench_now();
    for (size_t i = 0; i < operations; i++) {
        char **slot = &slots[bench_below(&random, count)];
        free(*slot);
        *slot = bench_malloc(SIZE);
        **slot = 1;
    }
    double seconds = bench_now() - start;
    for (size_t i = 0; i < count; i++) free(slots[i]);
    free(slots);
    return seconds / (double)operations * 1e9;
}

int main(int argc, char **argv) {
    size_t operations = bench_argument(argc, argv, 1, 2000000);
    double start = bench_now(), first_walk = 0, first_replace = 0;
    printf("%10s %12s %12s %8s\n", "live", "walk, ns", "replace, ns", "growth");
    for (size_t count = 1000; count <= 10000000; count *= 10) {
        double w = walk(count, operations), r = replace(count, operations);
        if (count == 1000) {
            first_walk = w;
            first_replace = r;
        }
        printf("%10zu %12.2f %12.2f %8.2f\n", count, w, r, (r / first_replace) / (w / first_walk));
    }
    return bench_report("scale", operations * 10, bench_now() - start);
}
