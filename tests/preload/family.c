/* family.c - the contract of each function of the malloc family, as glibc's manual states it. */
#define _GNU_SOURCE
#pragma GCC diagnostic ignored "-Wuse-after-free" /* a refused realloc is used on purpose */
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
#include "check.h"

#include <dlfcn.h>
#include <malloc.h>
#include <unistd.h>

static const size_t sizes[] = {0,    1,    7,    8,     15,    16,    17,    24,     100,     127,
                               128,  129,  1000, 1024,  1025,  2048,  4095,  4096,   4097,    10000,
                               16384, 32768, 32769, 65536, 100000, 524288, 1 << 20, 5 << 20, 33 << 20};
#define SIZES (sizeof sizes / sizeof *sizes)

static void test_malloc(void) {
    void *blocks[SIZES];
    for (size_t i = 0; i < SIZES; i++) {
        blocks[i] = opaque(malloc(sizes[i]));
        CHECK(blocks[i] != NULL);
        CHECK(aligned_to(blocks[i], 16));
        CHECK(malloc_usable_size(blocks[i]) >= sizes[i]);
        fill(blocks[i], malloc_usable_size(blocks[i]), (unsigned char)i);
    }
    for (size_t i = 0; i < SIZES; i++) {
        CHECK(filled(blocks[i], malloc_usable_size(blocks[i]), (unsigned char)i));
        for (size_t j = 0; j < i; j++) CHECK(blocks[i] != blocks[j]);
    }
    for (size_t i = 0; i < SIZES; i++) free(blocks[i]);
    size_t volatile huge[] = {SIZE_MAX, SIZE_MAX / 2, (size_t)PTRDIFF_MAX + 1, (size_t)1 << 62};
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++) {
        errno = 0;
        CHECK(opaque(malloc(huge[i])) == NULL && errno == ENOMEM);
    }
    CHECK(malloc_usable_size(NULL) == 0);
}

static void test_free_keeps_errno(void) {
    void *blocks[3 * SIZES];
    for (size_t round = 0; round < 3; round++)
        for (size_t i = 0; i < SIZES; i++) blocks[round * SIZES + i] = malloc(sizes[i]);
    errno = 4711;
    for (size_t i = 0; i < 3 * SIZES; i++) free(opaque(blocks[i]));
    free(opaque(NULL));
    CHECK(errno == 4711);
}

static void test_calloc(void) {
    /* What is handed out again must be cleared. */
    for (size_t i = 0; i < SIZES; i++) {
        char *dirty = opaque(malloc(sizes[i]));
        fill(dirty, malloc_usable_size(dirty), 0xa5);
        free(dirty);
        char *clean = opaque(calloc(1, sizes[i]));
        CHECK(clean && filled(clean, sizes[i], 0));
        fill(clean, malloc_usable_size(clean), 0x5a);
        free(clean);
        clean = opaque(calloc(sizes[i], 1));
        CHECK(clean && filled(clean, sizes[i], 0));
        free(clean);
    }
    size_t volatile half = (size_t)1 << 32;
    errno = 0;
    CHECK(opaque(calloc(half, half)) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(opaque(calloc(half - 1, half + 2)) == NULL && errno == ENOMEM);
    void *none = opaque(calloc(0, half));
    CHECK(none != NULL);
    free(none);
}

static void test_realloc(void) {
    for (size_t i = 0; i < SIZES; i++)
        for (size_t j = 0; j < SIZES; j++) {
            if (sizes[j] == 0) continue;
            unsigned char *p = opaque(malloc(sizes[i]));
            for (size_t k = 0; k < sizes[i]; k += step_of(sizes[i], k)) p[k] = (unsigned char)(k * 31);
            p = opaque(realloc(p, sizes[j]));
            CHECK(p && aligned_to(p, 16) && malloc_usable_size(p) >= sizes[j]);
            for (size_t k = 0; k < sizes[i] && k < sizes[j]; k += step_of(sizes[i], k))
                CHECK(p[k] == (unsigned char)(k * 31));
            fill(p, sizes[j], 1);
            free(p);
        }
    /* As in glibc: a realloc to 0 frees, of NULL allocates. */
    void *p = opaque(malloc(100));
    errno = 4711;
    CHECK(opaque(realloc(p, 0)) == NULL);
    CHECK(errno == 4711);
    p = opaque(realloc(NULL, 0));
    CHECK(p != NULL);
    free(p);
    /* A refused realloc leaves the block alone. */
    for (size_t i = 1; i < SIZES; i++) {
        p = opaque(malloc(sizes[i]));
        fill(p, sizes[i], 77);
        size_t volatile huge = (size_t)PTRDIFF_MAX;
        errno = 0;
        CHECK(opaque(realloc(p, huge)) == NULL && errno == ENOMEM);
        CHECK(filled(p, sizes[i], 77));
        free(p);
    }
}

static void test_reallocarray(void) {
    char *p = opaque(reallocarray(NULL, 10, 30));
    CHECK(p && malloc_usable_size(p) >= 300);
    fill(p, 300, 9);
    p = opaque(reallocarray(p, 1000, 30));
    CHECK(p && filled(p, 300, 9));
    size_t volatile half = (size_t)1 << 32;
    errno = 0;
    CHECK(opaque(reallocarray(p, half, half)) == NULL && errno == ENOMEM);
    CHECK(filled(p, 300, 9));
    free(p);
}

static void test_aligned(void) {
    for (size_t align = 1; align <= (size_t)1 << 22; align <<= 1)
        for (size_t i = 0; i < SIZES; i++) {
            void *p = opaque(memalign(align, sizes[i]));
            CHECK(p && aligned_to(p, align) && aligned_to(p, 16));
            CHECK(malloc_usable_size(p) >= sizes[i]);
            fill(p, sizes[i], 3);
            void *q = opaque(aligned_alloc(align, sizes[i]));
            CHECK(q && aligned_to(q, align));
            fill(q, sizes[i], 4);
            void *r = p;
            errno = 4711;
            int error = posix_memalign(&r, align, sizes[i]);
            CHECK(errno == 4711);
            if (align < sizeof(void *)) {
                CHECK(error == EINVAL && r == p);
                r = NULL;
            } else {
                CHECK(error == 0 && aligned_to(r, align));
                fill(r, sizes[i], 5);
            }
            CHECK(filled(p, sizes[i], 3) && filled(q, sizes[i], 4));
            p = opaque(realloc(p, sizes[i] + 1));
            CHECK(p && filled(p, sizes[i], 3));
            free(p);
            free(q);
            free(r);
        }
    size_t volatile odd = 24, none = 0, huge = (size_t)PTRDIFF_MAX;
    char mark;
    void *kept = &mark;
    errno = 4711;
    CHECK(posix_memalign(&kept, odd, 10) == EINVAL && kept == &mark);
    CHECK(posix_memalign(&kept, none, 10) == EINVAL && kept == &mark);
    CHECK(posix_memalign(&kept, 64, huge) == ENOMEM && kept == &mark);
    CHECK(errno == 4711);
    CHECK(opaque(aligned_alloc(odd, 48)) == NULL && errno == EINVAL);
    errno = 0;
    CHECK(opaque(aligned_alloc(64, huge)) == NULL && errno == ENOMEM);
    /* memalign takes the next power of two, as glibc's does. */
    void *p = opaque(memalign(odd, 10));
    CHECK(p && aligned_to(p, 32));
    free(p);
    errno = 0;
    CHECK(opaque(memalign(huge + 2 + odd, 10)) == NULL && errno == EINVAL);
}

static void test_pages(void) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < SIZES; i++) {
        void *p = opaque(valloc(sizes[i]));
        CHECK(p && aligned_to(p, page));
        fill(p, sizes[i], 1);
        free(p);
        p = opaque(pvalloc(sizes[i]));
        CHECK(p && aligned_to(p, page));
        CHECK(malloc_usable_size(p) >= (sizes[i] + page - 1) / page * page);
        free(p);
    }
    size_t volatile huge = SIZE_MAX - 10;
    errno = 0;
    CHECK(opaque(pvalloc(huge)) == NULL && errno == ENOMEM);
    errno = 0;
    CHECK(opaque(valloc(huge)) == NULL && errno == ENOMEM);
}

