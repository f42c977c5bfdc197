/* virtual.h - floor 3: virtual blocks, each a mapping of its own. The caller holds the heap's lock.
 *
 * A freed virtual block may be kept for the next request. Kept blocks stand in a list by address, each with its own
 * descriptor and age. A request may join kept blocks that lie side by side. What it does not need is cut off and stays
 * kept.
 *
 * It takes the system milliseconds to unmap a large block. So releasing one only takes it off every list; it leaves
 * the address space when the heap's lock was let go (heap/leave.h).
 */
#ifndef DMI_VIRTUAL_H
#define DMI_VIRTUAL_H

#include "../segment/segment.h"

/* A larger request becomes a virtual block. */
#define DMI_VIRTUAL_MIN ((size_t)16 << 20)
/* So does a smaller one, down to this, in a heap that has virtual blocks already. */
#define DMI_VIRTUAL_SHARE_MIN ((size_t)4 << 20)
/* So does one that grows from a run of pages, down to this, where it would be copied to pages that nobody has used. */
#define DMI_VIRTUAL_GROW_MIN ((size_t)8 << 20)
/* A smaller rest is not cut off. */
#define DMI_VIRTUAL_PIECE ((size_t)256 << 10)

/* A fresh block of at least size bytes, aligned to align (a power of two); it reads as zeroes. NULL: out of memory. */
dmi_run *_dmi_virtual_map(dmi_space *space, size_t size, size_t align);
/* A block made of kept ones; its bytes are what they were. NULL: no kept blocks fit. */
dmi_run *_dmi_virtual_reuse(dmi_space *space, size_t size, size_t align);
/* A block made of kept ones and a fresh mapping right below them. NULL: the OS did not map there, or out of memory. */
dmi_run *_dmi_virtual_extend(dmi_space *space, size_t size, size_t align);
/* Release a busy block. */
void _dmi_virtual_release(dmi_space *space, dmi_run *run);
/* Free a busy block, whose addresses stay reserved, without access where the OS can do that, until the caller releases
 * them. False: it was released, for the OS refused to take its pages. */
bool _dmi_virtual_close(dmi_space *space, dmi_run *run, dmi_os_range *range);
/* Free a busy block and keep it mapped; the policy decides when it goes. */
void _dmi_virtual_keep(dmi_space *space, dmi_run *run);
/* Release a kept block. */
void _dmi_virtual_drop(dmi_space *space, dmi_run *run);
/* Release the first bytes of a kept block, so that a new mapping can be placed right below the rest. Where it cannot
 * be cut, all of it goes. Returns how many bytes went. */
size_t _dmi_virtual_drop_part(dmi_space *space, dmi_run *run, size_t bytes);
/* Offer a kept block to the OS. 0 or an errno. */
int _dmi_virtual_offer(dmi_space *space, dmi_run *run);
/* Grow or shrink a busy block; it may move only if may_move. The descriptor stays the same. False: it cannot be done,
 * and the block is as it was. */
bool _dmi_virtual_resize(dmi_space *space, dmi_run *run, size_t size, bool may_move);
/* Ask the OS how much of the latest busy blocks is resident, and lower space->unseen by what is new. */
void _dmi_virtual_look(dmi_space *space);
/* All that are to leave, through next; the space knows of none any more. */
dmi_run *_dmi_virtual_take_leaving(dmi_space *space);
/* Give those to the OS. No lock is needed. */
void _dmi_virtual_unmap(dmi_run *leaving);
/* All of them, given to the OS before it returns. */
void _dmi_virtual_release_all(dmi_space *space);
/* Bytes of the descriptors of all heaps. */
size_t _dmi_virtual_metadata(void);
/* Lock and unlock the pool of descriptors around a fork. */
void _dmi_virtual_lock(void);
void _dmi_virtual_unlock(void);
#endif
