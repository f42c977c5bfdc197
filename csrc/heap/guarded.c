/* guarded.c - guard slots: which allocation gets one, and what happens to it. */
#include "guarded.h"

#include "observe.h"

#include "../os/lock.h"

static dmi_lock pool_lock;
static dmi_pool pool = {
    .name = "dmi-guarded", .item = (sizeof(dmi_guarded) + 63) / 64 * 64, .chunk = 64};

/* ---- which one ------------------------------------------------------------------------------------------- */

/* Places before the next sample: evenly from 0 to 2 N - 2, so that the samples keep no step with the program. */
static int64_t draw(dmi_guarded *g) {
    g->random ^= g->random << 13;
    g->random ^= g->random >> 7;
    g->random ^= g->random << 17;
    return (int64_t)((g->random >> 11) % (2 * g->every - 1));
}

bool _dmi_guarded_setup(dmi_heap *heap, uint64_t every) {
    _dmi_lock(&pool_lock);
    dmi_guarded *g = _dmi_pool_alloc(&pool);
    _dmi_unlock(&pool_lock);
    if (!g) return false;
    g->every = every;
    do (void)_dmi_os_random(&g->random, sizeof g->random);
    while (!g->random);
    atomic_store_explicit(&g->left, draw(g), memory_order_relaxed);
    heap->guarded = g;
    return true;
}

void _dmi_guarded_drop(dmi_heap *heap) {
    if (!heap->guarded) return;
    _dmi_lock(&pool_lock);
    _dmi_pool_free(&pool, heap->guarded);
    _dmi_unlock(&pool_lock);
    heap->guarded = NULL;
}

/* ---- slots ----------------------------------------------------------------------------------------------- */

/* The pages of the block: [*first, *first + *count) of the run. */
static void pages_of(const dmi_run *run, size_t *first, size_t *count) {
    *first = (size_t)(_dmi_guarded_block(run) - _dmi_run_base(run)) >> _dmi_page_shift;
    *count = run->pages - 1 - *first;
}

static char *page_at(const dmi_run *run, size_t page) {
    return _dmi_run_base(run) + (page << _dmi_page_shift);
}

static dmi_run *new_slot(dmi_heap *heap) {
    dmi_space *space = &heap->space;
    size_t pages = _dmi_pages(DMI_GUARDED_MAX) + 2;
    dmi_run *run = _dmi_run_alloc(space, pages, 1, DMI_RUN_GUARDED, false, NULL);
    if (!run) return NULL;
    size_t end = run->first + pages, at = run->first;
    int error = 0;
    run->flags |= DMI_RUN_KEPT;
    while (!error && (at = _dmi_bits_find(run->segment->committed, at, end, true)) < end) {
        size_t stop = _dmi_bits_find(run->segment->committed, at, end, false);
        error = _dmi_pages_decommit(run->segment, at, stop - at);
    }
    if (!error) error = _dmi_os_guard(_dmi_run_base(run), _dmi_run_size(run), space->mode);
    if (!error) return run;
    (void)_dmi_run_free(space, run);
    return NULL;
}

/* A new slot while there may be more, then the one that was freed first. NULL: all are busy. */
static dmi_run *take_slot(dmi_heap *heap) {
    dmi_guarded *g = heap->guarded;
    dmi_run *oldest = NULL;
    if (g->count < DMI_GUARDED_SLOTS) {
        dmi_run *run = new_slot(heap);
        if (run) {
            run->carved = (uint16_t)g->count;
            g->slot[g->count++] = run;
            return run;
        }
    }
    for (size_t i = 0; g->busy < g->count && i < g->count; i++) {
        dmi_run *run = g->slot[i];
        if (run->flags & DMI_RUN_KEPT && (!oldest || run->freed_at < oldest->freed_at))
            oldest = run;
    }
    return oldest;
}

static bool open_slot(dmi_heap *heap, dmi_run *run, size_t size, size_t align) {
    size_t first, count;
    uint16_t old_offset = run->capacity;
    uintptr_t behind = (uintptr_t)page_at(run, run->pages - 1);
    uintptr_t block = (behind - size) & ~(uintptr_t)(align - 1);
    run->capacity = (uint16_t)((block - (uintptr_t)_dmi_run_base(run)) / 16);
    pages_of(run, &first, &count);
    if (_dmi_os_unguard(page_at(run, first), count << _dmi_page_shift, heap->space.mode)) goto fail;
    if (_dmi_pages_commit(run->segment, run->first + first, count)) {
        (void)_dmi_os_guard(page_at(run, first), count << _dmi_page_shift, heap->space.mode);
        goto fail;
    }
    run->block_size = (uint16_t)size;
    run->flags &= (uint8_t)~DMI_RUN_KEPT;
    return true;
fail:
    run->capacity = old_offset;
    return false;
}

void *_dmi_guarded_alloc(dmi_heap *heap, size_t size, size_t align) {
    dmi_guarded *g = heap->guarded;
    void *block = NULL;
    if (size > DMI_GUARDED_MAX || align > _dmi_page) return NULL;
    size = size ? (size + 15) & ~(size_t)15 : 16;
    if (align < 16) align = 16;
    _dmi_lock(&heap->lock);
    /* Another thread may have taken the sample. */
    if (atomic_load_explicit(&g->left, memory_order_relaxed) <= 0) {
        atomic_store_explicit(&g->left, draw(g), memory_order_relaxed);
        dmi_run *run = take_slot(heap);
        if (run && open_slot(heap, run, size, align)) {
            block = _dmi_guarded_block(run);
            g->busy++;
            _dmi_trace_forget(&g->trace[run->carved].freed);
            _dmi_trace_take(&g->trace[run->carved].allocated, DMI_FRAME);
        }
    }
    _dmi_unlock(&heap->lock);
    return block;
}

void _dmi_guarded_free(dmi_heap *heap, dmi_run *run) {
    size_t first, count;
    pages_of(run, &first, &count);
    _dmi_trace_take(&heap->guarded->trace[run->carved].freed, DMI_FRAME);
    /* Set first, so that a touch that faults is told as one of a freed block. */
    run->flags |= DMI_RUN_KEPT;
    /* Guard the pages before they go: a touch in between could read zeroes. */
    (void)_dmi_os_guard(page_at(run, first), count << _dmi_page_shift, heap->space.mode);
    (void)_dmi_pages_decommit(run->segment, run->first + first, count);
    run->freed_at = ++heap->guarded->frees;
    heap->guarded->busy--;
}

void _dmi_guarded_traces(const dmi_run *run, const dmi_trace **allocated, const dmi_trace **freed) {
    const dmi_guarded *g = _dmi_heap_of_run(run)->guarded;
    *allocated = *freed = NULL;
    if (!g || run->carved >= DMI_GUARDED_SLOTS) return;
    *allocated = &g->trace[run->carved].allocated;
    if (run->flags & DMI_RUN_KEPT) *freed = &g->trace[run->carved].freed;
}

void _dmi_guarded_protect(dmi_heap *heap) {
    for (size_t i = 0; heap->guarded && i < heap->guarded->count; i++) {
        const dmi_run *run = heap->guarded->slot[i];
        size_t first = run->pages, count = 0;
        if (!(run->flags & DMI_RUN_KEPT)) pages_of(run, &first, &count);
        size_t before = count ? first : run->pages;
        (void)_dmi_os_guard(_dmi_run_base(run), before << _dmi_page_shift, heap->space.mode);
        if (count) (void)_dmi_os_guard(page_at(run, run->pages - 1), _dmi_page, heap->space.mode);
    }
}

size_t _dmi_guarded_metadata(void) { return pool.live_bytes; }
