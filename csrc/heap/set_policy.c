/* set_policy.c - changing the policy of a heap that is in use. */
#include "cache.h"
#include "guarded.h"
#include "hard_large.h"
#include "leave.h"
#include "pass.h"
#include "records.h"
#include "registry.h"
#include "take.h"
#include "thread.h"
#include "visit.h"

#include <errno.h>

#include "../decommit/policies.h"

static void uncount(dmi_visitor *visitor, dmi_heap *heap, dmi_cache *cache, dmi_run *run) {
    (void)visitor;
    (void)heap;
    if (cache) run->flags &= (uint8_t)~DMI_RUN_COUNTED;
}

static void hand_over(dmi_heap *heap) {
    dmi_thread *self = _dmi_thread_self();
    for (dmi_thread *thread = _dmi_threads(); thread; thread = thread->next) {
        if (!_dmi_thread_take(thread)) continue;
        /* Of a hardened heap nothing is in flight. */
        if (thread == self || thread->state == DMI_THREAD_ABANDONED || _dmi_heap_is_hard(heap))
            for (dmi_cache *cache = thread->caches; cache; cache = cache->next_of_thread)
                if (cache->heap == heap) _dmi_cache_hand_over(cache);
        /* A taken thread hands over itself, in its next slow path. */
        _dmi_unlock(&thread->lock);
    }
}

/* Make every uncommitted range inaccessible, or accessible again. Heap locked. 0 or an errno. */
static int convert(dmi_heap *heap, dmi_os_mode to) {
    for (dmi_segment *s = heap->space.segments; s; s = s->next) {
        for (size_t i = 0; i < s->pages;) {
            size_t from = _dmi_bits_find(s->committed, i, s->pages, false);
            if (from == s->pages) break;
            size_t end = _dmi_bits_find(s->committed, from, s->pages, true);
            int error = _dmi_os_convert(s->base + (from << _dmi_page_shift),
                                        (end - from) << _dmi_page_shift, to);
            if (error) {
                if (to == DMI_OS_LAZY) return error;
                /* It stays writable: uncommitted for dmi, not for the OS. */
                _dmi_bits_put(s->soft, from, end - from, true);
            }
            i = end;
        }
        _dmi_segment_recount_cuts(s, to == DMI_OS_STRICT);
        if (to == DMI_OS_LAZY) {
            int error = _dmi_segment_open_metadata(s);
            if (error) return error;
        }
    }
    heap->space.mode = to;
    _dmi_guarded_protect(heap);
    _dmi_hard_protect(heap);
    for (dmi_segment *s = heap->space.segments; s; s = s->next)
        if (s->units) _dmi_units_advise(s);
    return 0;
}

int dmi_heap_set_policy(void *handle, const dmi_policy *policy) {
    dmi_heap *heap = _dmi_heap_resolve(handle);
    if (!heap) return -1;
    if (!policy || _dmi_policy_check(policy, NULL, 0)) {
        errno = EINVAL;
        return -1;
    }
    if (_dmi_policy_probe(policy)) {
        errno = ENOTSUP;
        return -1;
    }
    _dmi_lock(&heap->pass);
    dmi_how how = _dmi_policy_how(policy);
    dmi_os_mode mode = how == DMI_HOW_DECOMMIT ? DMI_OS_STRICT : DMI_OS_LAZY;
    int error = 0;
    if (mode != heap->space.mode) {
        if (_dmi_heap_freeze(heap)) {
            error = convert(heap, mode);
            _dmi_heap_thaw(heap);
        } else {
            error = ENOTSUP;
        }
    }
    if (!error) {
        bool eager = _dmi_policy_row(policy)->counts;
        bool was = _dmi_policy_row(&heap->engine.policy)->counts;
        _dmi_lock(&heap->shared_lock);
        _dmi_lock(&heap->lock);
        heap->engine.policy = *policy;
        heap->engine.policy.size = sizeof *policy;
        heap->engine.how = how;
        _dmi_unlock(&heap->lock);
        _dmi_unlock(&heap->shared_lock);
        atomic_store_explicit(&heap->shared_only, eager, memory_order_seq_cst);
        if (was && !eager) {
            dmi_visitor visitor = {.run = uncount, .lock = DMI_VISIT_LOCK};
            _dmi_heap_visit(heap, &visitor);
        }
        if (eager && !was) hand_over(heap);
        (void)_dmi_heap_clock(heap);
        if (eager) {
            dmi_sweep sweep;
            _dmi_sweep_init(&sweep, &heap->engine, DMI_PASS_ALL, 0);
            _dmi_heap_pass(heap, &sweep);
        }
        _dmi_lock(&heap->lock);
        _dmi_engine_give_all_freed(&heap->engine);
        _dmi_heap_unlock(heap);
        _dmi_heap_schedule(heap, _dmi_heap_clock(heap));
        (void)_dmi_heap_run_policy(heap);
    }
    _dmi_unlock(&heap->pass);
    if (error) errno = error;
    return error ? -1 : 0;
}
