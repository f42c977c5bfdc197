/* thread.h - the life of a thread: it gets a record with its first slow path, and leaves it when it ends.
 *
 * While a thread lives, its TLS word _dmi_self holds its record, or &_dmi_no_thread while it is taken
 * (take.h). From its end on nobody but the next owner, or a taker, touches the record's caches; what others
 * free on them meanwhile is kept in their remote lists.
 *
 * Attaching and ending take the lock of the records and the lock of that record, never both at once.
 */
#ifndef DMI_THREAD_H
#define DMI_THREAD_H

#include "heap.h"

/* The record of this thread; NULL: it has none and gets none (too early, too late, no memory). */
dmi_thread *_dmi_thread_self(void);
/* The cache that this thread allocates from, locked: its own, or the shared one. */
dmi_cache *_dmi_thread_lock_cache(dmi_heap *heap);
int _dmi_threads_setup(void);

#endif
