/* bench.h - what every workload of this folder shares: clock, random numbers, arguments, touching,
 * the one line of output.
 *
 * The workloads know malloc and free and nothing of who serves them; the allocator is chosen from
 * outside with LD_PRELOAD. Whatever a workload needs for itself is small beside its blocks.
 */
#ifndef BENCH_H
#define BENCH_H

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static inline double bench_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

_Noreturn static inline void bench_fail(const char *what) {
    fprintf(stderr, "%s\n", what);
    exit(1);
}

/* ---- random numbers: splitmix64, the same on every machine
 * ------------------------------------ */

typedef struct bench_random {
    uint64_t state;
} bench_random;

static inline bench_random bench_seed(uint64_t seed) {
    return (bench_random){seed * 0x9e3779b97f4a7c15u + 0x1234567u};
}

static inline uint64_t bench_next(bench_random *random) {
    uint64_t z = random->state += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* A number in [0, bound), bound below 2^32; a multiplication instead of a division. */
static inline size_t bench_below(bench_random *random, size_t bound) {
    return (size_t)(((bench_next(random) >> 32) * (uint64_t)bound) >> 32);
}

/* A number in [low, high]. */
static inline size_t bench_between(bench_random *random, size_t low, size_t high) {
    return low + bench_below(random, high - low + 1);
}

/* ---- blocks
 * ----------------------------------------------------------------------------------- */

/* The compiler knows malloc and would drop a pair whose block nobody looks at. */
static inline void bench_keep(void *block) { __asm__ volatile("" : : "r"(block) : "memory"); }

/* Use the block as its owner would: its first and last byte, and one byte in each page between, so
 * that all of it is resident. */
static inline void bench_touch(void *block, size_t size) {
    volatile unsigned char *bytes = block;
    for (size_t i = 0; i < size; i += 4096) bytes[i] = (unsigned char)i;
    bytes[size - 1] = (unsigned char)size;
}

/* size > 0. A workload without memory has nothing to say: it ends. */
static inline void *bench_malloc(size_t size) {
    void *block = malloc(size);
    if (!block) bench_fail("out of memory");
    bench_touch(block, size);
    bench_keep(block);
    return block;
}

/* ---- arguments and result
 * --------------------------------------------------------------------- */

/* The index-th argument as a positive number, or its default when there is none. */
static inline size_t bench_argument(int argc, char **argv, int index, size_t otherwise) {
    if (index >= argc) return otherwise;
    char *end;
    errno = 0;
    unsigned long long value = strtoull(argv[index], &end, 10);
    if (errno || *end || end == argv[index] || argv[index][0] == '-' || value == 0) {
        fprintf(stderr, "%s: argument %d is '%s', a positive number is needed\n", argv[0], index,
                argv[index]);
        exit(2);
    }
    return (size_t)value;
}

/* Exactly one line on stdout: name, operations (an operation is one malloc with its free, unless
 * the workload says otherwise), seconds. */
static inline int bench_report(const char *name, uint64_t operations, double seconds) {
    printf("%s %" PRIu64 " %.6f\n", name, operations, seconds);
    return fflush(stdout) != 0;
}

/* ---- threads
 * ---------------------------------------------------------------------------------- */

static inline pthread_t bench_thread(void *(*function)(void *), void *argument) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, argument) != 0)
        bench_fail("no thread could be started");
    return thread;
}

static inline void bench_join(pthread_t thread) {
    if (pthread_join(thread, NULL) != 0) bench_fail("a thread could not be joined");
}

/* Run function(argument i) on count threads, the arguments being stride bytes apart; wait for
 * all. */
static inline void bench_parallel(size_t count, void *(*function)(void *), void *arguments,
                                  size_t stride) {
    if (count > 256) bench_fail("at most 256 threads");
    pthread_t threads[256];
    for (size_t i = 0; i < count; i++)
        threads[i] = bench_thread(function, (char *)arguments + i * stride);
    for (size_t i = 0; i < count; i++) bench_join(threads[i]);
}

#endif
