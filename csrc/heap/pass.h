/* pass.h - the engine over all runs of a heap, and when the policy wants that next.
 *
 * One pass at a time: heap->pass is held by whoever runs one, and no other lock. A pass takes the locks of the
 * runs that it looks at for short times, so runs come and go meanwhile; segments stay (space->visitors).
 */
#ifndef DMI_PASS_H
#define DMI_PASS_H

#include "heap.h"

/* Do what became due. heap->pass is held. */
void _dmi_heap_do_due(dmi_heap *heap);
/* A full pass; *sweep was initialised with its kind and tells what came of it. heap->pass is held. */
void _dmi_heap_pass(dmi_heap *heap, dmi_sweep *sweep);
/* Do what the policy wants done at a pass; true when it wants another one though nothing happens. heap->pass is
 * held. */
bool _dmi_heap_run_policy(dmi_heap *heap);
/* The policy is new: decide when its first pass is due. */
void _dmi_heap_schedule(dmi_heap *heap, uint64_t now);
/* Give back everything; returns the bytes. */
uint64_t _dmi_heap_trim(dmi_heap *heap);

#endif
