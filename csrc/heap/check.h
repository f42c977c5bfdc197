/* check.h - what a pointer is to a heap.
 *
 * Nobody need own a block that is checked, so no answer may come from its memory alone: the page map says which run
 * covers it, the run's lists and tags say whether it is busy. While a descriptor is read, the segments are guarded
 * (fast.h), so that it stays one. A check takes the locks that it needs, one at a time, and holds none afterwards: it is
 * true for a caller who keeps other threads from freeing that block meanwhile.
 */
#ifndef DMI_CHECK_H
#define DMI_CHECK_H

#include "heap.h"

/* What a pointer is to that heap (NULL: to any). */
int _dmi_check(dmi_heap *heap, const void *block, dmi_run **run);
/* The same for a subsegment. No lock is held, and it stays one. */
int _dmi_check_lfh(dmi_run *run, const void *block);
/* The same for a run of the back end. The heap's lock is held. */
int _dmi_check_backend(const dmi_heap *heap, const dmi_run *run, const void *block);

#endif
