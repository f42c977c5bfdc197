/* tick.h - seeing to it that a pass follows what happens to a heap.
 *
 * A heap is armed when something happened since a pass found nothing to wait for. An armed heap has a time for
 * its next pass, and somebody who will run it then: the scavenger, the slow paths of its threads, or advance
 * where the clock is set by hand. Call with no lock held.
 */
#ifndef DMI_TICK_H
#define DMI_TICK_H

#include "heap.h"

/* A slow path was taken: see to it that a pass follows. Call without locks; cheap when one is on its way. */
void _dmi_heap_tick(dmi_heap *heap);
/* The same where a pass must not run: the thread gave its record away. */
void _dmi_heap_arm(dmi_heap *heap);

#endif
