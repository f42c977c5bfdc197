/* pass.c - the engine over all runs of a heap, and when the policy wants that next. */
#include "pass.h"
#include "hard_large.h"
#include "leave.h"
#include "registry.h"
#include "visit.h"

#include "../decommit/policies.h"

static void sweep_run(dmi_visitor *visitor, dmi_heap *heap, dmi_cache *cache, dmi_run *run) {
    (void)heap;
    if (visitor->sweep->kind == DMI_PASS_DEFERRED)
        _dmi_units_forget(run->segment, run->first, run->pages);
    if (!cache || !visitor->taken) return;
    (void)_dmi_lfh_collect(run, true);
    _dmi_sweep_run(visitor->sweep, run);
}

/* A thread that sleeps on the lock takes longer to wake up than the lock would be free: so it gets that long. */
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
    _dmi_heap_unlock(heap);
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

/* What the sweep deferred because of huge pages: judge their units, and give back what that sets free. */
static void pass_units(dmi_heap *heap, dmi_sweep *sweep) {
    if (!heap->space.huge || sweep->kind == DMI_PASS_COUNT) return;
    _dmi_lock(&heap->lock);
    if (_dmi_units_judge(sweep)) {
        heap->space.visitors++;
        break_units(heap);
        _dmi_unlock(&heap->lock);
        dmi_sweep again;
        _dmi_sweep_init(&again, sweep->engine, DMI_PASS_DEFERRED, 0);
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

/* The shortest interval, whatever the policy says: a pass costs a walk over what is free. */
#define SHORTEST 0.001

static uint64_t interval(const dmi_heap *heap) {
    const dmi_policy_row *row = _dmi_policy_row(&heap->engine.policy);
    double seconds = row->interval ? row->interval(&heap->engine) : -1;
    if (seconds < 0 || seconds >= 1e9) return 0;
    return (uint64_t)((seconds > SHORTEST ? seconds : SHORTEST) * 1e9);
}

void _dmi_heap_schedule(dmi_heap *heap, uint64_t now) {
    uint64_t wait = interval(heap);
    atomic_store_explicit(&heap->armed, wait != 0, memory_order_relaxed);
    atomic_store_explicit(&heap->wait, wait, memory_order_relaxed);
    atomic_store_explicit(&heap->next_pass, wait ? now + wait : UINT64_MAX, memory_order_relaxed);
}

/* What a policy has done at a pass: on the stack of whoever runs it, with heap->pass held. */
typedef struct heap_passes {
    dmi_passes passes;
    dmi_heap *heap;
} heap_passes;

static dmi_heap *heap_of(dmi_passes *passes) { return ((heap_passes *)(void *)passes)->heap; }

static dmi_outcome sweep_heap(dmi_passes *passes, dmi_pass_kind kind, uint64_t limit) {
    dmi_sweep sweep;
    _dmi_sweep_init(&sweep, passes->engine, kind, limit);
    _dmi_heap_pass(heap_of(passes), &sweep);
    return (dmi_outcome){.left = sweep.found - sweep.refused, .waiting = sweep.waiting};
}

static uint64_t busy_bytes(dmi_passes *passes) { return _dmi_heap_busy(heap_of(passes)); }

static void judge_units(dmi_passes *passes) {
    dmi_sweep sweep;
    _dmi_sweep_init(&sweep, passes->engine, DMI_PASS_DEFERRED, 0);
    pass_units(heap_of(passes), &sweep);
}

bool _dmi_heap_run_policy(dmi_heap *heap) {
    const dmi_policy_row *row = _dmi_policy_row(&heap->engine.policy);
    heap_passes p = {{&heap->engine, sweep_heap, busy_bytes, judge_units}, heap};
    return row->pass && row->pass(&p.passes);
}

void _dmi_heap_do_due(dmi_heap *heap) {
    uint64_t now = _dmi_heap_clock(heap),
             wait = atomic_load_explicit(&heap->wait, memory_order_relaxed);
    /* Whatever happens from here on arms it again. */
    atomic_store_explicit(&heap->armed, false, memory_order_seq_cst);
    if (_dmi_heap_run_policy(heap)) atomic_store_explicit(&heap->armed, true, memory_order_relaxed);
    if (atomic_load_explicit(&heap->armed, memory_order_seq_cst) && wait)
        atomic_store_explicit(&heap->next_pass, now + wait, memory_order_relaxed);
    else atomic_store_explicit(&heap->next_pass, UINT64_MAX, memory_order_relaxed);
}

uint64_t _dmi_heap_trim(dmi_heap *heap) {
    (void)_dmi_heap_clock(heap);
    _dmi_lock(&heap->pass);
    /* Frees that were put off may give pages back by themselves, as the policy has it: part of what is told. */
    _Atomic uint64_t *gone = &heap->space.ledger.decommit_bytes;
    uint64_t given = atomic_load_explicit(gone, memory_order_relaxed);
    _dmi_lock(&heap->lock);
    _dmi_hard_let_go(heap);
    _dmi_unlock(&heap->lock);
    if (_dmi_heap_is_hard(heap)) _dmi_heap_drain(heap, true);
    given = atomic_load_explicit(gone, memory_order_relaxed) - given;
    dmi_sweep sweep;
    _dmi_sweep_init(&sweep, &heap->engine, DMI_PASS_ALL, 0);
    /* What trim is asked for is memory now; an offer would only promise it. */
    if (sweep.how == DMI_HOW_OFFER) sweep.how = DMI_HOW_DISCARD;
    _dmi_heap_pass(heap, &sweep);
    _dmi_unlock(&heap->pass);
    return given + sweep.given;
}
