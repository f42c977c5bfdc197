/* observe.c - who is told, and who is put there when an agent attaches. */
#include "observe.h"

_Atomic(const dmi_observer *) _dmi_observer;
_Atomic(const dmi_observer *) _dmi_observer_for_agents;

__attribute__((noinline, cold)) void _dmi_observe_for_agent(void) {
    const dmi_observer *nobody = NULL;
    const dmi_observer *then =
        atomic_load_explicit(&_dmi_observer_for_agents, memory_order_acquire);
    if (then)
        (void)atomic_compare_exchange_strong_explicit(&_dmi_observer, &nobody, then,
                                                      memory_order_release, memory_order_relaxed);
}
