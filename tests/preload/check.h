/* check.h - what the programs of this folder share: a failed check names its line and ends the program. */
#ifndef CHECK_H
#define CHECK_H

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(holds)                                                                               \
    do {                                                                                           \
        if (!(holds)) {                                                                            \
            fprintf(stderr, "%s:%d: not so: %s (errno %d)\n", __FILE__, __LINE__, #holds, errno);  \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* Keeps the compiler from knowing what malloc and free are. */
static inline void *opaque(void *p) {
    __asm__ volatile("" : "+r"(p) : : "memory");
    return p;
}

static inline int aligned_to(const void *p, size_t align) { return ((uintptr_t)p & (align - 1)) == 0; }

/* Of large blocks only a byte here and there, at least three a page, and the last ones. */
static inline size_t step_of(size_t size, size_t at) {
    return size > 65536 && at + 2000 < size ? 1021 : 1;
}

static inline void fill(void *p, size_t size, unsigned char value) {
    unsigned char *at = p;
    for (size_t i = 0; i < size; i += step_of(size, i)) at[i] = value;
    (void)opaque(p);
}

static inline int filled(const void *p, size_t size, unsigned char value) {
    const unsigned char *at = p;
    for (size_t i = 0; i < size; i += step_of(size, i))
        if (at[i] != value) return 0;
    return 1;
}
#endif
