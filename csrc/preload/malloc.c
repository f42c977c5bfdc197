/* malloc.c - malloc and its family, as the C library declares them.
 *
 * The fast paths are inlined here, in one translation unit, and every slow function is called last: the
 * common malloc and free have no stack frame. Nothing is torn down at exit: destructors of other
 * libraries may still allocate and free. Where standards leave a choice (realloc to 0, odd alignments)
 * these functions do what glibc does, because that is what programs were tried on.
 */
#include "preload.h"

#include <errno.h>
#include <malloc.h>
#include <string.h>

/* Declarations alone do not follow -fvisibility; hidden ones are reached without the GOT. */
#pragma GCC visibility push(hidden)
#include "../heap/create.h"
#include "../heap/fast.h"
#include "../heap/hard_fast.h"
#include "../heap/registry.h"
#pragma GCC visibility pop

#define COLD __attribute__((noinline, cold))
#define LIKELY(x) __builtin_expect(!!(x), 1)
/* In a function that calls a slow path otherwise than last: a reader of stacks finds its caller through it. */
#define LINK_FRAME __asm__ volatile("" : : "r"(DMI_FRAME))

/* ---- slow paths --------------------------------------------------------------------------------------- */

/* Every way that may make the default heap passes here first. */
static inline void prepare(void) {
    if (!LIKELY(__atomic_load_n(&_dmi_default, __ATOMIC_ACQUIRE))) _dmi_preload_read_options();
    if (!LIKELY(!atomic_load_explicit(&_dmi_preload_asked, memory_order_relaxed)))
        _dmi_preload_answer();
}

static COLD void *malloc_rest(size_t size) {
    prepare();
    return _dmi_malloc_slow(size);
}

void *_dmi_preload_malloc_slow(size_t size) { return _dmi_hard_malloc_or(size, malloc_rest); }

/* All are called last by the doors, so that they return to whom free returns to. */
static COLD void free_rest(void *block, dmi_run *run) {
    if (_dmi_preload_is_loader(__builtin_return_address(0))) {
        _dmi_free_quietly(block, run);
        return;
    }
    _dmi_free_slow(block, run);
    if (!LIKELY(!atomic_load_explicit(&_dmi_preload_asked, memory_order_relaxed)))
        _dmi_preload_answer();
}

void _dmi_preload_free_slow(void *block, dmi_run *run) {
    if (_dmi_hard_owns(run)) _dmi_hard_free_or(block, run, free_rest);
    else free_rest(block, run);
}

COLD void _dmi_preload_free_settle(dmi_run *run) {
    if (_dmi_preload_is_loader(__builtin_return_address(0))) _dmi_free_settle_quietly(run);
    else _dmi_free_settle(run);
}

static COLD void *calloc_slow(size_t count, size_t size) {
    prepare();
    return dmi_calloc(count, size);
}

static COLD void *realloc_slow(void *block, size_t size) {
    prepare();
    return dmi_realloc(block, size);
}

/* Of a block of a hardened heap. The rules are the core's (realloc.c). */
static __attribute__((noinline)) void *realloc_hardened(void *block, dmi_run *run, size_t size) {
    LINK_FRAME;
    if (!_dmi_hard_sound(run, block)) return realloc_slow(block, size);
    size_t have = run->block_size - sizeof(uint64_t);
    if (size <= have && size + sizeof(uint64_t) >= run->block_size / 2u) return block;
    void *fresh = _dmi_hard_malloc_or(size, malloc_rest);
    if (!fresh) return NULL;
    memcpy(fresh, block, have < size ? have : size);
    _dmi_hard_free_or(block, run, free_rest);
    return fresh;
}

static void *alloc_aligned(size_t align, size_t size) {
    if (align <= 16) return _dmi_fast_malloc_or(size, _dmi_preload_malloc_slow);
    prepare();
    return dmi_aligned_alloc(align, size);
}

/* ---- the standard's ----------------------------------------------------------------------------------- */

