/* lock.h - floor 1: a small mutex on _dmi_os_wait and _dmi_os_wake.
 *
 * Zeroed memory is an open lock. Not recursive. A thread that waits spins briefly, then sleeps. Each lock counts how
 * often it was waited for, which is `Lock cont.` in `!heap -s`. */
#ifndef DMI_LOCK_H
#define DMI_LOCK_H

#include "os.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct dmi_lock {
    _Atomic uint32_t state;     /* 0 open, 1 held, 2 held and somebody sleeps */
    _Atomic uint32_t contended; /* acquisitions that had to wait */
} dmi_lock;

/* How many locks this thread holds, is about to take, or is releasing. It is never too low, not even for a signal
 * handler that interrupted the thread: at 0 the thread holds none. */
extern DMI_TLS uint32_t _dmi_locks_held;
/* Does this thread hold something else that a fork must not cut in two? NULL: there is nothing like that. */
extern bool (*_dmi_lock_other)(void);

/* Count something that is not a lock, but that a fork in a signal handler must not cut in two. */
static inline void _dmi_lock_enter(void) {
    _dmi_locks_held++;
    atomic_signal_fence(memory_order_seq_cst);
}
static inline void _dmi_lock_leave(void) {
    atomic_signal_fence(memory_order_seq_cst);
    _dmi_locks_held--;
}

void _dmi_lock_slow(dmi_lock *lock);
void _dmi_unlock_slow(dmi_lock *lock);

static inline bool _dmi_lock_take(dmi_lock *lock) {
    uint32_t open = 0;
    return atomic_compare_exchange_strong_explicit(&lock->state, &open, 1, memory_order_acquire,
                                                   memory_order_relaxed);
}
static inline bool _dmi_lock_try(dmi_lock *lock) {
    _dmi_lock_enter();
    if (_dmi_lock_take(lock)) return true;
    _dmi_lock_leave();
    return false;
}
static inline void _dmi_lock(dmi_lock *lock) {
    _dmi_lock_enter();
    if (!_dmi_lock_take(lock)) _dmi_lock_slow(lock);
}
static inline void _dmi_unlock(dmi_lock *lock) {
    if (atomic_exchange_explicit(&lock->state, 0, memory_order_release) == 2)
        _dmi_unlock_slow(lock);
    _dmi_lock_leave();
}
#endif
