/* hard_large.h - what is different about the large blocks of a hardened heap.
 *
 * Behind each large block of whole pages stands a fence, a page of its own that faults, and one between the metadata of
 * each segment and its user pages.
 *
 * A freed one loses its content, and where the OS can do that it cannot be read. Its addresses are withheld: as long as
 * they are, a second free finds that nothing is there. A run of pages stays in its segment as a free run that is in no
 * bin. A block mapped on its own leaves the heap, but its addresses stay reserved. Neither holds memory. The number of
 * those that are withheld is bounded: for each that is too many, one of the older half goes, drawn at random.
 *
 * The heap's lock is held.
 */
#ifndef DMI_HARD_LARGE_H
#define DMI_HARD_LARGE_H

#include "heap.h"

/* Pages that a LARGE run of that heap is longer at first: for its fence. */
size_t _dmi_hard_fence_pages(const dmi_heap *heap);
/* Make the last page of a new LARGE run its fence, which nobody can touch: in the books it is withheld. Where that cannot
 * be done the page is behind the block all the same. Nothing where the heap has no fences. */
void _dmi_hard_fence(dmi_heap *heap, dmi_run *run);
/* The heap's mode changed: let what was closed be closed again. */
void _dmi_hard_protect(dmi_heap *heap);
/* Free a LARGE run. */
void _dmi_hard_withhold_run(dmi_heap *heap, dmi_run *run);
/* Free a virtual block. */
void _dmi_hard_withhold_map(dmi_heap *heap, dmi_run *run);
/* Let all withheld addresses be used again: they are needed. */
void _dmi_hard_let_go(dmi_heap *heap);

#endif
