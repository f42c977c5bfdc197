/* room.c - where the system has no more address space (RLIMIT_AS), what was freed serves the next request, of
 * whatever size; and a request for more than there can be is refused, not left to whoever touches it. */
#define _GNU_SOURCE
#include "check.h"

#include <malloc.h>
#include <sys/resource.h>
#include <unistd.h>

enum { MIB = 1 << 20 };

static void limit_to(size_t more) {
    long pages;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file && fscanf(file, "%ld", &pages) == 1);
    (void)fclose(file);
    rlim_t most = (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE) + more;
    struct rlimit limit = {most, most};
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

/* Fill 300 MiB with blocks of that size, free them, and ask for all of it in one piece. */
static void fill_and_free(size_t size) {
    void **list = NULL, **next;
    for (size_t bytes = 0; bytes < (size_t)300 * MIB; bytes += size) {
        next = opaque(malloc(size));
        CHECK(next);
        *next = list;
        list = next;
    }
    for (; list; list = next) {
        next = *list;
        errno = 4711;
        free(list);
        CHECK(errno == 4711);
    }
    void *all = opaque(malloc((size_t)300 * MIB));
    CHECK(all);
    free(all);
}

int main(void) {
    size_t volatile sizes[] = {1000, 100000, 1000000, 4 * MIB, 32 * MIB};
    /* More than any machine has: all of these are below the largest object that C knows. */
    for (int shift = 44; shift < 63; shift++) {
        errno = 0;
        void *block = opaque(malloc((size_t)1 << shift));
        if (block) CHECK(malloc_usable_size(block) >= (size_t)1 << shift);
        else CHECK(errno == ENOMEM);
        free(block);
    }
    limit_to((size_t)400 * MIB);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) fill_and_free(sizes[i]);
    errno = 0;
    CHECK(opaque(malloc((size_t)500 * MIB)) == NULL && errno == ENOMEM);
    return 0;
}
