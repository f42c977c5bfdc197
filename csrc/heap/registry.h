/* registry.h - the list of heaps, their handles and their clocks.
 *
 * A handle is the address of a heap's record with its generation. Records are never unmapped, so any value can
 * be looked at: it is a live heap's handle, or it is stale. The list holds exactly the live heaps, the oldest
 * first.
 *
 * The registry has a lock of its own, taken before all others. It protects the list and
 * who holds a heap (hold.h). A handle is resolved without it: a caller who uses a heap while another destroys
 * it has broken the promise that destroy asks for.
 */
#ifndef DMI_REGISTRY_H
#define DMI_REGISTRY_H

#include "heap.h"

extern dmi_heap *_dmi_default; /* NULL before the first use */
extern dmi_heap *_dmi_heaps;   /* the registry: the oldest heap */
/* The heap of a handle, NULL (errno EINVAL) when it is stale. */
dmi_heap *_dmi_heap_resolve(void *handle);
/* Visit live heaps with the registry locked; visit returns non-zero to stop. */
int _dmi_heaps_each(int (*visit)(dmi_heap *, void *), void *argument);
uint64_t _dmi_heap_clock(dmi_heap *heap);
/* The registry of heaps, for fork and for hold.c, and visiting them while it is locked. */
void _dmi_heaps_lock(void);
void _dmi_heaps_unlock(void);
int _dmi_heaps_each_locked(int (*visit)(dmi_heap *, void *), void *argument);
/* A record for a heap; NULL (errno) when there is none. The registry is locked. */
dmi_heap *_dmi_heaps_new(void);
/* Give back one that was not entered. The registry is locked. */
void _dmi_heaps_discard(dmi_heap *heap);
/* Give it its handle and list it; let its handle be stale and take it off the list. The registry is locked. */
void _dmi_heaps_enter(dmi_heap *heap);
void _dmi_heaps_leave(dmi_heap *heap);
/* Its record may serve another heap. The registry is not locked. */
void _dmi_heaps_recycle(dmi_heap *heap);
/* Committed bytes of the records. */
size_t _dmi_heaps_metadata(void);

#endif
