/* large.c - blocks of some MiB up to hundreds: what stays of freed ones, by the peak and by the pages that the kernel
 * had to bring. Each way prints one number.
 *
 * large vector|pair|mix|pieces|grow|again|turns
 */
#define _GNU_SOURCE
#include "check.h"

#include <sys/resource.h>

enum { MIB = 1 << 20 };

/* Of this program: ru_maxrss would also count the one that started it. */
static long peak_mib(void) {
    char line[128];
    long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    CHECK(file);
    while (fgets(line, sizeof line, file))
        if (sscanf(line, "VmHWM: %ld kB", &kib) == 1) break;
    CHECK(kib);
    CHECK(fclose(file) == 0);
    return kib / 1024;
}

static long faults(void) {
    struct rusage usage;
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0);
    return usage.ru_minflt;
}

static char *touched(size_t size) {
    char *block = malloc(size);
    CHECK(block);
    return memset(block, 1, size);
}

/* A vector that doubles by a new one, a copy and a free. */
static long vector(void) {
    size_t size = MIB;
    char *v = touched(size);
    for (; size < (size_t)64 * MIB; size *= 2) {
        char *w = malloc(2 * size);
        CHECK(w);
        memcpy(w, v, size);
        free(v);
        v = w;
        memset(v + size, 1, size);
    }
    free(opaque(v));
    return peak_mib();
}

/* Pairs, after the first two of each size: how many faults? */
static long pair(void) {
    long sum = 0;
    for (int mib = 17; mib < 80; mib += 20) {
        long before = 0;
        for (int i = 0; i < 50; i++) {
            if (i == 2) before = faults();
            free(opaque(touched((size_t)mib * MIB)));
        }
        sum += faults() - before;
    }
    return sum;
}

static uint64_t next_random(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

/* Twenty slots of 5 to 25 MiB, replaced at random; the new one comes before the old one goes. */
static long mix(void) {
    char *slots[20] = {NULL};
    uint64_t state = 42;
    for (int i = 0; i < 700; i++) {
        char **slot = &slots[next_random(&state) % 20];
        char *fresh = touched(5 * (size_t)MIB + next_random(&state) % (20 * (uint64_t)MIB));
        free(*slot);
        *slot = fresh;
    }
    for (int i = 0; i < 20; i++) free(slots[i]);
    return peak_mib();
}

/* Of one freed block many smaller ones are made, and their contents stay theirs. */
static long pieces(void) {
    char *block[6];
    free(opaque(touched((size_t)120 * MIB)));
    long before = faults();
    for (int i = 0; i < 6; i++) {
        block[i] = malloc((size_t)17 * MIB + (size_t)i * 4096);
        CHECK(block[i]);
        fill(block[i], (size_t)17 * MIB + (size_t)i * 4096, (unsigned char)(i + 1));
    }
    long sum = faults() - before;
    for (int i = 0; i < 6; i++) {
        CHECK(filled(block[i], (size_t)17 * MIB + (size_t)i * 4096, (unsigned char)(i + 1)));
        if (i % 2) free(block[i]);
    }
    for (int i = 0; i < 6; i += 2) {
        CHECK(filled(block[i], (size_t)17 * MIB + (size_t)i * 4096, (unsigned char)(i + 1)));
        block[i] = realloc(block[i], (size_t)25 * MIB);
        CHECK(block[i]);
        CHECK(filled(block[i], (size_t)17 * MIB + (size_t)i * 4096, (unsigned char)(i + 1)));
        fill(block[i], (size_t)25 * MIB, (unsigned char)(i + 1));
    }
    for (int i = 0; i < 6; i += 2)
        CHECK(filled(block[i], (size_t)25 * MIB, (unsigned char)(i + 1)));
    for (int i = 0; i < 6; i += 2) free(block[i]);
    for (int i = 0; i < 3; i++) { /* calloc clears what others had */
        unsigned char *zero = calloc(1, (size_t)30 * MIB);
        CHECK(zero && filled(zero, (size_t)30 * MIB, 0));
        memset(zero, 0xff, (size_t)30 * MIB);
        free(zero);
    }
    return sum;
}

/* A buffer that grows by half to 300 MiB, beside others: never two of it. */
static long grow(void) {
    size_t size = 16 * (size_t)MIB;
    char *v = touched(size), *other = touched(20 * (size_t)MIB);
    while (size < (size_t)300 * MIB) {
        size_t larger = size + size / 2;
        v = realloc(v, larger);
        CHECK(v && v[0] == 1 && v[size - 1] == 1);
        memset(v + size, 1, larger - size);
        size = larger;
    }
    free(other);
    free(opaque(v));
    return peak_mib() - (long)(size / MIB);
}

/* A vector that doubles to 16 MiB, twenty times over: each time finds the room of the last one. */
static long again(void) {
    long before = 0;
    for (int round = 0; round < 20; round++) {
        size_t size = 65536;
        char *v = touched(size);
        for (; size < (size_t)16 * MIB; size *= 2) {
            v = realloc(v, 2 * size);
            CHECK(v && v[0] == 1 && v[size - 1] == 1);
            memset(v + size, 1, size);
        }
        free(opaque(v));
        if (round == 0) before = faults();
    }
    return faults() - before;
}

/* Eight of them in turn, with other blocks between: what each holds stays its own. */
static long turns(void) {
    unsigned char *v[8];
    size_t have[8];
    for (int i = 0; i < 8; i++) {
        have[i] = 25 * 4096;
        v[i] = malloc(have[i]);
        CHECK(v[i]);
        memset(v[i], i + 1, have[i]);
    }
    for (int i = 0; have[i] < (size_t)30 * MIB; i = (i + 1) % 8) {
        size_t larger = have[i] * 3 / 2 / 4096 * 4096;
        v[i] = realloc(v[i], larger);
        CHECK(v[i] && filled(v[i], have[i], (unsigned char)(i + 1)));
        memset(v[i] + have[i], i + 1, larger - have[i]);
        have[i] = larger;
        free(opaque(malloc(200000)));
    }
    for (int i = 0; i < 8; i++) {
        v[i] = realloc(v[i], have[i] / 3);
        CHECK(v[i] && filled(v[i], have[i] / 3, (unsigned char)(i + 1)));
        free(v[i]);
    }
    return peak_mib();
}

int main(int argc, char **argv) {
    static const struct {
        const char *name;
        long (*run)(void);
    } ways[] = {{"vector", vector}, {"pair", pair},   {"mix", mix},    {"pieces", pieces},
                {"grow", grow},     {"again", again}, {"turns", turns}};
    for (size_t i = 0; argc > 1 && i < sizeof ways / sizeof *ways; i++)
        if (strcmp(argv[1], ways[i].name) == 0) return printf("%ld\n", ways[i].run()) < 0;
    return 2;
}
