/* realloc.c - growing and shrinking, in place where it can be done. */
#include "../decommit/level.h"
#include "canary.h"
#include "check.h"
#include "fast.h"
#include "fault.h"
#include "hard_large.h"
#include "leave.h"
#include "registry.h"
#include "tick.h"

#include <errno.h>
#include <string.h>

/* Resize the block where it stands, to at least size usable bytes. False: it cannot be done, and nothing changed. */
static bool resize_in_place(dmi_heap *heap, dmi_run *run, void *block, size_t size) {
    size_t total = size + heap->tail, pages = _dmi_pages(total);
    bool done = false;
    switch (run->kind) {
    case DMI_RUN_LFH:
        /* Shrinking to less than half moves, so that the memory is not kept from others. */
        return total <= run->block_size && total >= run->block_size / 2u;
    case DMI_RUN_LIST:
        if (size > DMI_BUCKET_MAX) return false;
        _dmi_lock(&heap->lock);
        unsigned key = _dmi_list_key(block);
        done = _dmi_freelist_resize(&heap->list, run, block, total);
        if (done) {
            if (heap->bucket_live[key]) heap->bucket_live[key]--;
            heap->bucket_live[_dmi_list_key(block)]++;
            _dmi_canary_set(heap, block, _dmi_freelist_usable(block));
        }
        _dmi_unlock(&heap->lock);
        return done;
    case DMI_RUN_GUARDED: /* elsewhere it would end before the guard */
        return ((size ? size : 1) + 15) / 16 * 16 == run->block_size;
    case DMI_RUN_LARGE:
        if (size <= DMI_BUCKET_MAX / 2 || total >= DMI_VIRTUAL_MIN) return false;
        if (_dmi_hard_fence_pages(heap) && pages != run->pages)
            return false; /* behind it is a fence */
        _dmi_lock(&heap->lock);
        done = pages == run->pages || _dmi_run_resize(&heap->space, run, pages);
        if (done) {
            dmi_run *right = run->first + run->pages < run->segment->pages
                                 ? _dmi_segment_run(run->segment, run->first + run->pages)
                                 : &_dmi_no_run;
            if (_dmi_run_is_free(right)) _dmi_engine_give_freed_run(&heap->engine, right);
            _dmi_canary_set(heap, block, _dmi_run_size(run));
        }
        _dmi_unlock(&heap->lock);
        return done;
    default: return false;
    }
}

static void *resize_virtual(dmi_heap *heap, dmi_run *run, size_t size) {
    size_t total = size + heap->tail;
    _dmi_lock(&heap->lock);
    size_t have = run->segment->size;
    if (total < DMI_VIRTUAL_MIN / 2 &&
        total < have / 2) { /* shorter blocks are cut from segments */
        _dmi_unlock(&heap->lock);
        return NULL;
    }
    /* What the bucket rule allows may stay as it is. */
    bool done = (total <= have && have - total <= have / 8) ||
                _dmi_virtual_resize(&heap->space, run, total, true);
    if (done && run->segment->size > have)
        _dmi_level_make_way(&heap->engine, run->segment->size - have);
    if (done) _dmi_canary_set(heap, run->segment->base, run->segment->size);
    void *base = run->segment->base;
    _dmi_heap_unlock(heap);
    return done ? base : NULL;
}

static void *resize(dmi_heap *heap, void *block, size_t size) {
    dmi_run *run;
    int fault = _dmi_check(NULL, block, &run);
    if (fault) {
        _dmi_fault_tell_found(fault, "realloc", block);
        errno = EINVAL;
        return NULL;
    }
    dmi_heap *owner = _dmi_heap_of_run(run);
    if (!heap) heap = owner;
    if (size > (size_t)PTRDIFF_MAX - DMI_VIRTUAL_MIN) {
        errno = ENOMEM;
        return NULL;
    }
    if (resize_in_place(owner, run, block, size)) {
        /* What was cut off is free, and nothing else may happen to this heap. */
        if (run->kind != DMI_RUN_LFH) _dmi_heap_tick(owner);
        return block;
    }
    if (run->kind == DMI_RUN_VIRTUAL) {
        void *moved = resize_virtual(owner, run, size);
        if (moved && moved != block) _dmi_observe_free(block);
        if (moved) return moved == block ? moved : _dmi_observe_block(moved, size, DMI_FRAME);
    }
    size_t old = dmi_usable_size(block);
    void *fresh = NULL;
    if (run->kind == DMI_RUN_LARGE && size > old) fresh = _dmi_alloc_to_grow(heap, size);
    if (!fresh) fresh = _dmi_heap_alloc(heap, size, 1, NULL);
    fresh = _dmi_observe_block(fresh, size, DMI_FRAME);
    if (!fresh) return NULL;
    memcpy(fresh, block, old < size ? old : size);
    _dmi_fast_free(block);
    return fresh;
}

void *dmi_realloc(void *block, size_t size) {
    return block ? resize(NULL, block, size) : dmi_malloc(size);
}

void *dmi_heap_realloc(void *handle, void *block, size_t size) {
    if (!block) return dmi_heap_malloc(handle, size);
    dmi_heap *heap = _dmi_heap_resolve(handle);
    return heap ? resize(heap, block, size) : NULL;
}
