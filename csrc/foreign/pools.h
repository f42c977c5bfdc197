/* pools.h - floor 7: the pools of an arena of CPython's pymalloc, in this process or another. */
#ifndef DMI_FOREIGN_POOLS_H
#define DMI_FOREIGN_POOLS_H

#include "view.h"

#define DMI_POOL_CLASSES 64u
#define DMI_POOL_HEADER 48u

typedef struct dmi_pools {
    uint64_t used, empty, unknown;     /* pools */
    uint64_t blocks[DMI_POOL_CLASSES]; /* busy blocks, by size / 16 - 1 */
    uint64_t room[DMI_POOL_CLASSES];   /* how many blocks the used pools can hold */
    uint64_t busy, free, overhead;     /* bytes of the used pools, which are their sum */
} dmi_pools;

/* Count the pools in [from, end), each of `pool` bytes, that belong to the arena with that index. Returns 0, or an errno
 * of the view. */
int _dmi_pools_count(dmi_view *view, uint64_t from, uint64_t end, uint64_t pool, uint32_t index,
                     dmi_pools *sum);

#endif