static void test_numbers(void) {
    struct mallinfo2 before = mallinfo2();
    CHECK(before.arena == before.uordblks + before.fordblks);
    enum { COUNT = 2000, SIZE = 1000 };
    static void *blocks[COUNT];
    for (int i = 0; i < COUNT; i++) blocks[i] = opaque(malloc(SIZE));
    void *large = opaque(malloc(64 << 20));
    struct mallinfo2 peak = mallinfo2();
    CHECK(peak.uordblks >= before.uordblks + COUNT * SIZE);
    CHECK(peak.uordblks < before.uordblks + 2 * COUNT * SIZE);
    CHECK(peak.hblks == before.hblks + 1 && peak.hblkhd >= before.hblkhd + (64 << 20));
    CHECK((size_t)mallinfo().uordblks == (peak.uordblks & 0xffffffff));
    for (int i = 0; i < COUNT; i++) free(blocks[i]);
    free(large);
    (void)malloc_trim(0);
    struct mallinfo2 after = mallinfo2();
    CHECK(after.uordblks < before.uordblks + 100000);
    CHECK(after.hblks == before.hblks);
    CHECK(after.arena < peak.arena);
}

static int keeps; /* the policy keeps free pages for a while */

static void test_trim(void) {
    char *large = opaque(malloc(300000));
    fill(large, 300000, 1);
    free(large);
    (void)malloc_trim(0);
    CHECK(malloc_trim(0) == 0); /* nothing left to give */
    if (!keeps) return;         /* the policy is quicker than trim */
    large = opaque(malloc(300000));
    fill(large, 300000, 1);
    free(large);
    CHECK(malloc_trim(0) == 1);
}

static void test_info(void) {
    CHECK(malloc_info(1, stdout) == EINVAL);
    CHECK(malloc_info(0, stdout) == 0);
}

static void test_others(void) {
    /* No header declares them any more. */
    void (*cfree_)(void *);
    void *(*libc_malloc)(size_t);
    void (*libc_free)(void *);
    *(void **)&cfree_ = dlsym(RTLD_DEFAULT, "cfree");
    *(void **)&libc_malloc = dlsym(RTLD_DEFAULT, "__libc_malloc");
    *(void **)&libc_free = dlsym(RTLD_DEFAULT, "__libc_free");
    CHECK(cfree_ && libc_malloc && libc_free);
    cfree_(opaque(malloc(10)));
    cfree_(NULL);
    free(libc_malloc(10)); /* the same heap by every name */
    libc_free(opaque(malloc(10)));
}

int main(int argc, char **argv) {
    keeps = argc > 1 && !strcmp(argv[1], "keeps");
    CHECK(dlsym(RTLD_DEFAULT, "dmi_version") != NULL); /* or this would test glibc */
    if (argc > 1 && !strcmp(argv[1], "info")) {
        test_malloc();
        test_info();
        return 0;
    }
    for (int round = 0; round < 2; round++) {
        test_malloc();
        test_free_keeps_errno();
        test_calloc();
        if (round < 1) test_realloc();
        test_reallocarray();
        test_aligned();
        test_pages();
        test_numbers();
        test_trim();
        test_others();
    }
    test_info();
    return 0;
}
