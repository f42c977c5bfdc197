/* pass.c - when the engine runs, over which runs, with which locks; policies on a live heap. */
#include "fast.h"

#include <errno.h>
#include <math.h>

#include "../decommit/pressure.h"

static void sweep_run(dmi_visitor *visitor, dmi_heap *heap, dmi_cache *cache, dmi_run *run) {
    (void)heap;
    if (visitor->sweep->kind == DMI_PASS_HELD)
        _dmi_units_forget(run->segment, run->first, run->pages);
    if (!cache || !visitor->taken) return;
    (void)_dmi_lfh_collect(run, true);
    _dmi_sweep_run(visitor->sweep, run);
}

/* Whoever sleeps on the lock needs longer to wake up than it would be free: let it have that time. */
#define WAKE_NS 500000

static void let_others(void *argument) {
    static _Atomic uint32_t nothing;
    dmi_heap *heap = argument;
    bool waited_for = atomic_load_explicit(&heap->lock.state, memory_order_relaxed) == 2;
    _dmi_unlock(&heap->lock);
    if (waited_for) _dmi_os_wait(&nothing, 0, WAKE_NS);
    _dmi_lock(&heap->lock);
}

static void pass_once(dmi_heap *heap, dmi_sweep *sweep) {
    dmi_visitor visitor = {.run = sweep_run, .lock = DMI_VISIT_TAKE, .sweep = sweep};
    _dmi_heap_visit(heap, &visitor);
    _dmi_lock(&heap->lock);
    heap->space.visitors++;
    sweep->pause = let_others;
    sweep->pause_argument = heap;
    _dmi_sweep_backend(sweep);
    sweep->pause = NULL;
    if (--heap->space.visitors == 0 && heap->space.release_due) {
        heap->space.release_due = false;
        (void)_dmi_segments_release(&heap->space, false);
    }
    _dmi_unlock(&heap->lock);
}

/* Breaking a huge page takes the kernel longer than anybody should wait for the heap's lock. Visitors keep
 * the segments where they are. Called and returns with the lock held. */
static void break_units(dmi_heap *heap) {
    for (dmi_segment *s = heap->space.segments; s; s = s->next) {
        size_t unit = 0;
        while ((unit = _dmi_bits_find(s->opening, unit, s->units, true)) < s->units) {
            _dmi_unlock(&heap->lock);
            _dmi_unit_break(s, unit++);
            _dmi_lock(&heap->lock);
        }
    }
}

/* What the sweep held back because of huge pages: judge their units, and give back what that sets free. */
static void pass_units(dmi_heap *heap, dmi_sweep *sweep) {
    if (!heap->space.huge || sweep->kind == DMI_PASS_COUNT) return;
    _dmi_lock(&heap->lock);
    if (_dmi_units_judge(sweep)) {
        heap->space.visitors++;
        break_units(heap);
        _dmi_unlock(&heap->lock);
        dmi_sweep again;
        _dmi_sweep_init(&again, sweep->engine, DMI_PASS_HELD, 0);
        again.how = sweep->how;
        pass_once(heap, &again);
        sweep->given += again.given;
        _dmi_lock(&heap->lock);
        _dmi_units_settle(&heap->space);
        heap->space.visitors--;
        if (sweep->how != DMI_HOW_OFFER) (void)_dmi_segments_release(&heap->space, false);
    }
    _dmi_unlock(&heap->lock);
}

void _dmi_heap_pass(dmi_heap *heap, dmi_sweep *sweep) {
    pass_once(heap, sweep);
    pass_units(heap, sweep);
}

/* ---- schedule ------------------------------------------------------------------------------------------ */

/* Shorter delays than this are taken for it: a pass costs a walk over what is free. */
#define SHORTEST 0.001

static uint64_t interval(const dmi_heap *heap) {
    double seconds = _dmi_engine_interval(&heap->engine);
    if (seconds < 0 || seconds >= 1e9) return 0;
    return (uint64_t)((seconds > SHORTEST ? seconds : SHORTEST) * 1e9);
}

void _dmi_heap_schedule(dmi_heap *heap, uint64_t now) {
    uint64_t wait = interval(heap);
    atomic_store_explicit(&heap->armed, wait != 0, memory_order_relaxed);
    atomic_store_explicit(&heap->wait, wait, memory_order_relaxed);
    atomic_store_explicit(&heap->next_pass, wait ? now + wait : UINT64_MAX, memory_order_relaxed);
}

