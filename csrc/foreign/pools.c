/* pools.c - counts the pools of pymalloc by their headers. */
#include "pools.h"

int _dmi_pools_count(dmi_view *view, uint64_t from, uint64_t end, uint64_t pool, uint32_t index,
                     dmi_pools *sum) {
    for (uint64_t at = from; at < end && end - at >= pool; at += pool) {
        const uint64_t *words = _dmi_view_pair(view, at);
        uint32_t count = words ? (uint32_t)words[0] : 0;
        words = words ? _dmi_view_pair(view, at + 32) : NULL;
        if (view->error) return view->error;
        if (!words) {
            sum->unknown++;
            continue;
        }
        uint32_t of = (uint32_t)words[0], size_class = (uint32_t)(words[0] >> 32);
        uint32_t last = (uint32_t)(words[1] >> 32);
        uint64_t block = 16 * ((uint64_t)size_class + 1), room = (pool - DMI_POOL_HEADER) / block;
        if (count == 0) {
            sum->empty++; /* the header still has the class of its last use */
            continue;
        }
        if (size_class >= DMI_POOL_CLASSES || of != index || last != pool - block || count > room) {
            sum->unknown++;
            continue;
        }
        sum->used++;
        sum->blocks[size_class] += count;
        sum->room[size_class] += room;
        sum->busy += count * block;
        sum->free += (room - count) * block;
        sum->overhead += pool - room * block;
    }
    return view->error;
}
