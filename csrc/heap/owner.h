/* owner.h - the lock of a record, as its own thread takes it for the small blocks of hardened heaps.
 *
 * That thread wants it twice a pair, and hardly anybody else ever does. So the thread is *favoured*: it says with a
 * plain store that it is inside, looks whether it is favoured still, and says with another one that it has left. Who
 * else wants to be inside takes the lock, ends the favour, makes every thread pass a barrier, and waits until the
 * thread has left: a thread that said so before the barrier is seen, one that says so later sees that it is not
 * favoured, and takes the lock as others do. It is favoured again after a while in which nobody else came.
 *
 * The favour is told in two words, of which a path reads one: thread->favour leads straight to the quarantine of the
 * default heap's cache, for the paths that are as short as can be, and thread->favoured is for the rest.
 *
 * What the lock of a record protects apart from that is not touched in here: for that the lock alone is enough.
 */
#ifndef DMI_OWNER_H
#define DMI_OWNER_H

#include "records.h"

/* The order that the race detector wants to see is the one that the barrier makes. Elsewhere plain arithmetic, which
 * compilers do not make of relaxed atomics, is one instruction. */
#if defined(__has_feature)
#define DMI_OWNER_FEATURE(name) __has_feature(name)
#else
#define DMI_OWNER_FEATURE(name) 0
#endif
#if defined(__SANITIZE_THREAD__) || DMI_OWNER_FEATURE(thread_sanitizer)
static inline void _dmi_owner_count(dmi_thread *self, uint32_t n) {
    atomic_fetch_add_explicit(&self->inside, n, memory_order_release);
}
#else
static inline void _dmi_owner_count(dmi_thread *self, uint32_t n) {
    atomic_thread_fence(memory_order_release);
    *(uint32_t *)(void *)&self->inside += n;
}
#endif

static inline void _dmi_owner_leave(dmi_thread *self) {
    _dmi_owner_count(self, UINT32_MAX); /* one less: a signal handler may have been inside too */
    atomic_signal_fence(memory_order_seq_cst);
}
/* False: it is not favoured, and take the lock. Self has caches: it is not &_dmi_no_thread. */
static inline bool _dmi_owner_enter(dmi_thread *self) {
    _dmi_owner_count(self, 1);
    atomic_signal_fence(memory_order_seq_cst);
    if (__builtin_expect(atomic_load_explicit(&self->favoured, memory_order_relaxed), 1))
        return true;
    _dmi_owner_leave(self);
    return false;
}

/* The same for the default heap's cache: its quarantine, or &_dmi_no_quarantine. In both cases leave. */
static inline dmi_quarantine *_dmi_owner_enter_own(dmi_thread *self) {
    _dmi_owner_count(self, 1);
    atomic_signal_fence(memory_order_seq_cst);
    return atomic_load_explicit(&self->favour, memory_order_relaxed);
}

/* Somebody holds the lock of that record: its thread is not inside, and will not be. Of the caller's own record it
 * counts how long nobody else came. */
void _dmi_owner_arrive(dmi_thread *thread);
/* The two halves of it around a barrier that others want too: end the favour; true: wait then. */
bool _dmi_owner_stop(dmi_thread *thread);
void _dmi_owner_wait(dmi_thread *thread);
/* Is it favoured? The record is locked. */
void _dmi_owner_set(dmi_thread *thread, bool favoured);
/* The record's own thread, which holds the lock, is favoured from now on, if it can be. */
void _dmi_owner_favour(dmi_thread *self);

#endif
