/* canary.h - the word behind each block of a hardened heap, by which an overflow is found.
 *
 * It depends on the address and on a secret of the process. Call with the block's lock held, or on a block that
 * nobody else knows yet.
 */
#ifndef DMI_CANARY_H
#define DMI_CANARY_H

#include "heap.h"

/* Write it behind a block's usable bytes (tail included in usable); nothing where the heap is not hardened. */
void _dmi_canary_set(const dmi_heap *heap, void *block, size_t usable);
bool _dmi_canary_sound(const dmi_heap *heap, const void *block, size_t usable);

#endif
