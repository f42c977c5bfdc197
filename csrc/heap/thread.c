/* thread.c - the records of threads, and taking another thread's caches.
 *
 * A record's address is the token its runs carry; a thread's TLS word _dmi_self holds it while the
 * thread may use the fast paths. To take a thread: hold its record's lock, let its TLS word point to
 * _dmi_no_thread (one store: allocation finds empty slots, frees find no run of their own), then make
 * every thread pass a memory barrier. From then on the owner has at most one operation in flight, begun
 * earlier and suspended for any time. It writes only the head and the count of one run and the link in
 * its own busy block; so the taker never writes those (see lfh.c, take and repair). The owner's next slow
 * path waits for the lock, repairs its runs and puts its TLS word back.
 */
#include "fast.h"

#include <errno.h>

#include "../decommit/pressure.h"

dmi_thread _dmi_no_thread = {.memo_heap = DMI_NO_HANDLE,
                             .cache = {.direct = {[0 ... DMI_DIRECT_MAX / 16] = &_dmi_no_run},
                                       .current = {[0 ... DMI_BUCKETS - 1] = &_dmi_no_run}}};
DMI_TLS dmi_thread *_dmi_self = &_dmi_no_thread;
/* The record whatever _dmi_self says; NULL before the first slow path; NOBODY when there is none to have. */
static DMI_TLS dmi_thread *record;
#define NOBODY (&_dmi_no_thread)

static dmi_lock registry;
static dmi_pool pool = {
    .name = "dmi-threads", .item = (sizeof(dmi_thread) + 63) / 64 * 64, .chunk = 1024};
static dmi_thread *_Atomic all;
static dmi_thread *abandoned;
static int ready; /* 0 not tried, 1 yes, -1 no */
bool _dmi_have_barrier;

/* The heap of a record's nth cache, NULL behind the last one. */
static dmi_heap *heap_of_cache(dmi_thread *self, size_t n) {
    _dmi_lock(&self->lock);
    dmi_cache *cache = self->caches;
    while (cache && n--) cache = cache->next_of_thread;
    dmi_heap *heap = cache ? cache->heap : NULL;
    _dmi_unlock(&self->lock);
    return heap;
}

static void thread_ended(void *value) {
    dmi_thread *self = value;
    _dmi_thread_lock(self);
    _dmi_self = &_dmi_no_thread;
    record = NOBODY;
    self->state = DMI_THREAD_ABANDONED;
    self->tls = NULL;
    self->memo_heap = DMI_NO_HANDLE;
    for (dmi_cache *cache = self->caches; cache; cache = cache->next_of_thread)
        atomic_fetch_add_explicit(&cache->heap->abandoned, 1, memory_order_relaxed);
    _dmi_unlock(&self->lock);
    /* This may wait for the scavenger, which waits for threads: without the lock. Heaps' records stay. */
    dmi_heap *heap;
    for (size_t n = 0; (heap = heap_of_cache(self, n)); n++) _dmi_heap_arm(heap);
    _dmi_lock(&registry);
    self->abandoned = abandoned;
    abandoned = self;
    _dmi_unlock(&registry);
}

static void fork_prepare(void);
static void fork_parent(void);
static void fork_child(void);

/* Somebody who held before the barrier is seen here; whoever holds after it reads a page map that no longer
 * names the segment. */
static bool held(void) {
    if (!_dmi_have_barrier) return false; /* then nobody holds like that */
    if (_dmi_os_barrier()) return true;
    for (dmi_thread *t = _dmi_threads(); t; t = t->next)
        if (atomic_load_explicit(&t->holding, memory_order_acquire)) return true;
    return false;
}

int _dmi_threads_setup(void) {
    _dmi_lock(&registry);
    if (ready == 0) {
        ready = _dmi_os_thread_exit_setup(thread_ended) == 0 ? 1 : -1;
        _dmi_have_barrier = _dmi_os_barrier_setup() == 0;
        _dmi_segments_ask(held);
        (void)_dmi_os_at_fork(fork_prepare, fork_parent, fork_child);
    }
    _dmi_unlock(&registry);
    return ready == 1 ? 0 : ENOSYS;
}

static __attribute__((noinline, cold)) dmi_thread *attach(void) {
    if (ready != 1) return NULL;
    record = NOBODY; /* arming may allocate: then this thread has no record yet */
    _dmi_lock(&registry);
    dmi_thread *self = abandoned;
    bool adopted = self != NULL;
    if (self) {
        abandoned = self->abandoned;
    } else {
        self = _dmi_pool_alloc(&pool);
        if (self) {
            _dmi_cache_clear(&self->cache);
            self->state = DMI_THREAD_ABANDONED;
            self->memo_heap = DMI_NO_HANDLE;
            self->next = all;
            atomic_store_explicit(&all, self, memory_order_release);
        }
    }
    _dmi_unlock(&registry);
    if (!self) {
        record = NULL;
        return NULL;
    }
    if (_dmi_os_thread_exit_arm(self)) {
        _dmi_lock(&registry);
        self->abandoned = abandoned;
        abandoned = self;
        _dmi_unlock(&registry);
        return NULL;
    }
    _dmi_lock(&self->lock);
    self->state = DMI_THREAD_LIVE;
    self->tls = &_dmi_self;
    self->os_id = _dmi_os_thread_id();
    if (adopted)
        for (dmi_cache *cache = self->caches; cache; cache = cache->next_of_thread)
            atomic_fetch_sub_explicit(&cache->heap->abandoned, 1, memory_order_relaxed);
    record = self;
    _dmi_self = self;
    _dmi_unlock(&self->lock);
    return self;
}

