/* alloc.h - the whole path of an allocation.
 *
 * A request that fails leaves the heap as it was, and errno is ENOMEM. Call with no lock held: a pass may run
 * first.
 */
#ifndef DMI_ALLOC_H
#define DMI_ALLOC_H

#include "../os/probes.h"
#include "heap.h"

void *_dmi_malloc_slow(size_t size);
void *_dmi_heap_malloc_slow(void *handle, size_t size);
/* From that cache of this thread's, whose slot was empty. NULL: somebody has to go the whole way. */
void *_dmi_alloc_own(dmi_thread *self, dmi_cache *cache, size_t size);
/* A mapping of its own for a block that grew and may grow again. NULL: it is better off, or fits, elsewhere. */
void *_dmi_alloc_to_grow(dmi_heap *heap, size_t size);
void *_dmi_heap_alloc(dmi_heap *heap, size_t size, size_t align, bool *zero);

/* ---- who wants to know --------------------------------------------------------------------------------- */

/* A profiler, of a higher floor. Its functions leave errno as it was. */
typedef struct dmi_observer {
    /* A slow path hands out a block, no lock is held. frame: the stack frame of the slow path (see DMI_FRAME). */
    void (*note_block)(void *block, size_t size, const void *frame);
    /* A block of pages is about to be freed, the heap's lock is held. */
    void (*forget_block)(const void *block);
} dmi_observer;
/* NULL: nobody. */
extern _Atomic(const dmi_observer *) _dmi_observer;
/* Who is put there when an agent attaches and nobody is; NULL: none. */
extern _Atomic(const dmi_observer *) _dmi_observer_for_agents;
void _dmi_observe_for_agent(void);
/* Has an agent attached (os/probes.h)? Looked at where lists are filled, and when blocks come from elsewhere. Locks may
 * be held: it is acted upon when the slow path ends. */
static inline void _dmi_observe_agent(void) {
    if (__builtin_expect(_dmi_os_probes_wanted(), 0)) _dmi_observe_for_agent();
}

#define DMI_FRAME __builtin_frame_address(0)
/* Tell the profiler of a block that is handed out (NULL: of none). Returns the block. */
static inline void *_dmi_observe_block(void *block, size_t size, const void *frame) {
    const dmi_observer *observer = atomic_load_explicit(&_dmi_observer, memory_order_acquire);
    if (__builtin_expect(observer && block, 0)) observer->note_block(block, size, frame);
    return block;
}
/* Tell it of a block of pages that is about to be freed. */
static inline void _dmi_observe_free(const void *block) {
    const dmi_observer *observer = atomic_load_explicit(&_dmi_observer, memory_order_acquire);
    if (__builtin_expect(observer != NULL, 0)) observer->forget_block(block);
}

#endif
