/* fast.h - the fast paths, inlined into every door that has the malloc interface.
 *
 * They take no lock and no atomic read-modify-write. The owner of a run reads and writes its head, used
 * and links with plain instructions; others look at them only after a barrier (see take.c), and then
 * never write them. A free writes mark and link before the head, and an allocation clears them behind it, so that a
 * list that is cut short at any instruction (fork) is still a list. What block/lfh.h says of links and marks costs
 * eleven instructions a pair.
 */
#ifndef DMI_FAST_H
#define DMI_FAST_H

#include "alloc.h"
#include "free.h"
#include "records.h"

/* The race detector does not know the barrier that takers rely on, so for it the order is written out.
 * Elsewhere relaxed atomics are plain instructions, but compilers do not fold them into arithmetic: a
 * count would cost two more, a comparison one. */
#if defined(__has_feature)
#define DMI_FEATURE(name) __has_feature(name)
#else
#define DMI_FEATURE(name) 0
#endif
#if defined(__SANITIZE_THREAD__) || DMI_FEATURE(thread_sanitizer)
static inline uintptr_t _dmi_fast_head(const dmi_run *run) {
    return (uintptr_t)atomic_load_explicit(&run->head, memory_order_relaxed);
}
static inline uint32_t _dmi_fast_half(const void *block) {
    return __atomic_load_n((const dmi_half *)block + 3, __ATOMIC_RELAXED);
}
static inline uintptr_t _dmi_fast_word(const void *block, unsigned i) {
    return __atomic_load_n((const dmi_word *)block + i, __ATOMIC_RELAXED);
}
static inline int32_t _dmi_used_add(dmi_run *run, int32_t n) {
    int32_t used = atomic_load_explicit(&run->used, memory_order_relaxed) + n;
    atomic_store_explicit(&run->used, used, memory_order_relaxed);
    return used;
}
static inline bool _dmi_owner_is(const dmi_run *run, const dmi_thread *self) {
    return atomic_load_explicit(&run->owner, memory_order_relaxed) == (uintptr_t)self;
}
#else
static inline uintptr_t _dmi_fast_head(const dmi_run *run) {
    return *(const dmi_word *)(const void *)&run->head; /* may alias the pointer that it is */
}
static inline uint32_t _dmi_fast_half(const void *block) { return ((const dmi_half *)block)[3]; }
static inline uintptr_t _dmi_fast_word(const void *block, unsigned i) {
    return ((const dmi_word *)block)[i];
}
static inline bool _dmi_owner_is(const dmi_run *run, const dmi_thread *self) {
    return *(const uintptr_t *)(const void *)&run->owner == (uintptr_t)self;
}
static inline int32_t _dmi_used_add(dmi_run *run, int32_t n) {
    int32_t *used = (int32_t *)(void *)&run->used;
    return *used += n;
}
#endif

/* Compilers put the terms of a sum in an order that costs a register more. */
#define DMI_IN_THIS_ORDER(word) __asm__("" : "+r"(word))

static inline dmi_thread *_dmi_self_get(void) {
    return __atomic_load_n(&_dmi_self, __ATOMIC_RELAXED); /* takers write it */
}

/* _dmi_segments_guard at the price of a plain store, where other threads can be made to pass a barrier: then who
 * releases a segment does that, and looks (thread.c). Returns what to let go. */
