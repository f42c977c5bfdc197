/* draw.h - a profiler begins in a process that runs: pages that were carved before are drawn to be watched, too. */
#ifndef DMI_DRAW_H
#define DMI_DRAW_H

/* Draw among the pages of all heaps, thread by thread, with the period and the seed of block/watch.h. Call with no lock
 * held. Free blocks of a drawn page are handed out by the slow path from then on; of busy ones nothing is known. */
void _dmi_draw_carved_pages(void);

#endif