dmi_thread *_dmi_thread_self(void) {
    dmi_thread *self = record;
    if (__builtin_expect(self == NULL, 0)) return attach();
    return self == NOBODY ? NULL : self;
}

bool _dmi_thread_repair_taken(dmi_thread *self) {
    bool handed_over = false;
    for (dmi_cache *cache = self->caches; cache; cache = cache->next_of_thread)
        handed_over |= _dmi_cache_repair(cache);
    self->state = DMI_THREAD_LIVE;
    __atomic_store_n(self->tls, self, __ATOMIC_RELAXED);
    return handed_over;
}

bool _dmi_thread_take(dmi_thread *thread) {
    if (thread == record) {
        _dmi_thread_lock(thread);
        return true;
    }
    _dmi_lock(&thread->lock);
    if (thread->state != DMI_THREAD_LIVE) return true;
    if (!_dmi_have_barrier) {
        _dmi_unlock(&thread->lock);
        return false;
    }
    __atomic_store_n(thread->tls, &_dmi_no_thread, __ATOMIC_RELAXED);
    if (_dmi_os_barrier()) {
        __atomic_store_n(thread->tls, thread, __ATOMIC_RELAXED);
        _dmi_unlock(&thread->lock);
        return false;
    }
    thread->state = DMI_THREAD_TAKEN;
    return true;
}

dmi_thread *_dmi_threads(void) { return atomic_load_explicit(&all, memory_order_acquire); }

size_t _dmi_threads_metadata(void) { return pool.live_bytes; }

/* ---- fork ------------------------------------------------------------------------------------------- */

static int lock_pass(dmi_heap *heap, void *unused) {
    (void)unused;
    _dmi_lock(&heap->pass);
    return 0;
}
static int unlock_pass(dmi_heap *heap, void *unused) {
    (void)unused;
    _dmi_unlock(&heap->pass);
    return 0;
}
static int lock_heap(dmi_heap *heap, void *unused) {
    (void)unused;
    _dmi_lock(&heap->shared_lock);
    _dmi_lock(&heap->lock);
    return 0;
}
static int unlock_heap(dmi_heap *heap, void *unused) {
    (void)unused;
    _dmi_unlock(&heap->lock);
    _dmi_unlock(&heap->shared_lock);
    return 0;
}

static void fork_prepare(void) {
    _dmi_scavenger_stop();
    _dmi_heaps_lock();
    (void)_dmi_heaps_each_locked(lock_pass,
                                 NULL); /* nobody takes the registry of heaps inside one */
    _dmi_lock(&registry);
    for (dmi_thread *t = _dmi_threads(); t; t = t->next) _dmi_lock(&t->lock);
    (void)_dmi_heaps_each_locked(lock_heap, NULL);
    _dmi_virtual_lock();
    _dmi_pagemap_lock();
    _dmi_pressure_lock();
}

static void unlock_heaps(void) {
    _dmi_pressure_unlock();
    _dmi_pagemap_unlock();
    _dmi_virtual_unlock();
    (void)_dmi_heaps_each_locked(unlock_heap, NULL);
}
static void unlock_threads(void) {
    for (dmi_thread *t = _dmi_threads(); t; t = t->next) _dmi_unlock(&t->lock);
    _dmi_unlock(&registry);
    (void)_dmi_heaps_each_locked(unlock_pass, NULL);
    _dmi_heaps_unlock();
    _dmi_scavenger_rest();
    _dmi_scavenger_resume();
}

static void fork_parent(void) {
    unlock_heaps();
    unlock_threads();
}

/* The other threads are gone; one operation of each may have been cut off at any instruction. What it
 * held stays busy for ever; everything else is counted afresh from the lists. */
static void fork_child(void) {
    _dmi_segments_forget_holders();
    unlock_heaps(); /* bringing the runs in order gives some of them back; there is no other thread */
    abandoned = NULL; /* a thread that was ending or beginning is not there either */
    for (dmi_thread *t = _dmi_threads(); t; t = t->next) {
        if (t == record) continue;
        if (t->state != DMI_THREAD_ABANDONED) {
            atomic_store_explicit(&t->holding, 0, memory_order_relaxed);
            for (dmi_cache *cache = t->caches; cache; cache = cache->next_of_thread) {
                (void)_dmi_cache_repair(cache);
                atomic_fetch_add_explicit(&cache->heap->abandoned, 1, memory_order_relaxed);
            }
            t->state = DMI_THREAD_ABANDONED;
            t->tls = NULL;
            t->memo_heap = DMI_NO_HANDLE;
        }
        t->abandoned = abandoned;
        abandoned = t;
    }
    (void)_dmi_heaps_each_locked(_dmi_heap_recount, NULL);
    (void)_dmi_os_barrier_setup();
    unlock_threads();
}
