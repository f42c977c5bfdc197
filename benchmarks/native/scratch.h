/* scratch.h - the work of cache_scratch and cache_thrash: a thread allocates one small block,
 * writes all of it many times, frees it, and again. An allocator that gives two threads parts of
 * the same cache line makes each write a cache miss.
 */
#ifndef SCRATCH_H
#define SCRATCH_H

#include "bench.h"

typedef struct scratch {
    void *given; /* freed first; may be NULL */
    size_t iterations, size, writes;
    char apart[64];
} scratch;

static inline void *scratch_run(void *argument) {
    scratch *self = argument;
    free(self->given);
    for (size_t i = 0; i < self->iterations; i++) {
        volatile unsigned char *block = malloc(self->size);
        if (!block) bench_fail("out of memory");
        for (size_t k = 0; k < self->writes; k++)
            for (size_t byte = 0; byte < self->size; byte++)
                block[byte] = (unsigned char)(block[byte] + k);
        free((void *)block);
    }
    return NULL;
}

static inline int scratch_main(int argc, char **argv, const char *name, int give) {
    size_t threads = bench_argument(argc, argv, 1, 2);
    size_t iterations = bench_argument(argc, argv, 2, 3000000);
    size_t size = bench_argument(argc, argv, 3, 8);
    size_t writes = bench_argument(argc, argv, 4, 50);
    double start = bench_now();
    scratch *all = bench_malloc(threads * sizeof *all);
    memset(all, 0, threads * sizeof *all);
    for (size_t i = 0; i < threads; i++) {
        all[i].given = give ? bench_malloc(size) : NULL;
        if (give) memset(all[i].given, 0, size);
        all[i].iterations = iterations;
        all[i].size = size;
        all[i].writes = writes;
    }
    bench_parallel(threads, scratch_run, all, sizeof *all);
    free(all);
    return bench_report(name, threads * (iterations + (give ? 1u : 0u)), bench_now() - start);
}

#endif
