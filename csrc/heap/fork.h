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
/* Add one lock of a higher floor, whose holders take the core's: a fork takes it before all of them. */
void _dmi_fork_add_lock(void (*lock)(void), void (*unlock)(void));

#endif
