/* others.h - attacks of other kinds, which attacks.c runs: wrong questions, aligned blocks, realloc, calloc, fork, and the
 * handles of heaps where the allocator is dmi. Included once, there. */

#include <dlfcn.h>

static unsigned char *aligned(size_t align) {
    void *p = NULL;
    if (posix_memalign(&p, align, size)) _exit(3);
    live[lives] = (block){p, size, 252};
    fill(&live[lives++]);
    return p;
}

/* ---- wrong frees of blocks that malloc did not make ---------------------------------------------------------- */

static void aligned_double(void) {
    unsigned char *p = aligned(256);
    give(p), release(p);
}
static void aligned_interior(void) {
    if (size < 128) _exit(NOT_HERE);
    unsigned char *p = aligned(64);
    hit(p), release(p + 64);
}
static void double_after_many_frees(void) {
    give(a);
    for (int i = 0; i < 200; i++) {
        unsigned char *p = take();
        if (p == a) _exit(0);
        give(p);
    }
    release(a);
}
static void double_in_a_fork_child(void) {
    give(a);
    pid_t child = fork();
    if (child == 0) {
        release(a);
        go_on();
        _exit(0);
    }
    int status;
    if (waitpid(child, &status, 0) != child) _exit(3);
    if (WIFSIGNALED(status)) { /* as it ended, so it is told */
        signal(WTERMSIG(status), SIG_DFL);
        raise(WTERMSIG(status));
    }
    if (WEXITSTATUS(status)) _exit(WEXITSTATUS(status));
}
/* What a fork child frees is not free in the parent. */
static void reuse_of_what_a_fork_child_freed(void) {
    pid_t child = fork();
    if (child == 0) {
        give(a);
        _exit(0);
    }
    if (waitpid(child, NULL, 0) != child) _exit(3);
}

/* ---- realloc and calloc --------------------------------------------------------------------------------------- */

static void free_of_what_realloc_moved(void) {
    unsigned char *p = opaque(realloc(opaque(a), size * 8));
    if (p == a) _exit(NOT_HERE);
    forget(a);
    live[lives] = (block){p, size * 8, 253};
    fill(&live[lives++]);
    release(a);
}
static void realloc_of_what_another_thread_freed(void) {
    forget(a);
    (void)in_thread(release_there, a);
    wrong_realloc(a, size);
}
static void realloc_of_a_large_interior(void) {
    if (size < 100000) _exit(NOT_HERE);
    wrong_realloc(a + 8192, size);
}
static void free_of_what_realloc_cut_off(void) {
    if (size < 100000) _exit(NOT_HERE);
    size_t kept = size - 65536;
    unsigned char *p = opaque(realloc(opaque(a), kept));
    forget(a);
    live[lives] = (block){p, kept, 254};
    fill(&live[lives++]);
    release(a + (kept + 8191) / 4096 * 4096);
}
static void realloc_that_wraps(void) {
    size_t wraps = SIZE_MAX / size + 2;
    void *p = opaque(reallocarray(opaque(a), wraps, size));
    if (p) exploited("a short block for a long request");
}
static void calloc_that_wraps(void) {
    size_t wraps = SIZE_MAX / size + 2;
    if (opaque(calloc(wraps, size))) exploited("a short block for a long request");
}
static void malloc_of_nearly_everything(void) {
    for (size_t less = 0; less < 64; less++)
        if (opaque(malloc(SIZE_MAX - less))) exploited("a short block for a long request");
}
static void calloc_of_what_was_written_when_free(void) {
    size_t edge = edge_of(size);
    give(a), give(b), give(c);
    if (edge > 64) memset(a + 64, 0x41, edge - 64); /* behind what allocators keep there */
    for (int i = 0; i < 40; i++) {
        unsigned char *p = opaque(calloc(1, size));
        for (size_t j = 0; p && j < edge; j++)
            if (p[j] || p[size - 1 - j]) exploited("calloc gave bytes that are not zero");
    }
}

/* ---- questions: a program that believes the answer writes so far ---------------------------------------------- */

static void believe(unsigned char *p) { memset(p, 0x41, room(p)); }
static void size_of_an_interior_address(void) {
    if (size < 32) _exit(NOT_HERE);
    hit(a), believe(a + 16);
}
static void size_of_a_misaligned_address(void) { hit(a), believe(a + 8); }
static void size_of_a_large_interior(void) {
    if (size < 16384) _exit(NOT_HERE);
    hit(a), believe(a + 8192);
}
static void size_of_a_global(void) {
    size_t told = room(target + 4096);
    if (told > sizeof target - 4096) exploited("a size that is not there");
    memset(target + 4096, 0x41, told);
}
static void size_of_a_freed_block(void) { give(a), believe(a); }

/* ---- what stands in a block that waits --------------------------------------------------------------------------- */

static void freed_end_written(void) {
    size_t end = room(a);
    give(a), memset(a + end - 16, 0x41, 16);
}

/* ---- handles, of dmi alone --------------------------------------------------------------------------------------- */

static void *named(const char *name) {
    void *found = dlsym(RTLD_DEFAULT, name);
    if (!found) _exit(NOT_HERE);
    return found;
}
typedef void *heap_maker(const void *);
typedef int heap_ender(void *);
typedef void *heap_malloc(void *, size_t);
static void try_handle(void *handle) {
    heap_malloc *from = (heap_malloc *)(uintptr_t)named("dmi_heap_malloc");
    unsigned char *p = from(handle, size);
    if (p) exploited("a block of a heap that is none");
}
static void forged_handle(void) {
    memset(target, 0x41, sizeof target);
    try_handle(target + 64);
    try_handle(a);
    try_handle((void *)(uintptr_t)0xdeadbeefdeadbee0);
}
static void stale_handle(void) {
    heap_maker *make = (heap_maker *)(uintptr_t)named("dmi_heap_create");
    heap_ender *end = (heap_ender *)(uintptr_t)named("dmi_heap_destroy");
    void *heap = make(NULL);
    if (!heap || end(heap)) _exit(3);
    try_handle(heap);
}
static void free_of_a_heap_that_went(void) {
    heap_maker *make = (heap_maker *)(uintptr_t)named("dmi_heap_create");
    heap_ender *end = (heap_ender *)(uintptr_t)named("dmi_heap_destroy");
    heap_malloc *from = (heap_malloc *)(uintptr_t)named("dmi_heap_malloc");
    void *heap = make(NULL);
    unsigned char *p = heap ? from(heap, size) : NULL;
    if (!p || end(heap)) _exit(3);
    release(p);
}
/* The block's heap is what counts, not the handle. */
static void free_into_another_heap(void) {
    heap_maker *make = (heap_maker *)(uintptr_t)named("dmi_heap_create");
    heap_malloc *from = (heap_malloc *)(uintptr_t)named("dmi_heap_malloc");
    void (*back)(void *, void *) = (void (*)(void *, void *))(uintptr_t)named("dmi_heap_free");
    void *heap = make(NULL);
    if (!heap) _exit(3);
    forget(a), back(heap, a);
    for (int i = 0; i < 40; i++) {
        unsigned char *p = from(heap, size);
        for (size_t k = 0; p && k < lives; k++)
            if (overlap(p, size, live[k].p, live[k].size)) exploited("bytes that somebody has");
    }
    back(heap, a);
}
