/* leave.h - released virtual blocks leave the address space while the heap's lock is open, so that nobody waits for
 * the system.
 *
 * heap->unmapping is held meanwhile: a fork waits for it, for else the child would keep what no list knows. It is let go
 * under heap->lock and with nothing left to do, so whoever finds it held may go: its holder looks again.
 */
#ifndef DMI_LEAVE_H
#define DMI_LEAVE_H

#include "heap.h"

void _dmi_heap_unlock_and_unmap(dmi_heap *heap);
/* Let heap->lock go where a virtual block may have been released. */
static inline void _dmi_heap_unlock(dmi_heap *heap) {
    if (__builtin_expect(heap->space.leaving != NULL, 0)) _dmi_heap_unlock_and_unmap(heap);
    else _dmi_unlock(&heap->lock);
}
/* Wait until what others release is gone. Neither lock is held. */
void _dmi_heap_await_unmapping(dmi_heap *heap);
#endif
