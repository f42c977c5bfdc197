/* peak.h - what retained and sleepers share: log-normal blocks, the resident memory of this
 * process, and the page bound of the blocks that live.
 *
 * Whatever the measurement needs lies in maps of its own, resident from the start and subtracted,
 * so that what is reported is the allocator's. Linux only: it reads /proc.
 */
#ifndef PEAK_H
#define PEAK_H

#include "bench.h"

#include <fcntl.h>
#include <malloc.h>
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#define PEAK_MEDIAN 700.0 /* bytes */
#define PEAK_SIGMA 1.1    /* of the logarithm: mean 1,280 bytes, one block in 18 above 4 KiB */

static uint64_t peak_own; /* bytes of this program's own maps */

/* Zeroed memory that is no allocator's, all of it resident. */
static inline void *peak_map(size_t size) {
    void *map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) bench_fail("out of memory");
    madvise(map, size, MADV_NOHUGEPAGE);
    long page = sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < size; i += (size_t)page) ((volatile char *)map)[i] = 0;
    peak_own += (size + (size_t)page - 1) / (size_t)page * (size_t)page;
    return map;
}

static inline size_t peak_size(bench_random *random) {
    double u = ((double)(bench_next(random) >> 11) + 0.5) / 9007199254740992.0;
    double v = (double)(bench_next(random) >> 11) / 9007199254740992.0;
    double normal = sqrt(-2.0 * log(u)) * cos(6.283185307179586 * v);
    double size = PEAK_MEDIAN * exp(PEAK_SIGMA * normal);
    return size < 8.0 ? 8 : size > 131072.0 ? 131072 : (size_t)size;
}

/* ---- the blocks that live
 * --------------------------------------------------------------------- */

typedef struct peak_blocks {
    struct peak_block {
        void *address;
        size_t size;
    } * block;
    size_t count, capacity;
    uint64_t bytes; /* sum of the sizes asked for */
} peak_blocks;

/* Room for blocks of `bytes` in all: the mean is far above 512. */
static inline void peak_open(peak_blocks *set, uint64_t bytes) {
    set->capacity = bytes / 512 + 4096;
    set->block = peak_map(set->capacity * sizeof *set->block);
    set->count = 0;
    set->bytes = 0;
}

static inline struct peak_block peak_make(bench_random *random) {
    size_t size = peak_size(random);
    return (struct peak_block){bench_malloc(size), size};
}

static inline void peak_add(peak_blocks *set, struct peak_block made) {
    if (set->count == set->capacity) bench_fail("more blocks than expected");
    set->block[set->count++] = made;
    set->bytes += made.size;
}

/* Free the block at index; the last one takes its place. */
static inline void peak_drop(peak_blocks *set, size_t index) {
    free(set->block[index].address);
    set->bytes -= set->block[index].size;
    set->block[index] = set->block[--set->count];
}

static inline void peak_replace(peak_blocks *set, size_t index, bench_random *random) {
    free(set->block[index].address);
    set->bytes -= set->block[index].size;
    set->block[index] = peak_make(random);
    set->bytes += set->block[index].size;
}

static inline void peak_drop_all(peak_blocks *set) {
    while (set->count) peak_drop(set, set->count - 1);
}

/* ---- the page bound
 * --------------------------------------------------------------------------- */

/* A set of page numbers, open addressing; 0 is no page of a block. */
typedef struct peak_pages {
    uint64_t *slot;
    size_t mask, count;
} peak_pages;

static inline void peak_pages_open(peak_pages *pages, uint64_t bytes) {
    size_t slots = 1024;
    while (slots < bytes / 2048) slots *= 2;
    pages->slot = peak_map(slots * sizeof *pages->slot);
    pages->mask = slots - 1;
}

static inline void peak_pages_clear(peak_pages *pages) {
    memset(pages->slot, 0, (pages->mask + 1) * sizeof *pages->slot);
    pages->count = 0;
}

static inline void peak_pages_add(peak_pages *pages, const peak_blocks *set) {
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < set->count; i++) {
        uint64_t first = (uint64_t)(uintptr_t)set->block[i].address;
        uint64_t last = first + malloc_usable_size(set->block[i].address) - 1;
        for (uint64_t p = first / page; p <= last / page; p++) {
            size_t at = (size_t)((p * 0x9e3779b97f4a7c15u) >> 20) & pages->mask;
            while (pages->slot[at] && pages->slot[at] != p) at = (at + 1) & pages->mask;
            if (pages->slot[at]) continue;
            if (++pages->count > pages->mask / 8 * 7) bench_fail("more pages than expected");
            pages->slot[at] = p;
        }
    }
}

/* ---- resident
 * --------------------------------------------------------------------------------- */

typedef struct peak_resident {
    uint64_t resident; /* anonymous bytes in physical memory without this program's own maps */
    uint64_t lazy;     /* of these, bytes the allocator offered and the kernel has not taken */
} peak_resident;

static inline uint64_t peak_field(const char *text, const char *name) {
    const char *at = strstr(text, name);
    return at ? strtoull(at + strlen(name), NULL, 10) * 1024 : 0;
}

/* Read without stdio, which would allocate. */
static inline peak_resident peak_read(void) {
    char text[4096];
    int file = open("/proc/self/smaps_rollup", O_RDONLY);
    if (file < 0) bench_fail("/proc/self/smaps_rollup cannot be read");
    size_t length = 0;
    for (;;) {
        ssize_t got = read(file, text + length, sizeof text - 1 - length);
        if (got < 0) bench_fail("/proc/self/smaps_rollup cannot be read");
        if (got == 0) break;
        length += (size_t)got;
    }
    close(file);
    text[length] = 0;
    uint64_t anonymous = peak_field(text, "\nAnonymous:");
    return (peak_resident){anonymous - peak_own, peak_field(text, "\nLazyFree:")};
}

/* One line: second, resident bytes, page bound in bytes, their ratio, lazily freed bytes. */
static inline void peak_print(double second, const peak_pages *pages) {
    peak_resident now = peak_read();
    uint64_t bound = pages->count * (uint64_t)sysconf(_SC_PAGESIZE);
    char line[128];
    int length =
        snprintf(line, sizeof line, "%.0f %" PRIu64 " %" PRIu64 " %.4f %" PRIu64 "\n", second,
                 now.resident, bound, (double)now.resident / (double)bound, now.lazy);
    if (write(STDOUT_FILENO, line, (size_t)length) != length)
        bench_fail("stdout cannot be written");
}

#endif