static inline dmi_thread *_dmi_guard(void) {
    dmi_thread *self = _dmi_self_get();
    if (__builtin_expect(self == &_dmi_no_thread || !_dmi_have_barrier, 0)) {
        _dmi_segments_guard();
        return &_dmi_no_thread;
    }
    /* Counted, for a signal handler may guard in between. */
    uint32_t guards = atomic_load_explicit(&self->guarding, memory_order_relaxed);
    atomic_store_explicit(&self->guarding, guards + 1, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    return self;
}
static inline void _dmi_unguard(dmi_thread *guard) {
    if (__builtin_expect(guard == &_dmi_no_thread, 0)) {
        _dmi_segments_unguard();
        return;
    }
    uint32_t guards = atomic_load_explicit(&guard->guarding, memory_order_relaxed);
    atomic_store_explicit(&guard->guarding, guards - 1, memory_order_release);
}

/* NULL: the list is empty, or its first block is none of its free ones. */
static inline void *_dmi_fast_pop(dmi_run *run) {
    void *block = atomic_load_explicit(&run->head, memory_order_relaxed);
    /* Of its mark only the upper half: the lower one is not known without a multiplication. */
    if (__builtin_expect(_dmi_fast_half(block) != (uint32_t)(uintptr_t)run, 0)) return NULL;
    uintptr_t next = _dmi_fast_word(block, 1) ^ (uintptr_t)_dmi_secret.link;
    DMI_IN_THIS_ORDER(next);
    next ^= _dmi_fast_word(block, 0);
    atomic_store_explicit(&run->head, (void *)next, memory_order_release);
    (void)_dmi_used_add(run, 1);
    /* Behind the head, for a taker who still reads the old one reads the link too. */
    __atomic_store_n((dmi_word *)block, 0, __ATOMIC_RELEASE);
    __atomic_store_n((dmi_word *)block + 1, 0,
                     __ATOMIC_RELEASE); /* the first one orders no later store */
    return block;
}

/* slow: what serves the rest, called last so that the fast path needs no stack frame. */
static inline __attribute__((always_inline)) void *_dmi_fast_malloc_or(size_t size,
                                                                       void *(*slow)(size_t)) {
    if (__builtin_expect(size <= DMI_DIRECT_MAX, 1)) {
        void *block = _dmi_fast_pop(_dmi_self_get()->cache.direct[(size + 15) / 16]);
        if (__builtin_expect(block != NULL, 1)) {
            __asm__("" : "+r"(block)); /* or gcc moves it to where it returns it only at the end */
            return block;
        }
    } else if (size <= DMI_BUCKET_MAX) {
        void *block = _dmi_fast_pop(_dmi_self_get()->cache.current[_dmi_bucket(size)]);
        if (block) return block;
    }
    return slow(size);
}
static inline void *_dmi_fast_malloc(size_t size) {
    return _dmi_fast_malloc_or(size, _dmi_malloc_slow);
}

static inline void *_dmi_fast_heap_malloc(void *handle, size_t size) {
    dmi_thread *self = _dmi_self_get();
    if (__builtin_expect(self->memo_heap == handle && size <= DMI_BUCKET_MAX, 1)) {
        dmi_run *run = size <= DMI_DIRECT_MAX ? self->memo->direct[(size + 15) / 16]
                                              : self->memo->current[_dmi_bucket(size)];
        void *block = _dmi_fast_pop(run);
        if (__builtin_expect(block != NULL, 1)) return block;
    }
    return _dmi_heap_malloc_slow(handle, size);
}

/* Back to a run of this thread's, with its mark. Returns what is used of it; at 0 it must be settled. */
static inline int32_t _dmi_fast_push(dmi_run *run, void *block, uint64_t mark) {
    __atomic_store_n((dmi_word *)block + 1, mark, __ATOMIC_RELAXED);
    uintptr_t link = mark ^ (uintptr_t)_dmi_secret.link;
    DMI_IN_THIS_ORDER(link);
    link ^= _dmi_fast_head(run);
    __atomic_store_n((dmi_word *)block, link, __ATOMIC_RELAXED);
    atomic_store_explicit(&run->head, block, memory_order_release);
    return _dmi_used_add(run, -1);
}

/* Is it free already, or none of the run's blocks? */
static inline bool _dmi_fast_bad(const dmi_run *run, const void *block) {
    uint64_t mark = _dmi_lfh_mark(run, block);
    return !_dmi_lfh_fits(run, mark) || _dmi_fast_word(block, 1) == mark;
}

/* What is no block is marked and listed here as if it were one: its mark does not fit, and no allocation gets it. The
 * mark is that of the address as it came, the words are written where its lowest four bits are 0, and bits above those
 * of any address too: so a free of an address in the last bytes of a block writes none of the next one. */
static inline void _dmi_fast_free_or(void *block, void (*slow)(void *, dmi_run *),
                                     void (*settle)(dmi_run *)) {
    void *clean = block;
    dmi_run *run = _dmi_pagemap_get_clean(&clean);
    if (__builtin_expect(_dmi_owner_is(run, _dmi_self_get()), 1)) {
        uint64_t mark = _dmi_lfh_mark(run, block);
        if (__builtin_expect(_dmi_fast_word(clean, 1) != mark, 1)) {
            if (__builtin_expect(_dmi_fast_push(run, clean, mark) == 0, 0)) settle(run);
            return;
        }
    }
    slow(block, run);
}
static inline void _dmi_fast_free(void *block) {
    _dmi_fast_free_or(block, _dmi_free_slow, _dmi_free_settle);
}
#endif
