/* sh6.c - bursts of mixed sizes on one thread.
 *
 * sh6 [bursts 50000] [largest size 1000]
 */
#include "bursts.h"

int main(int argc, char **argv) {
    size_t bursts = bench_argument(argc, argv, 1, 50000);
    size_t max_size = bench_argument(argc, argv, 2, 1000);
    double start = bench_now();
    bench_random random = bench_seed(6);
    uint64_t blocks = bursts_run(bursts, max_size, &random);
    return bench_report("sh6", blocks, bench_now() - start);
}
