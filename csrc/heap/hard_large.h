/* hard_large.h - what is different about the large blocks of a hardened heap.
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

/* Free a LARGE run. */
void _dmi_hard_withhold_run(dmi_heap *heap, dmi_run *run);
/* Free a virtual block. */
void _dmi_hard_withhold_map(dmi_heap *heap, dmi_run *run);
/* Let all withheld addresses be used again: they are needed. */
void _dmi_hard_let_go(dmi_heap *heap);

#endif
