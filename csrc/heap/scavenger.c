/* scavenger.c - one thread for all heaps of the process, there only while a pass is due.
 *
 * A thread that lingers makes Python warn at fork and makes unshare(CLONE_NEWUSER) fail, so it ends when
 * no heap is armed, and fork stops it. Whoever arms a heap starts it again, but not at once after a fork:
 * Python counts the threads when fork has returned. Until then passes that are due are run by slow paths.
 */
#include "scavenger.h"
#include "fault.h"
#include "pass.h"
#include "registry.h"

typedef enum { NONE = 0, RUNNING = DMI_SCAVENGER_RUNNING, ENDED = 2, STARTING = 3 } state;

static dmi_lock lock;                 /* state and its changes */
_Atomic uint32_t _dmi_scavenger_life; /* state */
static _Atomic uint32_t bell;         /* the sleeper's word: changes when it must look again */
static _Atomic uint64_t alarm;        /* when it will look by itself */
static dmi_lock gate;                 /* held from stop to resume: one fork at a time */
static bool forbidden, stopping;
static _Atomic uint64_t quiet_until;
#define QUIET_NS ((uint64_t)100000000)

typedef struct pick {
    dmi_heap *due;
    uint64_t now, next;
} pick;

/* The first heap that is due, with its pass lock held; and when the next one will be. */
static int look(dmi_heap *heap, void *argument) {
    pick *p = argument;
    if (heap->flags & (DMI_HEAP_MANUAL_CLOCK | DMI_HEAP_NO_SERIALIZE)) return 0;
    uint64_t next = atomic_load_explicit(&heap->next_pass, memory_order_relaxed);
    if (next <= p->now && _dmi_lock_try(&heap->pass)) {
        p->due = heap;
        return 1;
    }
    if (next < p->next) p->next = next;
    return 0;
}

static void ring(void) {
    atomic_fetch_add_explicit(&bell, 1, memory_order_seq_cst);
    _dmi_os_wake(&bell, true);
}

static void body(void) {
    for (;;) {
        uint32_t rung = atomic_load_explicit(&bell, memory_order_seq_cst);
        pick p = {.now = _dmi_os_clock(), .next = UINT64_MAX};
        (void)_dmi_heaps_each(look, &p);
        if (p.due) {
            _dmi_heap_do_due(p.due);
            _dmi_unlock(&p.due->pass);
            _dmi_fault_tell("pass");
            continue;
        }
        uint64_t known = atomic_load_explicit(&alarm, memory_order_relaxed);
        atomic_store_explicit(&alarm, p.next, memory_order_seq_cst);
        if (known != p.next)
            continue; /* whoever armed a heap meanwhile saw the old time: look again */
        _dmi_lock(&lock);
        bool rest = rung == atomic_load_explicit(&bell, memory_order_relaxed);
        bool end = stopping || (p.next == UINT64_MAX && rest);
        if (end) atomic_store_explicit(&_dmi_scavenger_life, ENDED, memory_order_relaxed);
        _dmi_unlock(&lock);
        if (end) return;
        /* A heap that is due but being passed over by somebody else: look again soon. */
        _dmi_os_wait(&bell, rung, p.next > p.now ? p.next - p.now : 1000000);
    }
}

bool _dmi_scavenger_want(uint64_t when) {
    atomic_thread_fence(
        memory_order_seq_cst); /* the heap's time is stored before the alarm is read */
    if (atomic_load_explicit(&_dmi_scavenger_life, memory_order_relaxed) == RUNNING) {
        if (when >= atomic_load_explicit(&alarm, memory_order_relaxed)) return true;
        _dmi_lock(&lock);
        bool running = atomic_load_explicit(&_dmi_scavenger_life, memory_order_relaxed) == RUNNING;
        if (running) ring();
        _dmi_unlock(&lock);
        if (running) return true;
    }
    if (forbidden || _dmi_os_clock() < atomic_load_explicit(&quiet_until, memory_order_relaxed) ||
        !_dmi_lock_try(&lock))
        return false;
    uint32_t was = atomic_load_explicit(&_dmi_scavenger_life, memory_order_relaxed);
    bool started = was == RUNNING;
    if (!started && was != STARTING && !stopping) {
        /* Starting a thread allocates, and comes back here: STARTING and the lock turn it away. */
        atomic_store_explicit(&_dmi_scavenger_life, STARTING, memory_order_relaxed);
        if (was == ENDED) _dmi_os_thread_join();
        atomic_store_explicit(&alarm, when, memory_order_relaxed);
        atomic_store_explicit(&_dmi_scavenger_life, RUNNING, memory_order_seq_cst);
        started = _dmi_os_thread_start(body) == 0;
        if (!started) atomic_store_explicit(&_dmi_scavenger_life, NONE, memory_order_relaxed);
    }
    _dmi_unlock(&lock);
    return started;
}

void _dmi_scavenger_stop(void) {
    _dmi_lock(&gate);
    _dmi_lock(&lock);
    stopping = true;
    uint32_t was = atomic_load_explicit(&_dmi_scavenger_life, memory_order_relaxed);
    _dmi_unlock(&lock);
    if (was == RUNNING || was == ENDED) {
        ring();
        _dmi_os_thread_join();
    }
    _dmi_lock(&lock); /* kept, so that nobody is inside when the process forks */
    atomic_store_explicit(&_dmi_scavenger_life, NONE, memory_order_relaxed);
}

void _dmi_scavenger_rest(void) {
    atomic_store_explicit(&quiet_until, _dmi_os_clock() + QUIET_NS, memory_order_relaxed);
}

void _dmi_scavenger_resume(void) {
    stopping = false;
    _dmi_unlock(&lock);
    _dmi_unlock(&gate);
}

void _dmi_scavenger_forbid(void) { forbidden = true; }
