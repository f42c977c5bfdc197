/* lock.c - waiting for the mutex of lock.h. */
#include "lock.h"

#include "os.h"

/* A thread holds a lock for well under a microsecond, unless it was preempted or is in a system call. To spin longer
 * only takes the processor from it. */
enum { SPINS = 64 };

DMI_TLS uint32_t _dmi_locks_held;
bool (*_dmi_lock_other)(void);

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("yield" ::: "memory");
#else
    atomic_signal_fence(memory_order_seq_cst);
#endif
}

void _dmi_lock_slow(dmi_lock *lock) {
    atomic_fetch_add_explicit(&lock->contended, 1, memory_order_relaxed);
    for (int i = 0; i < SPINS; i++) {
        uint32_t seen = atomic_load_explicit(&lock->state, memory_order_relaxed);
        if (seen == 0 && _dmi_lock_take(lock)) return;
        if (seen == 2) break; /* others sleep already: queue with them instead of overtaking */
        relax();
    }
    /* The state is left at 2 even if no other thread sleeps. At worst the unlock wakes nobody; no wake is ever lost. */
    while (atomic_exchange_explicit(&lock->state, 2, memory_order_acquire) != 0)
        _dmi_os_wait(&lock->state, 2, UINT64_MAX);
}

void _dmi_unlock_slow(dmi_lock *lock) { _dmi_os_wake(&lock->state, false); }
