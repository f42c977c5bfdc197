/* scavenger.h - one thread for all heaps of the process, there only while a pass is due.
 *
 * It has a lock of its own, held only to start, to ring, to end and across a fork. It runs passes with that heap's pass
 * lock held and nothing else; a heap whose pass lock is taken is passed over and looked at again.
 */
#ifndef DMI_SCAVENGER_H
#define DMI_SCAVENGER_H

#include "heap.h"

/* Have the scavenger look after a pass that is due then. False: there is none, slow paths must do it. */
bool _dmi_scavenger_want(uint64_t when);
#define DMI_SCAVENGER_RUNNING 1
extern _Atomic uint32_t _dmi_scavenger_life;
/* Is there one? A hint. */
static inline bool _dmi_scavenger_running(void) {
    return atomic_load_explicit(&_dmi_scavenger_life, memory_order_relaxed) ==
           DMI_SCAVENGER_RUNNING;
}
/* Before a fork: stop and join it, and turn away whoever wants it. */
void _dmi_scavenger_stop(void);
/* After the fork, in both processes: it starts again when wanted. */
void _dmi_scavenger_resume(void);
/* Do not start it for a moment: somebody is about to count threads. */
void _dmi_scavenger_rest(void);
/* Never start it. */
void _dmi_scavenger_forbid(void);

#endif
