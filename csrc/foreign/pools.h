/* pools.h - floor 7: the pools of an arena of CPython's pymalloc, whoever's memory it is. */
#ifndef DMI_FOREIGN_POOLS_H
#define DMI_FOREIGN_POOLS_H

#include "view.h"

#define DMI_POOL_CLASSES 64u
#define DMI_POOL_HEADER 48u

typedef struct dmi_pools {
    uint64_t used, empty, unknown;     /* pools */
    uint64_t blocks[DMI_POOL_CLASSES]; /* busy ones by size / 16 - 1 */
    uint64_t room[DMI_POOL_CLASSES];   /* all of them in the used pools */
    uint64_t busy, free, overhead;     /* bytes in used pools; they sum to them */
} dmi_pools;

/* Count the pools of pool bytes in [from, end), which are those of the arena with that index. 0, or the errno of
 * the view. */
int _dmi_pools_count(dmi_view *view, uint64_t from, uint64_t end, uint64_t pool, uint32_t index,
                     dmi_pools *sum);

#endif