/* What the policy wants done at a pass; true when it wants another one though nothing happens. */
static bool run_policy(dmi_heap *heap) {
    dmi_engine *engine = &heap->engine;
    dmi_sweep sweep;
    switch (engine->policy.when) {
    case DMI_WHEN_LAZY:
        _dmi_sweep_init(&sweep, engine, DMI_PASS_AGE, 0);
        _dmi_heap_pass(heap, &sweep);
        return sweep.waiting || sweep.found > sweep.refused;
    case DMI_WHEN_DECAY:
        _dmi_sweep_init(&sweep, engine, DMI_PASS_COUNT, 0);
        _dmi_heap_pass(heap, &sweep);
        bool waiting = sweep.waiting;
        uint64_t found = sweep.found - sweep.refused; /* what cannot go is under no curve */
        uint64_t limit = _dmi_engine_decay_limit(engine, found);
        _dmi_sweep_init(&sweep, engine, DMI_PASS_LIMIT, limit);
        if (found > limit) _dmi_heap_pass(heap, &sweep);
        return waiting || found > 0;
    case DMI_WHEN_BUDGET:
        _dmi_sweep_init(&sweep, engine, DMI_PASS_LIMIT,
                        (uint64_t)(engine->policy.ratio * (double)_dmi_heap_busy(heap)));
        _dmi_heap_pass(heap, &sweep);
        return sweep.waiting;
    case DMI_WHEN_PRESSURE:
        /* Whatever is kept must go when the machine asks for it, so somebody goes on looking. */
        if (!_dmi_pressure_high(&engine->policy)) return true;
        _dmi_sweep_init(&sweep, engine, DMI_PASS_ALL, 0);
        _dmi_heap_pass(heap, &sweep);
        return sweep.waiting;
    case DMI_WHEN_EAGER:
    case DMI_WHEN_THRESHOLD:
        _dmi_sweep_init(&sweep, engine, DMI_PASS_HELD, 0);
        pass_units(heap, &sweep);
        return false;
    default: return false;
    }
}

void _dmi_heap_due(dmi_heap *heap) {
    uint64_t now = _dmi_heap_clock(heap),
             wait = atomic_load_explicit(&heap->wait, memory_order_relaxed);
    /* Whatever happens from here on arms it again. */
    atomic_store_explicit(&heap->armed, false, memory_order_seq_cst);
    if (run_policy(heap)) atomic_store_explicit(&heap->armed, true, memory_order_relaxed);
    if (atomic_load_explicit(&heap->armed, memory_order_seq_cst) && wait)
        atomic_store_explicit(&heap->next_pass, now + wait, memory_order_relaxed);
    else atomic_store_explicit(&heap->next_pass, UINT64_MAX, memory_order_relaxed);
}

/* Heaps smaller than this are left to their own slow paths: a thread would cost more than they hold. */
#define WORTH_A_THREAD ((uint64_t)1 << 20)

static uint64_t committed_about(dmi_heap *heap) {
    dmi_ledger *l = &heap->space.ledger;
    uint64_t in = atomic_load_explicit(&l->commit_bytes, memory_order_relaxed) +
                  atomic_load_explicit(&l->recommit_bytes, memory_order_relaxed);
    uint64_t out = atomic_load_explicit(&l->decommit_bytes, memory_order_relaxed);
    return in > out ? in - out : 0;
}

/* A pass is due some time, and the scavenger knows: who armed the heap told it, at the price of a barrier. */
static inline bool on_its_way(const dmi_heap *heap) {
    return _dmi_scavenger_running() && atomic_load_explicit(&heap->armed, memory_order_seq_cst) &&
           atomic_load_explicit(&heap->next_pass, memory_order_relaxed) != UINT64_MAX &&
           !(heap->flags & DMI_HEAP_NO_SERIALIZE);
}

/* True: somebody sees to it. False: *due says when it should run. */
static bool arm(dmi_heap *heap, uint64_t *due) {
    uint64_t next = atomic_load_explicit(&heap->next_pass, memory_order_relaxed);
    bool armed = atomic_load_explicit(&heap->armed, memory_order_seq_cst) && next != UINT64_MAX;
    if (!armed) {
        atomic_store_explicit(&heap->armed, true, memory_order_seq_cst);
        next = _dmi_heap_clock(heap) + atomic_load_explicit(&heap->wait, memory_order_relaxed);
        atomic_store_explicit(&heap->next_pass, next, memory_order_relaxed);
    }
    *due = next;
    if (heap->flags & DMI_HEAP_MANUAL_CLOCK) return true;  /* advance does it */
    if (heap->flags & DMI_HEAP_NO_SERIALIZE) return false; /* nobody else may */
    return committed_about(heap) >= WORTH_A_THREAD && _dmi_scavenger_want(next);
}

void _dmi_heap_arm(dmi_heap *heap) {
    uint64_t due;
    if (on_its_way(heap)) return;
    if (atomic_load_explicit(&heap->wait, memory_order_relaxed)) (void)arm(heap, &due);
}

