/* lock.h - floor 1: a small mutex on _dmi_os_wait/_dmi_os_wake. 0-initialised memory is an open lock.
 * Not recursive. Spins briefly, then sleeps. Counts contended acquisitions for `!heap -s` Lock cont. */
#ifndef DMI_LOCK_H
#define DMI_LOCK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct dmi_lock {
    _Atomic uint32_t state;     /* 0 open, 1 held, 2 held and somebody sleeps */
    _Atomic uint32_t contended; /* acquisitions that had to wait */
} dmi_lock;

void _dmi_lock_slow(dmi_lock *lock);
void _dmi_unlock_slow(dmi_lock *lock);

static inline bool _dmi_lock_try(dmi_lock *lock) {
    uint32_t open = 0;
    return atomic_compare_exchange_strong_explicit(&lock->state, &open, 1, memory_order_acquire,
                                                   memory_order_relaxed);
}
static inline void _dmi_lock(dmi_lock *lock) {
    if (!_dmi_lock_try(lock)) _dmi_lock_slow(lock);
}
static inline void _dmi_unlock(dmi_lock *lock) {
    if (atomic_exchange_explicit(&lock->state, 0, memory_order_release) == 2)
        _dmi_unlock_slow(lock);
}
#endif
