/* room.h - floor 4: what a heap could give back at once, so that a request the OS refused can be served.
 *
 * Where pages come and go without a charge (DMI_OS_LAZY on Linux) only address space makes a difference: kept
 * virtual blocks, and segments that are free as a whole. The heap's lock is held.
 */
#ifndef DMI_ROOM_H
#define DMI_ROOM_H

#include "engine.h"

/* Bytes that would come back; pages: single pages count. */
uint64_t _dmi_room_gain(const dmi_engine *engine, bool pages);
/* Give all that back, whatever the policy keeps. */
void _dmi_room_make(const dmi_engine *engine, bool pages);
/* Of a free run's committed pages, from the end on, about as many bytes. Returns the bytes that went. */
size_t _dmi_room_give_run(dmi_space *space, dmi_run *run, size_t bytes);
#endif