/* Hard modes, for tests: every slow path takes all threads (DMI_HARD_TAKE), or gives back all that is free as
 * well (DMI_HARD_PURGE). */
#if defined(DMI_HARD_PURGE)
#define HARD DMI_PASS_ALL
#elif defined(DMI_HARD_TAKE)
#define HARD DMI_PASS_COUNT
#endif
#if defined(HARD)
static void hard_pass(dmi_heap *heap) {
    if (!_dmi_lock_try(&heap->pass)) return;
    dmi_sweep sweep;
    _dmi_sweep_init(&sweep, &heap->engine, HARD, 0);
    _dmi_heap_pass(heap, &sweep);
    _dmi_unlock(&heap->pass);
}
#else
static void hard_pass(dmi_heap *heap) { (void)heap; }
#endif

static __attribute__((noinline)) void tick(dmi_heap *heap) {
    uint64_t next;
    if (!atomic_load_explicit(&heap->wait, memory_order_relaxed) || arm(heap, &next)) return;
    if (_dmi_heap_clock(heap) < next || !_dmi_lock_try(&heap->pass)) return;
    if (_dmi_heap_clock(heap) >= atomic_load_explicit(&heap->next_pass, memory_order_relaxed))
        _dmi_heap_due(heap);
    _dmi_unlock(&heap->pass);
}

void _dmi_heap_tick(dmi_heap *heap) {
    hard_pass(heap);
    if (!on_its_way(heap)) tick(heap);
}

void dmi_set_map_limit(uint64_t most) { _dmi_set_map_limit(most); }

int dmi_heap_advance(void *handle, double seconds) {
    dmi_heap *heap = _dmi_heap_resolve(handle);
    if (!heap) return -1;
    if (!(heap->flags & DMI_HEAP_MANUAL_CLOCK) || !(seconds >= 0) || seconds > 1e9) {
        errno = EINVAL;
        return -1;
    }
    _dmi_lock(&heap->pass);
    uint64_t end = heap->manual_now + (uint64_t)(seconds * 1e9);
    unsigned idle = 0;
    for (;;) {
        uint64_t next = atomic_load_explicit(&heap->next_pass, memory_order_relaxed);
        if (next > end) break;
        /* Nothing is handed out or freed while advance runs: after as many passes as any curve has steps
         * the rest of them would find nothing. */
        if (idle++ > 2 * DMI_DECAY_STEPS) next = end;
        __atomic_store_n(&heap->manual_now, next, __ATOMIC_RELAXED);
        _dmi_heap_due(heap);
    }
    __atomic_store_n(&heap->manual_now, end, __ATOMIC_RELAXED);
    (void)_dmi_heap_clock(heap);
    _dmi_unlock(&heap->pass);
    return 0;
}

uint64_t _dmi_heap_trim(dmi_heap *heap) {
    (void)_dmi_heap_clock(heap);
    _dmi_lock(&heap->pass);
    dmi_sweep sweep;
    _dmi_sweep_init(&sweep, &heap->engine, DMI_PASS_ALL, 0);
    /* What trim is asked for is memory now; an offer would only promise it. */
    if (sweep.how == DMI_HOW_OFFER) sweep.how = DMI_HOW_DISCARD;
    _dmi_heap_pass(heap, &sweep);
    uint64_t given = sweep.given;
    _dmi_unlock(&heap->pass);
    return given;
}

/* ---- changing the policy ------------------------------------------------------------------------------- */

static void uncount(dmi_visitor *visitor, dmi_heap *heap, dmi_cache *cache, dmi_run *run) {
    (void)visitor;
    (void)heap;
    if (cache) run->flags &= (uint8_t)~DMI_RUN_COUNTED;
}

static void hand_over(dmi_heap *heap) {
    dmi_thread *self = _dmi_thread_self();
    for (dmi_thread *thread = _dmi_threads(); thread; thread = thread->next) {
        if (!_dmi_thread_take(thread)) continue;
        if (thread == self || thread->state == DMI_THREAD_ABANDONED)
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
    if (policy->when == DMI_WHEN_PRESSURE && _dmi_pressure_probe()) {
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
        bool eager = policy->when == DMI_WHEN_EAGER;
        bool was = atomic_load_explicit(&heap->shared_only, memory_order_relaxed);
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
        _dmi_engine_inline(&heap->engine);
        _dmi_unlock(&heap->lock);
        _dmi_heap_schedule(heap, _dmi_heap_clock(heap));
        (void)run_policy(heap);
    }
    _dmi_unlock(&heap->pass);
    if (error) errno = error;
    return error ? -1 : 0;
}
