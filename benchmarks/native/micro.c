/* micro.c - the four smallest loops around malloc and free, and the same loops without them: what
 * counts instructions subtracts one from the other.
 *
 * micro MODE N
 *
 * pair64, pair1024   allocate and free at once
 * fifo               a queue of 1,000 blocks of 64 bytes; the oldest is freed
 * random             1,000 slots of 16 to 1,024 bytes, one replaced at random
 * base_pair, base_fifo, base_random   the loops alone
 */
#include "bench.h"

#define SLOTS 1000

static void *slots[SLOTS];
static char nothing[1024];

typedef struct draw {
    uint64_t x;
} draw;

/* Cheaper than bench_next: the loop must not hide what it carries. */
static inline uint64_t draw_next(draw *d) {
    uint64_t x = d->x;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    d->x = x;
    return x;
}

static inline uint32_t draw_slot(uint64_t x) { return (uint32_t)(((x >> 32) * SLOTS) >> 32); }

static inline uint32_t draw_size(uint64_t x) {
    return 16 + (uint32_t)(((x & 0xffffffffu) * 1009) >> 32);
}

static __attribute__((noinline)) void base_pair(long n) {
    for (long i = 0; i < n; i++) bench_keep(nothing);
}

static __attribute__((noinline)) void pair64(long n) {
    for (long i = 0; i < n; i++) {
        void *block = malloc(64);
        bench_keep(block);
        free(block);
    }
}

static __attribute__((noinline)) void pair1024(long n) {
    for (long i = 0; i < n; i++) {
        void *block = malloc(1024);
        bench_keep(block);
        free(block);
    }
}

static __attribute__((noinline)) void base_fifo(long n) {
    uint32_t k = 0;
    for (long i = 0; i < n; i++) {
        bench_keep(slots[k]);
        slots[k] = nothing;
        *(volatile char *)nothing = 1;
        if (++k == SLOTS) k = 0;
    }
}

static __attribute__((noinline)) void fifo(long n) {
    uint32_t k = 0;
    for (long i = 0; i < n; i++) {
        free(slots[k]);
        char *block = malloc(64);
        slots[k] = block;
        *(volatile char *)block = 1;
        if (++k == SLOTS) k = 0;
    }
}

static __attribute__((noinline)) void base_random(long n) {
    draw d = {88172645463325252u};
    for (long i = 0; i < n; i++) {
        uint64_t x = draw_next(&d);
        uint32_t k = draw_slot(x), size = draw_size(x);
        __asm__ volatile("" : : "r"(slots[k]), "r"(size) : "memory");
        slots[k] = nothing;
        *(volatile char *)nothing = 1;
    }
}

static __attribute__((noinline)) void replace_random(long n) {
    draw d = {88172645463325252u};
    for (long i = 0; i < n; i++) {
        uint64_t x = draw_next(&d);
        uint32_t k = draw_slot(x), size = draw_size(x);
        free(slots[k]);
        char *block = malloc(size);
        slots[k] = block;
        *(volatile char *)block = 1;
    }
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        void (*run)(long);
    } modes[] = {
        {"pair64", pair64},           {"pair1024", pair1024},   {"fifo", fifo},
        {"random", replace_random},   {"base_pair", base_pair}, {"base_fifo", base_fifo},
        {"base_random", base_random},
    };
    const char *mode = argc > 1 ? argv[1] : "random";
    size_t n = bench_argument(argc, argv, 2, 10000000);
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        if (strcmp(mode, modes[i].name) != 0) continue;
        double start = bench_now();
        modes[i].run((long)n);
        double seconds = bench_now() - start;
        char name[32];
        snprintf(name, sizeof name, "micro_%s", mode);
        return bench_report(name, n, seconds);
    }
    fprintf(stderr,
            "micro: no mode '%s'; pair64, pair1024, fifo, random, base_pair, base_fifo, "
            "base_random\n",
            mode);
    return 2;
}
