/* leave.h - released virtual blocks leave the address space while the heap's lock is open, so that nobody waits for the
 * system.
 *
 * heap->unmapping is held meanwhile. A fork waits for it, or the child would keep mappings that no list knows. Its
 * holder lets it go under heap->lock, after it saw that nothing is left to unmap. So a thread that finds it held need
 * not wait: the holder will see the new blocks.
 */
#ifndef DMI_LEAVE_H
#define DMI_LEAVE_H

#include "heap.h"

/* Let heap->lock go and unmap what was released, unless another thread does so already. */
void _dmi_heap_unlock_and_unmap(dmi_heap *heap);
/* Let heap->lock go where a virtual block may have been released. */
static inline void _dmi_heap_unlock(dmi_heap *heap) {
    if (__builtin_expect(heap->space.leaving != NULL, 0)) _dmi_heap_unlock_and_unmap(heap);
    else _dmi_unlock(&heap->lock);
}
/* Wait until other threads have unmapped what was released. The caller holds neither lock. */
void _dmi_heap_await_unmapping(dmi_heap *heap);
#endif
