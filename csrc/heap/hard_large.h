/* hard_large.h - what is different about the large blocks of a hardened heap.
 *
 * A freed one loses its content and cannot be read, where the OS can do that, and its addresses are withheld: a second
 * free finds that nothing is there, as long as they are. A run of pages stays in its segment as a free run that no bin
 * knows; a block mapped on its own is nobody's any more, but its addresses stay reserved. Neither holds memory. How many
 * are withheld is bounded, and one of the older half goes at random for each that comes in too many. The heap's lock is
 * held.
 */
#ifndef DMI_HARD_LARGE_H
#define DMI_HARD_LARGE_H

#include "heap.h"

/* Free a LARGE run. */
void _dmi_hard_withhold_run(dmi_heap *heap, dmi_run *run);
/* Free a virtual block. */
void _dmi_hard_withhold_map(dmi_heap *heap, dmi_run *run);
/* Let all addresses be used again: somebody needs them. */
void _dmi_hard_let_go(dmi_heap *heap);

#endif
