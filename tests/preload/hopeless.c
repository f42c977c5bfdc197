/* hopeless.c - a request that nothing could serve changes nothing: what is resident, and what a policy keeps. */
#define _GNU_SOURCE
#include "check.h"

#include <sys/resource.h>
#include <unistd.h>

enum { MIB = 1 << 20, BLOCKS = 30000, BLOCK = 4000 };

static long resident_kib(void) {
    char line[200];
    long kib = -1;
    FILE *file = fopen("/proc/self/status", "r");
    CHECK(file);
    while (fgets(line, sizeof line, file)) (void)sscanf(line, "VmRSS: %ld", &kib);
    (void)fclose(file);
    return kib;
}

static long mapped_bytes(void) {
    long pages;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file && fscanf(file, "%ld", &pages) == 1);
    (void)fclose(file);
    return pages * sysconf(_SC_PAGESIZE);
}

/* Ask for it as a program does that looks for the largest size it can have. */
static void probe(size_t size) {
    long before = resident_kib();
    for (int i = 0; i < 20; i++) {
        errno = 0;
        CHECK(opaque(malloc(size)) == NULL && errno == ENOMEM);
        CHECK(opaque(calloc(1, size)) == NULL && opaque(realloc(NULL, size)) == NULL);
    }
    long after = resident_kib();
    if (after < before - 1024) fprintf(stderr, "%zu bytes: %ld -> %ld KiB\n", size, before, after);
    CHECK(after >= before - 1024);
}

int main(void) {
    static void *blocks[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) memset(blocks[i] = malloc(BLOCK), 1, BLOCK);
    void *large = malloc((size_t)40 * MIB);
    memset(large, 1, (size_t)40 * MIB);
    for (int i = 0; i + 1 < BLOCKS; i++) free(blocks[i]);
    free(large);
    CHECK(resident_kib() > (long)BLOCKS / 1024 * BLOCK / 2);
    for (int shift = 48; shift < 63; shift++) probe((size_t)1 << shift);
    probe(SIZE_MAX / 2 - 100);
    rlim_t most = (rlim_t)mapped_bytes() + (rlim_t)50 * MIB;
    struct rlimit limit = {most, RLIM_INFINITY}, none = {RLIM_INFINITY, RLIM_INFINITY};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    probe((size_t)2048 * MIB);
    CHECK(setrlimit(RLIMIT_AS, &none) == 0 && setrlimit(RLIMIT_DATA, &limit) == 0);
    probe((size_t)2048 * MIB);
    puts("ok");
    return 0;
}
