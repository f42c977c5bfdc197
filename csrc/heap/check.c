/* check.c - what a pointer is to a heap. */
#include "check.h"
#include "cache.h"
#include "canary.h"
#include "fast.h"
#include "hard.h"
#include "registry.h"
#include "take.h"

#include <errno.h>

int _dmi_check_backend(const dmi_heap *heap, const dmi_run *run, const void *block) {
    switch (run->kind) {
    case DMI_RUN_LIST:
        switch (_dmi_freelist_check(run, block)) {
        case DMI_LIST_BUSY:
            return _dmi_canary_sound(heap, block, _dmi_freelist_usable(block)) ? DMI_OK
                                                                               : DMI_FAULT_OVERFLOW;
        case DMI_LIST_FREE: return DMI_FAULT_FREE;
        case DMI_LIST_INTERIOR: return DMI_FAULT_INTERIOR;
        default: return DMI_FAULT_CORRUPT;
        }
    case DMI_RUN_GUARDED:
        if (run->flags & DMI_RUN_KEPT) return DMI_FAULT_FREE;
        return block == _dmi_guarded_block(run) ? DMI_OK : DMI_FAULT_INTERIOR;
    case DMI_RUN_VIRTUAL:
        if (run->flags & DMI_RUN_KEPT) return DMI_FAULT_FREE; /* fallthrough */
    case DMI_RUN_LARGE:
        if (block != _dmi_run_base(run)) return DMI_FAULT_INTERIOR;
        return _dmi_canary_sound(heap, block, _dmi_run_size(run)) ? DMI_OK : DMI_FAULT_OVERFLOW;
    case DMI_RUN_FREE: return DMI_FAULT_FREE;
    default: return DMI_FAULT_FOREIGN;
    }
}

/* Is the block free? Its cache gets locked. */
static bool is_free(dmi_run *run, size_t index) {
    dmi_cache *cache = _dmi_cache_lock_of(run, true);
    if (!cache) return false;
    _dmi_cache_take_run(cache, run);
    dmi_blockmap map;
    size_t pinned = SIZE_MAX;
    bool result =
        index >= run->carved ||
        (_dmi_lfh_free_map(run, true, &map, &pinned, NULL) && _dmi_map_get(&map, index)) ||
        index == pinned;
    _dmi_unlock(cache->lock);
    return result;
}

static bool on_usable_pages(const dmi_run *run, size_t index) {
    size_t first = index * run->block_size >> _dmi_page_shift;
    size_t last = ((index + 1) * run->block_size - 1) >> _dmi_page_shift;
    for (size_t p = first; p <= last; p++)
        if (!_dmi_page_usable(run->segment, run->first + p)) return false;
    return true;
}

/* The virtual block or the inside of a large one that an address without a run of its own lies in. */
static int owns_virtual(dmi_heap *heap, void *argument) {
    const char *address = *(const char **)argument;
    int found = 0;
    _dmi_lock(&heap->lock);
    for (dmi_run *run = heap->space.virtuals; run && !found; run = run->next)
        found = address >= run->segment->base && address < run->segment->base + run->segment->size;
    _dmi_unlock(&heap->lock);
    return found;
}

static int owns_segment(dmi_heap *heap, void *argument) {
    const char *address = *(const char **)argument;
    int found = 0;
    _dmi_lock(&heap->lock);
    for (dmi_segment *s = heap->space.segments; s && !found; s = s->next)
        found = address >= s->base && address < s->base + s->size;
    _dmi_unlock(&heap->lock);
    return found;
}

/* No run covers it: the inside of a virtual block or of a free run, or foreign. */
static int check_unmapped(dmi_heap *heap, const void *block) {
    if (heap && owns_virtual(heap, &block)) return DMI_FAULT_INTERIOR;
    if (heap && owns_segment(heap, &block)) return DMI_FAULT_FREE;
    if (_dmi_heaps_each(owns_virtual, &block) || _dmi_heaps_each(owns_segment, &block))
        return DMI_FAULT_OTHER_HEAP;
    return DMI_FAULT_FOREIGN;
}

int _dmi_check_lfh(dmi_run *run, const void *block) {
    if (_dmi_run_is_hard(run)) return _dmi_hard_check(run, block);
    size_t offset = (size_t)((const char *)block - _dmi_run_base(run));
    size_t index = offset / run->block_size;
    if (index >= __atomic_load_n(&run->carved, __ATOMIC_RELAXED)) return DMI_FAULT_FREE;
    if (offset % run->block_size) return DMI_FAULT_INTERIOR;
    if (!on_usable_pages(run, index)) return DMI_FAULT_FREE;
    /* A user may have put back what was read where the mark is: only the lists know. */
    if (_dmi_lfh_marked(run, block) && is_free(run, index)) return DMI_FAULT_FREE;
    return DMI_OK;
}

/* Segments are guarded: what the page map names stays a descriptor. */
static int check_run(dmi_heap *heap, const void *block, dmi_run *run) {
    dmi_heap *owner = _dmi_heap_of_run(run);
    if (heap && owner != heap) return DMI_FAULT_OTHER_HEAP;
    if (run->kind != DMI_RUN_LFH) {
        _dmi_lock(&owner->lock);
        int fault = _dmi_check_backend(owner, run, block);
        _dmi_unlock(&owner->lock);
        return fault;
    }
    return _dmi_check_lfh(run, block);
}

int _dmi_check(dmi_heap *heap, const void *block, dmi_run **where) {
    dmi_thread *guard = _dmi_guard();
    dmi_run *run = *where = _dmi_pagemap_find(block);
    bool none = run->kind == DMI_RUN_NONE;
    int fault = none ? DMI_OK : check_run(heap, block, run);
    _dmi_unguard(guard);
    return none ? check_unmapped(heap, block) : fault;
}

int dmi_heap_check(void *handle, const void *block) {
    int saved = errno;
    dmi_heap *heap = _dmi_heap_resolve(handle);
    errno = saved;
    dmi_run *run;
    return heap ? _dmi_check(heap, block, &run) : DMI_FAULT_STALE_HEAP;
}
