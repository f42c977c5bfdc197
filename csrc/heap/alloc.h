/* alloc.h - the whole path of an allocation.
 *
 * A request that fails leaves the heap as it was, and errno is ENOMEM. Call with no lock held: a pass may run
 * first.
 */
#ifndef DMI_ALLOC_H
#define DMI_ALLOC_H

#include "heap.h"
#include "observe.h"

void *_dmi_malloc_slow(size_t size);
void *_dmi_heap_malloc_slow(void *handle, size_t size);
/* From that cache of this thread's, whose slot was empty. NULL: somebody has to go the whole way. */
void *_dmi_alloc_own(dmi_thread *self, dmi_cache *cache, size_t size);
/* A mapping of its own for a block that grew and may grow again. NULL: it is better off, or fits, elsewhere. */
void *_dmi_alloc_to_grow(dmi_heap *heap, size_t size);
void *_dmi_heap_alloc(dmi_heap *heap, size_t size, size_t align, bool *zero);

#endif
