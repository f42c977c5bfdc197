/* virtual.h - floor 3: blocks too large for a segment, each mapped on its own. The heap's lock is held.
 *
 * A freed one may be kept. Kept ones stand in a list by address, each with its own descriptor and age. A
 * request takes those that lie side by side as one, cuts off what it does not need, and leaves that kept.
 */
#ifndef DMI_VIRTUAL_H
#define DMI_VIRTUAL_H

#include "../segment/segment.h"

/* Larger requests are virtual blocks. */
#define DMI_VIRTUAL_MIN ((size_t)16 << 20)
/* Smaller ones, down to this, are so too in a heap that has virtual blocks. */
#define DMI_VIRTUAL_SHARE_MIN ((size_t)4 << 20)
/* What would be less than this is not cut off. */
#define DMI_VIRTUAL_PIECE ((size_t)256 << 10)

/* A fresh block of size bytes, aligned to align (a power of two), which reads as zeroes. NULL: out of memory. */
dmi_run *_dmi_virtual_fresh(dmi_space *space, size_t size, size_t align);
/* The same from room that was kept; it holds what it held. NULL: nothing fits, and nothing changed. */
dmi_run *_dmi_virtual_reuse(dmi_space *space, size_t size, size_t align);
/* The same from kept room below which the OS maps what is missing. NULL: it maps it elsewhere, or nothing. */
dmi_run *_dmi_virtual_extend(dmi_space *space, size_t size, size_t align);
/* Back to the OS at once. */
void _dmi_virtual_release(dmi_space *space, dmi_run *run);
/* Free, but keep it mapped for the policy to decide. */
void _dmi_virtual_keep(dmi_space *space, dmi_run *run);
/* Release a kept one (to the OS). */
void _dmi_virtual_drop(dmi_space *space, dmi_run *run);
/* Release the first bytes of a kept one, so that a new mapping may be placed beside what stays, or all of it where it
 * cannot be cut. Returns how many went. */
size_t _dmi_virtual_drop_part(dmi_space *space, dmi_run *run, size_t bytes);
/* Offer a kept one. 0 or an errno. */
int _dmi_virtual_offer(dmi_space *space, dmi_run *run);
/* Grow or shrink a busy one, moving it if may_move. The descriptor stays. False: nothing changed. */
bool _dmi_virtual_resize(dmi_space *space, dmi_run *run, size_t size, bool may_move);
/* Ask the OS how much of the latest busy blocks is resident: space->unseen falls. */
void _dmi_virtual_look(dmi_space *space);
void _dmi_virtual_release_all(dmi_space *space);
size_t _dmi_virtual_metadata(void);
void _dmi_virtual_lock(void);   /* around fork */
void _dmi_virtual_unlock(void); /* around fork */
#endif
