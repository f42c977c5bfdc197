/* create.h - making and destroying heaps.
 *
 * A heap is listed when all of it is in place, and its handle is stale before any of it goes. There is one
 * default heap; it is made by the first call that needs it, and never destroyed.
 *
 * Making takes the registry's lock, and the first time that of the records before it. Destroying takes heap->pass, then
 * one thread's record after the other; the caller promises that nobody is inside the heap.
 */
#ifndef DMI_CREATE_H
#define DMI_CREATE_H

#include "heap.h"

/* The default heap, made if need be; NULL: out of memory. */
dmi_heap *_dmi_default_heap(void);
/* Set the options of the default heap, before it is made (preload). */
void _dmi_set_default_options(const dmi_heap_options *options);

#endif