DMI_DOOR void *malloc(size_t size) { return _dmi_fast_malloc_or(size, _dmi_preload_malloc_slow); }

DMI_DOOR void free(void *block) {
    _dmi_fast_free_or(block, _dmi_preload_free_slow, _dmi_preload_free_settle);
}

DMI_DOOR void *calloc(size_t count, size_t size) {
    LINK_FRAME;
    size_t total;
    if (LIKELY(!__builtin_mul_overflow(count, size, &total) && total <= DMI_BUCKET_MAX)) {
        void *block = _dmi_fast_malloc_or(total, _dmi_preload_malloc_slow);
        return LIKELY(block) ? memset(block, 0, total) : NULL;
    }
    return calloc_slow(count, size);
}

DMI_DOOR void *realloc(void *block, size_t size) {
    LINK_FRAME;
    if (!block) return _dmi_fast_malloc_or(size, _dmi_preload_malloc_slow);
    if (size == 0) {
        _dmi_fast_free_or(block, _dmi_preload_free_slow, _dmi_preload_free_settle);
        return NULL;
    }
    dmi_run *run = _dmi_pagemap_get(block);
    if (run->kind == DMI_RUN_LFH && LIKELY(!_dmi_run_is_hard(run) && !_dmi_fast_bad(run, block))) {
        /* As in the core: shrinking to less than half moves, so that the memory is not held. */
        size_t have = run->block_size;
        if (size <= have && size >= have / 2) return block;
        if (_dmi_heap_of_run(run) == _dmi_default) {
            void *fresh = _dmi_fast_malloc_or(size, _dmi_preload_malloc_slow);
            if (!fresh) return NULL;
            memcpy(fresh, block, have < size ? have : size);
            _dmi_fast_free_or(block, _dmi_preload_free_slow, _dmi_preload_free_settle);
            return fresh;
        }
    }
    if (_dmi_hard_owns(run)) return realloc_hardened(block, run, size);
    return realloc_slow(block, size);
}

DMI_DOOR void *aligned_alloc(size_t align, size_t size) {
    if (align == 0 || align & (align - 1)) {
        errno = EINVAL;
        return NULL;
    }
    return alloc_aligned(align, size);
}

/* C23: the size says nothing that the page map does not know better. */
DMI_DOOR void free_sized(void *block, size_t size);
DMI_DOOR void free_sized(void *block, size_t size) {
    (void)size;
    _dmi_fast_free_or(block, _dmi_preload_free_slow, _dmi_preload_free_settle);
}
DMI_DOOR void free_aligned_sized(void *block, size_t align, size_t size);
DMI_DOOR void free_aligned_sized(void *block, size_t align, size_t size) {
    (void)align;
    (void)size;
    _dmi_fast_free_or(block, _dmi_preload_free_slow, _dmi_preload_free_settle);
}

/* ---- POSIX's and the BSDs' ---------------------------------------------------------------------------- */

DMI_DOOR int posix_memalign(void **out, size_t align, size_t size) {
    if (align == 0 || align & (align - 1) || align % sizeof(void *)) return EINVAL;
    int saved = errno;
    void *block = alloc_aligned(align, size);
    errno = saved;
    if (!block) return ENOMEM;
    *out = block;
    return 0;
}

