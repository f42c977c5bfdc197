/* owner.c - who else wants the lock of a thread that takes it with plain stores. */
#include "owner.h"
#include "quarantine.h"

/* So many times a thread takes its lock, and meets nobody, before it is favoured again. A barrier costs the others some
 * microseconds, that is a hundred of these. */
#define QUIET 4096

void _dmi_owner_set(dmi_thread *thread, bool favoured) {
    dmi_quarantine *own = thread->hard ? thread->hard->quarantine : &_dmi_no_quarantine;
    atomic_store_explicit(&thread->favour, favoured ? own : &_dmi_no_quarantine,
                          memory_order_relaxed);
    atomic_store_explicit(&thread->favoured, favoured, memory_order_relaxed);
}

void _dmi_owner_favour(dmi_thread *self) {
    if (_dmi_have_barrier && self->state == DMI_THREAD_LIVE) _dmi_owner_set(self, true);
}

bool _dmi_owner_stop(dmi_thread *thread) {
    thread->quiet = 0;
    if (!atomic_load_explicit(&thread->favoured, memory_order_relaxed)) return false;
    _dmi_owner_set(thread, false);
    return true;
}

void _dmi_owner_wait(dmi_thread *thread) {
    uint32_t inside;
    /* It leaves in some instructions, unless it does not run just now; and it wakes nobody. */
    while ((inside = atomic_load_explicit(&thread->inside, memory_order_acquire)) != 0)
        _dmi_os_wait(&thread->inside, inside, 50000);
}

void _dmi_owner_arrive(dmi_thread *thread) {
    if (thread == _dmi_record) {
        if (++thread->quiet >= QUIET) _dmi_owner_favour(thread);
        return;
    }
    if (!_dmi_owner_stop(thread)) return;
    /* Barriers were there when it was favoured. If they are refused since, by a filter that the program set up, a
     * pause is what is left: stores do not stay in a processor for that long. */
    if (_dmi_os_barrier()) {
        static _Atomic uint32_t nobody;
        _dmi_os_wait(&nobody, 0, 20000000);
    }
    _dmi_owner_wait(thread);
}
