/* thread.c - the life of a thread: it gets a record with its first slow path, and leaves it when it ends. */
#include "thread.h"
#include "cache.h"
#include "fork.h"
#include "owner.h"
#include "records.h"
#include "registry.h"
#include "take.h"
#include "tick.h"

#include <errno.h>

#define NOBODY (&_dmi_no_thread)

static int ready; /* 0 not tried, 1 yes, -1 no */

/* The heap of a record's nth cache, NULL behind the last one. */
static dmi_heap *heap_of_cache(dmi_thread *self, size_t n) {
    _dmi_lock(&self->lock);
    dmi_cache *cache = self->caches;
    while (cache && n--) cache = cache->next_of_thread;
    dmi_heap *heap = cache ? cache->heap : NULL;
    _dmi_unlock(&self->lock);
    return heap;
}

static void end_thread(void *value) {
    dmi_thread *self = value;
    _dmi_lock_enter(); /* nobody's record meanwhile: a handler that forks would give it away twice */
    _dmi_thread_lock(self);
    _dmi_self = &_dmi_no_thread;
    _dmi_record = NOBODY;
    self->state = DMI_THREAD_ABANDONED;
    (void)_dmi_owner_stop(self);
    self->tls = NULL;
    self->memo_heap = DMI_NO_HANDLE;
    self->door = &_dmi_no_thread.cache;
    self->hard = self->hard_memo = NULL;
    self->draws = 0;
    for (dmi_cache *cache = self->caches; cache; cache = cache->next_of_thread)
        atomic_fetch_add_explicit(&cache->heap->abandoned, 1, memory_order_relaxed);
    _dmi_unlock(&self->lock);
    /* This may wait for the scavenger, which waits for threads: without the lock. Heaps' records stay. */
    dmi_heap *heap;
    for (size_t n = 0; (heap = heap_of_cache(self, n)); n++) _dmi_heap_arm(heap);
    _dmi_record_put(self);
    _dmi_lock_leave();
}

/* Does any thread guard the segments? One that began before the barrier is seen here; one that begins after it reads a
 * page map that no longer names the segment. */
static bool find_guards(void) {
    if (!_dmi_have_barrier) return false; /* then nobody guards like that */
    if (_dmi_os_barrier()) return true;
    for (dmi_thread *t = _dmi_threads(); t; t = t->next)
        if (atomic_load_explicit(&t->guarding, memory_order_acquire)) return true;
    return false;
}

/* This thread was interrupted inside a hardened heap, where it need hold no lock. */
static bool is_inside(void) {
    const dmi_thread *self = _dmi_record;
    return self && atomic_load_explicit(&self->inside, memory_order_relaxed) != 0;
}

int _dmi_threads_setup(void) {
    _dmi_records_lock();
    if (ready == 0) {
        ready = _dmi_os_thread_exit_setup(end_thread) == 0 ? 1 : -1;
        _dmi_have_barrier = _dmi_os_barrier_setup() == 0;
        _dmi_segments_ask_guards(find_guards);
        _dmi_lock_other = is_inside;
        (void)_dmi_fork_setup();
    }
    _dmi_records_unlock();
    return ready == 1 ? 0 : ENOSYS;
}

static dmi_thread *get_record(void) {
    _dmi_record = NOBODY; /* arming may allocate: then this thread has no record yet */
    bool adopted;
    dmi_thread *self = _dmi_record_get(&adopted);
    if (!self) {
        _dmi_record = NULL;
        return NULL;
    }
    if (_dmi_os_thread_exit_arm(self)) {
        _dmi_record_put(self);
        return NULL;
    }
    _dmi_lock(&self->lock);
    self->state = DMI_THREAD_LIVE;
    self->tls = &_dmi_self;
    self->os_id = _dmi_os_thread_id();
    if (adopted)
        for (dmi_cache *cache = self->caches; cache; cache = cache->next_of_thread)
            atomic_fetch_sub_explicit(&cache->heap->abandoned, 1, memory_order_relaxed);
    _dmi_record = self;
    _dmi_self = self;
    _dmi_unlock(&self->lock);
    return self;
}

static __attribute__((noinline, cold)) dmi_thread *attach(void) {
    if (ready != 1) return NULL;
    _dmi_lock_enter();
    dmi_thread *self = get_record();
    _dmi_lock_leave();
    return self;
}

dmi_thread *_dmi_thread_self(void) {
    dmi_thread *self = _dmi_record;
    if (__builtin_expect(self == NULL, 0)) return attach();
    return self == NOBODY ? NULL : self;
}

dmi_cache *_dmi_thread_lock_cache(dmi_heap *heap) {
    dmi_thread *self = _dmi_thread_self();
    dmi_cache *cache = &heap->shared;
    if (self) {
        /* For an eager heap too: a thread that was taken hands its runs over here. */
        _dmi_thread_lock(self);
        bool shared = atomic_load_explicit(&heap->shared_only, memory_order_relaxed);
        cache = shared ? NULL : _dmi_cache_get(self, heap);
        if (!cache) _dmi_unlock(&self->lock);
    }
    if (!self || !cache) {
        cache = &heap->shared;
        _dmi_lock(cache->lock);
    } else if (cache->quarantine) {
        *(heap == _dmi_default ? &self->hard : &self->hard_memo) = cache;
        bool draws = self->hard && !(_dmi_default->flags & DMI_HEAP_ZERO);
        self->draws = draws ? DMI_BUCKET_MAX - sizeof(uint64_t) + 1 : 0;
        _dmi_owner_arrive(self);
        _dmi_owner_set(self, atomic_load_explicit(&self->favoured, memory_order_relaxed));
    } else {
        self->memo_heap = heap->handle;
        self->memo = cache;
    }
    return cache;
}
