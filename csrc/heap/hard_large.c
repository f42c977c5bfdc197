/* hard_large.c - large blocks of hardened heaps: their addresses are withheld for a while. */
#include "hard_large.h"
#include "hard_fast.h"

#include <string.h>

/* So many runs are withheld, however large they are; more only up to so many bytes together. */
#define FEW 4
#define BYTES ((uint64_t)32 << 20)

/* Draw which of count is to go, of the older half; the oldest is 0. */
static uint32_t draw(dmi_heap *heap, uint32_t count) {
    return _dmi_hard_draw_number(&heap->withheld.random, (count + 1) / 2);
}

/* A page of a huge one cannot go alone. */
size_t _dmi_hard_fence_pages(const dmi_heap *heap) {
    return _dmi_heap_is_hard(heap) && !heap->space.huge ? 1 : 0;
}

void _dmi_hard_fence(dmi_heap *heap, dmi_run *run) {
    if (!_dmi_hard_fence_pages(heap)) return;
    dmi_run *fence = _dmi_run_cut(run);
    if (!fence) return;
    if (_dmi_pages_decommit(fence->segment, fence->first, 1)) {
        _dmi_run_uncut(run, fence);
        return;
    }
    fence->kind = DMI_RUN_FREE;
    fence->flags = DMI_RUN_WITHHELD | DMI_RUN_FENCE;
    fence->freed_at = _dmi_space_clock(&heap->space);
    if (_dmi_pages_fence(fence->segment, fence->first, 1)) fence->flags |= DMI_RUN_CLOSED;
}

/* The fence behind a run becomes part of it again. True: it is closed. */
static bool take_fence(dmi_run *run) {
    size_t end = run->first + run->pages;
    if (end >= run->segment->pages) return false;
    dmi_run *fence = _dmi_segment_run(run->segment, end);
    if (fence->kind != DMI_RUN_FREE || !(fence->flags & DMI_RUN_FENCE)) return false;
    bool closed = fence->flags & DMI_RUN_CLOSED;
    _dmi_run_uncut(run, fence);
    return closed;
}

void _dmi_hard_protect(dmi_heap *heap) {
    if (!_dmi_heap_is_hard(heap)) return;
    for (dmi_segment *s = heap->space.segments; s; s = s->next) {
        _dmi_segment_fence(s);
        for (size_t page = 0; page < s->pages;) {
            dmi_run *run = _dmi_segment_run(s, page);
            page += run->pages;
            if (run->kind == DMI_RUN_FREE && run->flags & DMI_RUN_WITHHELD &&
                _dmi_pages_fence(s, run->first, run->pages))
                run->flags |= DMI_RUN_CLOSED;
        }
    }
}

static void let_run_go(dmi_heap *heap, uint32_t i) {
    dmi_run *run = heap->withheld.run[i];
    heap->withheld.bytes -= _dmi_run_size(run);
    memmove(&heap->withheld.run[i], &heap->withheld.run[i + 1],
            (--heap->withheld.runs - i) * sizeof(dmi_run *));
    if (run->flags & DMI_RUN_CLOSED && !_dmi_pages_unfence(run->segment, run->first, run->pages))
        return; /* it cannot be used: it stays as it is for ever */
    run->flags = 0;
    _dmi_engine_give_freed_run(&heap->engine, _dmi_run_free(&heap->space, run));
}

void _dmi_hard_withhold_run(dmi_heap *heap, dmi_run *run) {
    dmi_segment *segment = run->segment;
    (void)_dmi_pages_decommit(segment, run->first, run->pages);
    if (_dmi_run_committed(run)) { /* the OS refused */
        if (take_fence(run) && !_dmi_pages_unfence(segment, run->first + run->pages - 1, 1)) {
            run->kind = DMI_RUN_FREE; /* it cannot be used: it stays as it is for ever */
            run->flags = DMI_RUN_WITHHELD | DMI_RUN_CLOSED;
            return;
        }
        _dmi_engine_give_freed_run(&heap->engine, _dmi_run_free(&heap->space, run));
        return;
    }
    bool closed = take_fence(run);
    run->kind = DMI_RUN_FREE;
    run->flags = closed ? DMI_RUN_WITHHELD | DMI_RUN_CLOSED : DMI_RUN_WITHHELD;
    run->freed_at = _dmi_space_clock(&heap->space);
    /* The fence is counted as a cut already. */
    if (closed) (void)_dmi_os_guard(_dmi_run_base(run), _dmi_run_size(run), heap->space.mode);
    else if (_dmi_pages_fence(segment, run->first, run->pages)) run->flags |= DMI_RUN_CLOSED;
    if (heap->withheld.runs == DMI_WITHHELD_RUNS) let_run_go(heap, draw(heap, DMI_WITHHELD_RUNS));
    heap->withheld.run[heap->withheld.runs++] = run;
    heap->withheld.bytes += _dmi_run_size(run);
    while (heap->withheld.runs > FEW && heap->withheld.bytes > BYTES)
        let_run_go(heap, draw(heap, heap->withheld.runs));
}

static void let_map_go(dmi_heap *heap, uint32_t i) {
    dmi_os_range range = heap->withheld.map[i];
    memmove(&heap->withheld.map[i], &heap->withheld.map[i + 1],
            (--heap->withheld.maps - i) * sizeof range);
    (void)_dmi_os_release(range.address, range.size);
}

void _dmi_hard_withhold_map(dmi_heap *heap, dmi_run *run) {
    dmi_os_range range;
    if (!_dmi_virtual_close(&heap->space, run, &range)) return;
    if (heap->withheld.maps == DMI_WITHHELD_MAPS) let_map_go(heap, draw(heap, DMI_WITHHELD_MAPS));
    heap->withheld.map[heap->withheld.maps++] = range;
}

void _dmi_hard_let_go(dmi_heap *heap) {
    while (heap->withheld.runs) let_run_go(heap, heap->withheld.runs - 1);
    while (heap->withheld.maps) let_map_go(heap, heap->withheld.maps - 1);
}
