/* fork.h - what a fork does to the heaps.
 *
 * Before a fork the scavenger is joined and every lock of the core is taken, in the order of heap.h. In the
 * parent they are let go again. In the child the other threads are gone, each perhaps in the middle of one
 * fast path: their records become abandoned, and every count is made afresh from its list. A block that such a
 * thread was about to get or give stays busy.
 */
#ifndef DMI_FORK_H
#define DMI_FORK_H

#include "heap.h"

/* Have the process call us at every fork. 0 or an errno. */
int _dmi_fork_setup(void);
/* Locks of a higher floor, whose holders take the core's. */
typedef struct dmi_fork_part {
    void (*lock)(void); /* before all of the core's; NULL: nothing is held over a fork */
    void (*unlock)(void);
    void (*child)(void); /* instead of unlock in the child; NULL: unlock there, too */
} dmi_fork_part;
#define DMI_FORK_PARTS 4
/* Add them, for good. The last one that was added is taken first. */
void _dmi_fork_add(const dmi_fork_part *part);

#endif
