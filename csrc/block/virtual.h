/* virtual.h - floor 3: blocks too large for a segment, each mapped on its own. The heap's lock is held. */
#ifndef DMI_VIRTUAL_H
#define DMI_VIRTUAL_H

#include "../segment/segment.h"

/* Larger requests are virtual blocks. */
#define DMI_VIRTUAL_MIN ((size_t)16 << 20)

/* A block of size bytes, aligned to align (a power of two). Takes a kept one that fits before it asks the
 * OS. *zero: it reads as zeroes. NULL: out of memory. */
dmi_run *_dmi_virtual_alloc(dmi_space *space, size_t size, size_t align, bool *zero);
/* Back to the OS at once. */
void _dmi_virtual_release(dmi_space *space, dmi_run *run);
/* Free, but keep it mapped for the policy to decide. */
void _dmi_virtual_keep(dmi_space *space, dmi_run *run);
/* Release a kept one (to the OS). */
void _dmi_virtual_drop(dmi_space *space, dmi_run *run);
/* Offer a kept one. 0 or an errno. */
int _dmi_virtual_offer(dmi_space *space, dmi_run *run);
/* Grow or shrink a busy one, moving it if may_move. The descriptor stays. False: nothing changed. */
bool _dmi_virtual_resize(dmi_space *space, dmi_run *run, size_t size, bool may_move);
void _dmi_virtual_release_all(dmi_space *space);
size_t _dmi_virtual_metadata(void);
void _dmi_virtual_lock(void);   /* around fork */
void _dmi_virtual_unlock(void); /* around fork */
#endif
