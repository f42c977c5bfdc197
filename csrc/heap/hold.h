/* hold.h - who keeps a heap from being destroyed.
 *
 * A holder is a name and a count. While some count is not 0, destroy refuses. The registry's lock protects all
 * of it.
 */
#ifndef DMI_HOLD_H
#define DMI_HOLD_H

#include "heap.h"

/* Does anybody hold it? The registry is locked. */
bool _dmi_heap_held(const dmi_heap *heap);

#endif
