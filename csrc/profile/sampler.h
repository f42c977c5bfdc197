/* sampler.h - who has the blocks of watched pages, and who has larger blocks.
 *
 * While it runs, every block of a watched page (block/watch.h) that is handed out gets the number of the stack that
 * asked for it. Larger blocks are sampled by bytes: one of size s is recorded with probability p = 1 - exp(-s /
 * period), and stands for 1 / p blocks. The period is the bytes that a watched page stood for when the sampler began.
 * Recorded blocks are in a table by their address, which is entered and left without a lock.
 */
#ifndef DMI_SAMPLER_H
#define DMI_SAMPLER_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define DMI_SAMPLER_LARGE 8192u

/* A larger block that was recorded. */
typedef struct dmi_large {
    _Atomic uint64_t address; /* 0: never used, 1: free again, 2: about to be filled */
    _Atomic uint64_t size;
    _Atomic double weight;
    _Atomic uint32_t stack;
} dmi_large;

/* Entry i of DMI_SAMPLER_LARGE. */
const dmi_large *_dmi_sampler_large(size_t i);
/* How many blocks of its page a block with that holder (block/watch.h) stands for; 0: no stack was taken, by chance. */
uint32_t _dmi_sampler_times(uint32_t holder);
/* Larger blocks that found no room. */
uint64_t _dmi_sampler_lost(void);
/* One page in how many it was asked to watch when it was last started; 0: it never was. */
uint32_t _dmi_sampler_one_in(void);
size_t _dmi_sampler_metadata(void);
/* Have it called once, from an allocation, when the first stack with a Python frame is taken. It may not allocate. */
void _dmi_sampler_call_at_python(void (*call)(void));

#endif
