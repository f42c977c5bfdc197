/* virtual.c - blocks mapped on their own. */
#include "virtual.h"

#include "../os/lock.h"
#include "../segment/pool.h"

/* A segment that is one run; it has no bitmaps, for all its pages share one state. */
typedef struct virtual_block {
    dmi_segment segment;
    dmi_run run;
} virtual_block;

static dmi_lock pool_lock;
static dmi_pool pool = {.name = "dmi-virtual", .item = 512, .chunk = 4096};
_Static_assert(sizeof(virtual_block) <= 512, "a virtual block's descriptor fits its pool");

static virtual_block *of(dmi_run *run) {
    return (virtual_block *)(void *)((char *)run - offsetof(virtual_block, run));
}

static void add(_Atomic uint64_t *counter, uint64_t n) {
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static void link_into(dmi_run **list, dmi_run *run) {
    run->prev = NULL;
    run->next = *list;
    if (run->next) run->next->prev = run;
    *list = run;
}

static void unlink_from(dmi_run **list, dmi_run *run) {
    if (run->prev) run->prev->next = run->next;
    else *list = run->next;
    if (run->next) run->next->prev = run->prev;
}

/* Room kept for reuse: a kept block serves a request that it exceeds by an eighth at most, or by more
 * when the OS can cut it down. */
static dmi_run *reuse(dmi_space *space, size_t size, size_t align) {
    dmi_run *best = NULL;
    for (dmi_run *run = space->kept; run; run = run->next) {
        size_t have = run->segment->size;
        if (have < size || ((uintptr_t)run->segment->base & (align - 1))) continue;
        if (have - size > size / 8) continue;
        if (!best || have < best->segment->size) best = run;
    }
    if (!best) return NULL;
    if (best->segment->has_given_at) { /* offered */
        if (_dmi_os_unoffer(best->segment->base, best->segment->size)) return NULL;
        add(&space->ledger.unoffer_bytes, best->segment->size);
        best->segment->has_given_at = false;
    }
    unlink_from(&space->kept, best);
    best->flags &= (uint8_t)~DMI_RUN_KEPT;
    link_into(&space->virtuals, best);
    return best;
}

dmi_run *_dmi_virtual_alloc(dmi_space *space, size_t size, size_t align, bool *zero) {
    size_t bytes = (size + _dmi_page - 1) & ~(_dmi_page - 1);
    if (bytes < size || bytes >> _dmi_page_shift > UINT32_MAX) return NULL;
    if (align < _dmi_os_granularity()) align = _dmi_os_granularity();
    if (space->huge && align < DMI_HUGE) align = DMI_HUGE;
    dmi_run *run = reuse(space, bytes, align);
    *zero = run == NULL;
    if (run) return run;
    if (space->max_reserved && space->reserved + bytes > space->max_reserved) return NULL;
    _dmi_lock(&pool_lock);
    virtual_block *block = _dmi_pool_alloc(&pool);
    _dmi_unlock(&pool_lock);
    if (!block) return NULL;
    char *base = _dmi_os_reserve(bytes, align, space->mode, space->huge, space->name);
    if (!base) goto fail;
    if (_dmi_os_commit(base, bytes, space->mode)) goto fail_reserved;
    if (_dmi_pagemap_add(base, _dmi_page)) {
        _dmi_os_uncount(bytes);
        goto fail_reserved;
    }
    block->segment.space = space;
    block->segment.base = block->segment.reservation = base;
    block->segment.size = block->segment.reserved = bytes;
    block->segment.pages = bytes >> _dmi_page_shift;
    run = &block->run;
    run->segment = &block->segment;
    run->kind = DMI_RUN_VIRTUAL;
    run->pages = (uint32_t)block->segment.pages;
    atomic_store_explicit(&run->owner, DMI_OWNER_NONE, memory_order_relaxed);
    _dmi_pagemap_set(base, _dmi_page, run);
    space->reserved += bytes;
    space->virtual_meta += pool.item;
    add(&space->ledger.commit_calls, 1);
    add(&space->ledger.commit_bytes, bytes);
    link_into(&space->virtuals, run);
    return run;
fail_reserved:
    (void)_dmi_os_release(base, bytes);
fail:
    _dmi_lock(&pool_lock);
    _dmi_pool_free(&pool, block);
    _dmi_unlock(&pool_lock);
    return NULL;
}

/* It is in no list any more. */
static void destroy(dmi_space *space, dmi_run *run) {
    virtual_block *block = of(run);
    size_t bytes = block->segment.size;
    _dmi_pagemap_remove(block->segment.base, _dmi_page);
    _dmi_os_uncount(bytes);
    (void)_dmi_os_release(block->segment.base, bytes);
    space->reserved -= bytes;
    space->virtual_meta -= pool.item;
    add(&space->ledger.decommit_calls, 1);
    add(&space->ledger.decommit_bytes, bytes);
    _dmi_lock(&pool_lock);
    _dmi_pool_free(&pool, block);
    _dmi_unlock(&pool_lock);
}

void _dmi_virtual_release(dmi_space *space, dmi_run *run) {
    unlink_from(&space->virtuals, run);
    destroy(space, run);
}

void _dmi_virtual_drop(dmi_space *space, dmi_run *run) {
    unlink_from(&space->kept, run);
    destroy(space, run);
}

void _dmi_virtual_keep(dmi_space *space, dmi_run *run) {
    unlink_from(&space->virtuals, run);
    run->flags |= DMI_RUN_KEPT;
    run->freed_at = _dmi_space_clock(space);
    link_into(&space->kept, run);
}

int _dmi_virtual_offer(dmi_space *space, dmi_run *run) {
    if (run->segment->has_given_at) return 0;
    int error = _dmi_os_offer(run->segment->base, run->segment->size);
    if (error) {
        add(&space->ledger.refused_calls, 1);
        return error;
    }
    run->segment->has_given_at = true;
    add(&space->ledger.offer_calls, 1);
    add(&space->ledger.offer_bytes, run->segment->size);
    return 0;
}

/* Move to a larger place, which the page map knows before the block is there. */
static bool move(dmi_space *space, dmi_run *run, size_t bytes) {
    dmi_segment *segment = run->segment;
    char *from = segment->base;
    size_t old = segment->size, more = bytes - old;
    size_t align = space->huge ? DMI_HUGE : _dmi_os_granularity();
    char *to = _dmi_os_reserve(bytes, align, space->mode, space->huge, space->name);
    if (!to) return false;
    if (_dmi_os_commit(to + old, more, space->mode)) {
        (void)_dmi_os_release(to, bytes);
        return false;
    }
    if (_dmi_pagemap_add(to, _dmi_page)) {
        _dmi_os_uncount(more);
        (void)_dmi_os_release(to, bytes);
        return false;
    }
    /* The old addresses may be another heap's as soon as the pages left them. */
    _dmi_pagemap_set(from, _dmi_page, &_dmi_no_run);
    if (_dmi_os_move(from, old, to, bytes)) {
        _dmi_os_uncount(more);
        _dmi_pagemap_count_out(to, _dmi_page);
        _dmi_pagemap_set(from, _dmi_page, run);
        return false;
    }
    _dmi_pagemap_count_out(from, _dmi_page);
    segment->base = segment->reservation = to;
    _dmi_pagemap_set(to, _dmi_page, run);
    return true;
}

bool _dmi_virtual_resize(dmi_space *space, dmi_run *run, size_t size, bool may_move) {
    dmi_segment *segment = run->segment;
    size_t old = segment->size, bytes = (size + _dmi_page - 1) & ~(_dmi_page - 1);
    if (bytes == old) return true;
    if (bytes < size || bytes >> _dmi_page_shift > UINT32_MAX || space->mode != DMI_OS_LAZY)
        return false;
    if (bytes > old && space->max_reserved && space->reserved + (bytes - old) > space->max_reserved)
        return false;
    char *from = segment->base;
    if (bytes < old) {
        if (!_dmi_os_remap(from, old, bytes, false)) return false;
        _dmi_os_uncount(old - bytes);
    } else if (_dmi_os_remap(from, old, bytes, false)) {
        if (_dmi_os_commit(from + old, bytes - old, space->mode)) {
            (void)_dmi_os_remap(from, bytes, old, false);
            return false;
        }
    } else if (!may_move || !move(space, run, bytes)) {
        return false;
    }
    segment->size = segment->reserved = bytes;
    segment->pages = bytes >> _dmi_page_shift;
    run->pages = (uint32_t)segment->pages;
    space->reserved += bytes - old;
    if (bytes > old) {
        add(&space->ledger.commit_calls, 1);
        add(&space->ledger.commit_bytes, bytes - old);
    } else {
        add(&space->ledger.decommit_calls, 1);
        add(&space->ledger.decommit_bytes, old - bytes);
    }
    return true;
}

void _dmi_virtual_release_all(dmi_space *space) {
    while (space->virtuals) _dmi_virtual_release(space, space->virtuals);
    while (space->kept) _dmi_virtual_drop(space, space->kept);
}

size_t _dmi_virtual_metadata(void) { return pool.live_bytes; }
void _dmi_virtual_lock(void) { _dmi_lock(&pool_lock); }
void _dmi_virtual_unlock(void) { _dmi_unlock(&pool_lock); }
