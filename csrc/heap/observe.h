/* observe.h - who wants to know of blocks that slow paths hand out, and of blocks of pages that are freed. */
#ifndef DMI_OBSERVE_H
#define DMI_OBSERVE_H

#include "../os/probes.h"

#include <stdatomic.h>
#include <stddef.h>

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
