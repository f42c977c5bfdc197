/* check.h - what a pointer is to a heap.
 *
 * Nobody need own a block that is checked, so no answer may come from its memory alone: the page map says which run
 * covers it, the run's lists and tags say whether it is busy. While a descriptor is read, the segments are held
 * (fast.h), so that it stays one. A check takes the locks that it needs, one at a time, and holds none afterwards: it is
 * true for a caller who keeps other threads from freeing that block meanwhile.
 */
#ifndef DMI_CHECK_H
#define DMI_CHECK_H

#include "heap.h"

#include <string.h>

/* Python's frees mark the second word of an LFH block, so that a second free can be told from a first one
 * without walking; a mark that a new owner left in place is cleared up by walking. */
#define DMI_MARK(block) (_dmi_key ^ (uintptr_t)(block))

static inline bool _dmi_marked(const void *block) {
    uint64_t word;
    memcpy(&word, (const char *)block + 8, sizeof word);
    return word == DMI_MARK(block);
}

static inline void _dmi_mark(void *block, uint64_t word) {
    memcpy((char *)block + 8, &word, sizeof word);
}

/* Write what went wrong to standard error and abort. */
void _dmi_die(int fault, const char *call, const void *address);
/* What a pointer is to that heap (NULL: to any). */
int _dmi_check(dmi_heap *heap, const void *block, dmi_run **run);
/* The same for a run of the back end. The heap's lock is held. */
int _dmi_check_backend(const dmi_heap *heap, const dmi_run *run, const void *block);

#endif
