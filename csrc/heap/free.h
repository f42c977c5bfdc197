/* free.h - the whole path of a free that the fast path did not finish.
 *
 * A free never changes errno and never fails: an address that is no busy block is a fault (fault.h). Call with no
 * lock held: a pass may run afterwards, except through the quiet ones.
 */
#ifndef DMI_FREE_H
#define DMI_FREE_H

#include "heap.h"

void _dmi_free_slow(void *block, dmi_run *run);
/* A local free made used 0. */
void _dmi_free_settle(dmi_run *run);
/* The same two for callers that hold locks of the C library: no pass is run, no thread is started. */
void _dmi_free_quietly(void *block, dmi_run *run);
void _dmi_free_settle_quietly(dmi_run *run);

#endif
