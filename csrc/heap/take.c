/* take.c - taking another thread's caches, and repairing what was taken.
 *
 * A record's address is the token its runs carry; a thread's TLS word _dmi_self holds it while the
 * thread may use the fast paths. To take a thread: hold its record's lock, let its TLS word point to
 * _dmi_no_thread (one store: allocation finds empty slots, frees find no run of their own), then make
 * every thread pass a memory barrier. From then on the owner has at most one operation in flight, begun
 * earlier and suspended for any time. It writes only the head and the count of one run and the link in
 * its own busy block; so the taker never writes those (see lfh.c, take and repair). The owner's next slow
 * path waits for the lock, repairs its runs and puts its TLS word back.
 */
#include "take.h"
#include "cache.h"
#include "hard.h"
#include "owner.h"
#include "records.h"

bool _dmi_cache_repair(dmi_cache *cache) {
    dmi_run *run = cache->taken, *next;
    cache->taken = NULL;
    for (; run; run = next) {
        next = run->taken_next;
        run->taken_next = NULL;
        _dmi_lfh_repair(run);
        _dmi_cache_review(cache, run);
    }
    dmi_heap *heap = cache->heap;
    if (!cache->thread || !atomic_load_explicit(&heap->shared_only, memory_order_relaxed))
        return false;
    _dmi_cache_hand_over(cache);
    return true;
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
    if (thread == _dmi_record) {
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
    bool favoured = _dmi_owner_stop(thread);
    if (_dmi_os_barrier()) {
        _dmi_owner_set(thread, favoured);
        __atomic_store_n(thread->tls, thread, __ATOMIC_RELAXED);
        _dmi_unlock(&thread->lock);
        return false;
    }
    if (favoured) _dmi_owner_wait(thread);
    thread->state = DMI_THREAD_TAKEN;
    return true;
}

dmi_cache *_dmi_cache_lock_of(dmi_run *run, bool take) {
    for (;;) {
        dmi_cache *cache = atomic_load_explicit(&run->cache, memory_order_acquire);
        if (!cache) return NULL;
        if (take && cache->thread && !cache->quarantine) {
            if (!_dmi_thread_take(cache->thread)) return NULL;
        } else {
            _dmi_lock(cache->lock);
        }
        if (atomic_load_explicit(&run->cache, memory_order_relaxed) == cache) {
            if (cache->quarantine && cache->thread) _dmi_owner_arrive(cache->thread);
            return cache;
        }
        _dmi_unlock(cache->lock);
    }
}

void _dmi_heap_thaw(dmi_heap *heap) {
    _dmi_unlock(&heap->lock);
    _dmi_unlock(&heap->shared_lock);
    for (dmi_thread *thread = heap->frozen; thread; thread = thread->next)
        _dmi_unlock(&thread->lock);
}

/* What waits in quarantines is free. Every lock of the caches is held. */
static void flush_all(dmi_heap *heap) {
    if (!_dmi_heap_is_hard(heap)) return;
    _dmi_hard_flush(&heap->shared);
    for (dmi_thread *thread = heap->frozen; thread; thread = thread->next)
        for (dmi_cache *cache = thread->caches; cache; cache = cache->next_of_thread)
            if (cache->heap == heap) _dmi_hard_flush(cache);
}

bool _dmi_heap_freeze(dmi_heap *heap) {
    for (;;) {
        heap->frozen = _dmi_threads();
        for (dmi_thread *thread = heap->frozen; thread; thread = thread->next) {
            if (_dmi_thread_take(thread)) continue;
            for (dmi_thread *t = heap->frozen; t != thread; t = t->next) _dmi_unlock(&t->lock);
            return false;
        }
        _dmi_lock(&heap->shared_lock);
        flush_all(heap);
        _dmi_lock(&heap->lock);
        /* A thread that is new since then finds the heap's lock taken, unless it was here before. */
        if (_dmi_threads() == heap->frozen) return true;
        _dmi_heap_thaw(heap);
    }
}