DMI_DOOR void *reallocarray(void *block, size_t count, size_t size) {
    size_t total;
    if (__builtin_mul_overflow(count, size, &total)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(block, total);
}

DMI_DOOR void *memalign(size_t align, size_t size) {
    if (align > SIZE_MAX / 2 + 1) {
        errno = EINVAL;
        return NULL;
    }
    size_t power = 16;
    while (power < align) power <<= 1;
    return alloc_aligned(power, size);
}

DMI_DOOR void *valloc(size_t size) { return alloc_aligned(_dmi_os_page_size(), size); }

DMI_DOOR void *pvalloc(size_t size) {
    size_t page = _dmi_os_page_size(), rounded;
    if (__builtin_add_overflow(size, page - 1, &rounded)) {
        errno = ENOMEM;
        return NULL;
    }
    rounded &= ~(page - 1);
    return alloc_aligned(page, rounded ? rounded : page);
}

DMI_DOOR void cfree(void *block);
DMI_DOOR void cfree(void *block) {
    _dmi_fast_free_or(block, _dmi_preload_free_slow, _dmi_preload_free_settle);
}

/* ---- glibc's own names, which some programs call ------------------------------------------------------- */

#define ALIAS(name) DMI_DOOR __attribute__((alias(#name), copy(name)))
ALIAS(malloc) void *__libc_malloc(size_t);
/* By a name that nobody can bind to another one. */
extern __attribute__((alias("malloc"), copy(malloc),
                      visibility("hidden"))) void *_dmi_preload_own_malloc(size_t);
ALIAS(free) void __libc_free(void *);
ALIAS(calloc) void *__libc_calloc(size_t, size_t);
ALIAS(realloc) void *__libc_realloc(void *, size_t);
ALIAS(memalign) void *__libc_memalign(size_t, size_t);
ALIAS(valloc) void *__libc_valloc(size_t);
ALIAS(pvalloc) void *__libc_pvalloc(size_t);

/* ---- questions ----------------------------------------------------------------------------------------- */

DMI_DOOR size_t malloc_usable_size(void *block) { return dmi_usable_size(block); }

/* 1 when memory went back, 0 when there was nothing to give. pad is glibc's heap top; there is none. */
DMI_DOOR int malloc_trim(size_t pad) {
    (void)pad;
    prepare();
    int saved = errno;
    dmi_trim_report report = {.size = sizeof report};
    int error = dmi_heap_trim(dmi_heap_default(), &report);
    errno = saved;
    return error == 0 && report.decommitted > 0;
}

/* Blocks mapped on their own are apart, as in glibc: arena = uordblks + fordblks, and fordblks is what
 * the heap retains. */
DMI_DOOR struct mallinfo2 mallinfo2(void) {
    struct mallinfo2 info;
    memset(&info, 0, sizeof info);
    prepare();
    int saved = errno;
    dmi_heap *heap = _dmi_default_heap();
    dmi_stats stats = {.size = sizeof stats};
    if (heap && dmi_heap_stats(heap->handle, &stats, 0) == 0) {
        _dmi_lock(&heap->lock);
        for (dmi_run *run = heap->space.virtuals; run; run = run->next, info.hblks++)
            info.hblkhd += _dmi_run_size(run);
        _dmi_unlock(&heap->lock);
        /* Other threads may have been at it between the two looks. */
        if (info.hblkhd > stats.busy) info.hblkhd = stats.busy;
        info.arena = stats.committed - info.hblkhd;
        info.uordblks = stats.busy - info.hblkhd;
        info.fordblks = info.arena - info.uordblks;
        info.ordblks = stats.list_length;
        info.keepcost = stats.free_pages;
    }
    errno = saved;
    return info;
}

/* The old struct holds ints: what does not fit is cut, as in glibc. */
DMI_DOOR struct mallinfo mallinfo(void) {
    struct mallinfo2 wide = mallinfo2();
    struct mallinfo info;
    memset(&info, 0, sizeof info);
    info.arena = (int)wide.arena;
    info.ordblks = (int)wide.ordblks;
    info.hblks = (int)wide.hblks;
    info.hblkhd = (int)wide.hblkhd;
    info.uordblks = (int)wide.uordblks;
    info.fordblks = (int)wide.fordblks;
    info.keepcost = (int)wide.keepcost;
    return info;
}

/* Its declaration is marked as deprecated, which this alias must not be told. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
ALIAS(mallinfo) struct mallinfo __libc_mallinfo(void);
#pragma GCC diagnostic pop

DMI_DOOR void malloc_stats(void) {
    _dmi_preload_write(DMI_ASKED_SUMMARY | DMI_WANTED_TOTALS, "on request");
}
