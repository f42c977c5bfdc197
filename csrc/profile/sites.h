/* sites.h - how often stacks are taken, by what is known for little of who asks.
 *
 * A stack costs some ten times what else is paid for a block of a watched page. So a block gets one with a probability of
 * 1 / 2^k, and stands for 2^k blocks where it does. k is chosen before it is drawn, by what the sampler has seen of the
 * same site so far: that has a say in how large the error is, and none in what is estimated.
 *
 * A site is the caller's return address, the size, and the two innermost frames of Python; where there are none, the place
 * of the caller's frame (with Python each depth of a recursion would be a site). Two sites may share a number.
 */
#ifndef DMI_SITES_H
#define DMI_SITES_H

#include "../block/watch.h"

#include <stddef.h>
#include <stdint.h>

#define DMI_SITES DMI_WATCH_CLASSES

/* The site of whoever asked for a block of that size, from 1. frame: as for a stack. */
uint32_t _dmi_sites_find(const void *frame, size_t size);
/* A block was handed out there: k, up to 7. */
unsigned _dmi_sites_note(uint32_t site);
/* Half of the watched pages were given up: frees of their blocks are not seen. */
void _dmi_sites_halve(void);
/* Nothing has been seen. times: as many times more stacks are wanted as usual (a power of two); 0: all of them. */
void _dmi_sites_reset(unsigned times);
size_t _dmi_sites_metadata(void);

#endif
