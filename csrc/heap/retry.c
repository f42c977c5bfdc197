/* retry.c - a request that was refused: what may be given back so that it succeeds after all. */
#include "retry.h"
#include "cache.h"
#include "hard_large.h"
#include "leave.h"
#include "thread.h"

#include "../decommit/policies.h"
#include "../decommit/room.h"

#define WAIT_NS 100000
#define TRIES 5000

/* Would the request succeed if the heap gave back gain bytes? */
static bool may_help(dmi_heap *heap, size_t size, uint64_t gain, uint64_t room) {
    const dmi_space *space = &heap->space;
    if (space->max_reserved) {
        uint64_t left =
            space->max_reserved > space->reserved ? space->max_reserved - space->reserved : 0;
        if (size > left + gain) return false;
        if (size > left) return gain > 0; /* which is why it was refused */
    }
    return room == UINT64_MAX || size <= room + gain;
}

bool _dmi_retry_shed(dmi_heap *heap, size_t size) {
    bool pages;
    uint64_t room = _dmi_os_headroom(heap->space.mode, &pages);
    _dmi_lock(&heap->lock);
    bool may = may_help(heap, size, heap->space.reserved, room);
    _dmi_unlock(&heap->lock);
    if (!may) return false;
    dmi_cache *cache = _dmi_thread_lock_cache(heap);
    bool any = _dmi_cache_shed(cache);
    _dmi_unlock(cache->lock);
    _dmi_lock(&heap->lock);
    any |= heap->withheld.runs || heap->withheld.maps;
    _dmi_hard_let_go(heap);
    _dmi_unlock(&heap->lock);
    return any;
}

/* Of what the policy promised to keep nothing goes on a guess. */
static bool is_worth(dmi_heap *heap, size_t size, uint64_t gain, uint64_t room) {
    if (gain == 0 || gain <= heap->futile || !may_help(heap, size, gain, room)) return false;
    bool known = room < size || (heap->space.max_reserved &&
                                 heap->space.reserved + size > heap->space.max_reserved);
    return known || !_dmi_policy_row(&heap->engine.policy)->promised || gain >= size;
}

bool _dmi_retry_make_room(dmi_heap *heap, size_t size, uint64_t *tried) {
    static _Atomic uint32_t nothing;
    dmi_space *space = &heap->space;
    bool pages;
    uint64_t room = _dmi_os_headroom(space->mode, &pages);
    _dmi_lock(&heap->lock);
    if (!may_help(heap, size, space->reserved, room)) {
        _dmi_unlock(&heap->lock);
        return false;
    }
    /* No segment goes while somebody walks over them, and who does is done soon. */
    bool waited = space->visitors != 0;
    for (int tries = 0; space->visitors && tries < TRIES; tries++) {
        _dmi_unlock(&heap->lock);
        _dmi_os_wait(&nothing, 0, WAIT_NS);
        _dmi_lock(&heap->lock);
    }
    *tried = _dmi_room_gain(&heap->engine, pages);
    bool worth = is_worth(heap, size, *tried, room);
    if (worth) _dmi_room_make(&heap->engine, pages);
    _dmi_heap_unlock(heap);
    _dmi_heap_await_unmapping(heap);
    return worth || waited;
}

void _dmi_retry_note(dmi_heap *heap, uint64_t tried) {
    _dmi_lock(&heap->lock);
    heap->futile = tried;
    _dmi_unlock(&heap->lock);
}
