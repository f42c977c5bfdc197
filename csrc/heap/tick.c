/* tick.c - seeing to it that a pass follows what happens to a heap: the scavenger runs it, or a slow path does. */
#include "tick.h"
#include "pass.h"
#include "registry.h"
#include "scavenger.h"

#include <errno.h>

/* Heaps smaller than this are left to their own slow paths: a thread would cost more than they hold. */
#define WORTH_A_THREAD ((uint64_t)1 << 20)

static uint64_t committed_about(dmi_heap *heap) {
    dmi_ledger *l = &heap->space.ledger;
    uint64_t in = atomic_load_explicit(&l->commit_bytes, memory_order_relaxed) +
                  atomic_load_explicit(&l->recommit_bytes, memory_order_relaxed);
    uint64_t out = atomic_load_explicit(&l->decommit_bytes, memory_order_relaxed);
    return in > out ? in - out : 0;
}

/* Is the heap armed, and does the scavenger know when? Then whoever armed it paid the barrier that telling it costs,
 * and nothing is left to do. */
static inline bool on_its_way(const dmi_heap *heap) {
    return _dmi_scavenger_running() && atomic_load_explicit(&heap->armed, memory_order_seq_cst) &&
           atomic_load_explicit(&heap->next_pass, memory_order_relaxed) != UINT64_MAX &&
           !(heap->flags & DMI_HEAP_NO_SERIALIZE);
}

/* Arm the heap. True: somebody else will run the pass. False: this thread has to, from *due on. */
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
        _dmi_heap_do_due(heap);
    _dmi_unlock(&heap->pass);
}

void _dmi_heap_tick(dmi_heap *heap) {
    hard_pass(heap);
    if (!on_its_way(heap)) tick(heap);
}

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
        _dmi_heap_do_due(heap);
    }
    __atomic_store_n(&heap->manual_now, end, __ATOMIC_RELAXED);
    (void)_dmi_heap_clock(heap);
    _dmi_unlock(&heap->pass);
    return 0;
}
