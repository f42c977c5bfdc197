/* retry.h - a request that was refused: what may be given back so that it succeeds after all.
 *
 * Nothing is, where that can make no difference: the request is larger than what address space, limits and
 * machine would hold even then. Call with no lock held.
 */
#ifndef DMI_RETRY_H
#define DMI_RETRY_H

#include "heap.h"

/* Make runs of the caller's empty subsegments. True: there were any, so that it is worth another try. */
bool _dmi_retry_shed(dmi_heap *heap, size_t size);
/* Give back what the policy keeps. False: there is no point. *tried: for note. */
bool _dmi_retry_make_room(dmi_heap *heap, size_t size, uint64_t *tried);
/* It was in vain (tried), or not (0): what does not help is not done again for as little. */
void _dmi_retry_note(dmi_heap *heap, uint64_t tried);
#endif
