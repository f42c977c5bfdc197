/* fast.h - the fast paths, inlined into every door that has the malloc interface.
 *
 * They take no lock and no atomic read-modify-write. The owner of a run reads and writes its head, used
 * and links with plain instructions; others look at them only after a barrier (see take.c), and then
 * never write them. A free writes its link before the head, so that a list that is cut short at any
 * instruction (fork) is still a list.
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
#define DMI_HEAD_ORDER memory_order_release
static inline int32_t _dmi_used_add(dmi_run *run, int32_t n) {
    int32_t used = atomic_load_explicit(&run->used, memory_order_relaxed) + n;
    atomic_store_explicit(&run->used, used, memory_order_relaxed);
    return used;
}
static inline bool _dmi_owner_is(const dmi_run *run, const dmi_thread *self) {
    return atomic_load_explicit(&run->owner, memory_order_relaxed) == (uintptr_t)self;
}
#else
#define DMI_HEAD_ORDER memory_order_relaxed
static inline bool _dmi_owner_is(const dmi_run *run, const dmi_thread *self) {
    return *(const uintptr_t *)(const void *)&run->owner == (uintptr_t)self;
}
static inline int32_t _dmi_used_add(dmi_run *run, int32_t n) {
    int32_t *used = (int32_t *)(void *)&run->used;
    return *used += n;
}
#endif

static inline dmi_thread *_dmi_self_get(void) {
    return __atomic_load_n(&_dmi_self, __ATOMIC_RELAXED); /* takers write it */
}

/* _dmi_segments_hold at the price of a plain store, where other threads can be made to pass a barrier: then who
 * releases a segment does that, and looks (thread.c). Returns what to let go. */
static inline dmi_thread *_dmi_hold(void) {
    dmi_thread *self = _dmi_self_get();
    if (__builtin_expect(self == &_dmi_no_thread || !_dmi_have_barrier, 0)) {
        _dmi_segments_hold();
        return &_dmi_no_thread;
    }
    /* Counted, for a signal handler may hold in between. */
    uint32_t holds = atomic_load_explicit(&self->holding, memory_order_relaxed);
    atomic_store_explicit(&self->holding, holds + 1, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    return self;
}
static inline void _dmi_let_go(dmi_thread *held) {
    if (__builtin_expect(held == &_dmi_no_thread, 0)) {
        _dmi_segments_let_go();
        return;
    }
    uint32_t holds = atomic_load_explicit(&held->holding, memory_order_relaxed);
    atomic_store_explicit(&held->holding, holds - 1, memory_order_release);
}

static inline void *_dmi_fast_pop(dmi_run *run) {
    void *block = atomic_load_explicit(&run->head, memory_order_relaxed);
    if (__builtin_expect(block != NULL, 1)) {
        atomic_store_explicit(&run->head, _dmi_link_get(block), DMI_HEAD_ORDER);
        (void)_dmi_used_add(run, 1);
    }
    return block;
}

/* slow: what serves the rest, called last so that the fast path needs no stack frame. */
static inline void *_dmi_fast_malloc_or(size_t size, void *(*slow)(size_t)) {
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

/* Back to a run of this thread's. Returns what is used of it; at 0 it must be settled. */
static inline int32_t _dmi_fast_push(dmi_run *run, void *block) {
    _dmi_link_set(block, atomic_load_explicit(&run->head, memory_order_relaxed));
    atomic_signal_fence(memory_order_release);
    atomic_store_explicit(&run->head, block, DMI_HEAD_ORDER);
    return _dmi_used_add(run, -1);
}

static inline void _dmi_fast_free_or(void *block, void (*slow)(void *, dmi_run *),
                                     void (*settle)(dmi_run *)) {
    dmi_run *run = _dmi_pagemap_get(block);
    if (__builtin_expect(_dmi_owner_is(run, _dmi_self_get()), 1)) {
        if (__builtin_expect(_dmi_fast_push(run, block) == 0, 0)) settle(run);
        return;
    }
    slow(block, run);
}
static inline void _dmi_fast_free(void *block) {
    _dmi_fast_free_or(block, _dmi_free_slow, _dmi_free_settle);
}
#endif
