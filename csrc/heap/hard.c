/* hard.c - small blocks of hardened heaps: what is busy, and what waits to be used again. */
#include "hard.h"
#include "cache.h"
#include "canary.h"
#include "fast.h"

#include "../block/note.h"

#include <string.h>

#define QUARANTINE_BYTES ((size_t)262144)
#define QUARANTINE_BLOCKS 512

struct dmi_quarantine {
    size_t count, bytes;
    uint64_t random;
    uint32_t frees;
    struct {
        void *block;
        dmi_run *run;
    } item[QUARANTINE_BLOCKS];
};

#define BITMAP (DMI_RUN_BLOCKS_MAX / 8)

static dmi_lock pools;
static dmi_pool bitmaps = {.name = "dmi-busy", .item = BITMAP, .chunk = 1024};
static dmi_pool quarantines = {
    .name = "dmi-quarantine", .item = (sizeof(dmi_quarantine) + 63) / 64 * 64, .chunk = 1024};

/* ---- which blocks are busy ----------------------------------------------------------------------------- */

bool _dmi_hard_attach(dmi_run *run) {
    _dmi_lock(&pools);
    char *bitmap = _dmi_pool_alloc(&bitmaps);
    size_t number = 0;
    for (size_t c = 0; bitmap && c < DMI_POOL_CHUNKS && bitmaps.base[c]; c++) {
        size_t offset = (size_t)(bitmap - bitmaps.base[c]);
        if (offset < bitmaps.chunk * BITMAP) number = c * bitmaps.chunk + offset / BITMAP + 1;
    }
    if (bitmap && (number == 0 || number > UINT16_MAX)) {
        _dmi_pool_free(&bitmaps, bitmap);
        number = 0;
    }
    _dmi_unlock(&pools);
    run->busy = (uint16_t)number;
    return number != 0;
}

static uint64_t *bitmap_of(const dmi_run *run) { return _dmi_pool_at(&bitmaps, run->busy - 1u); }

bool _dmi_hard_busy(const dmi_run *run, size_t index) {
    return bitmap_of(run)[index / 64] >> (index % 64) & 1;
}

void _dmi_hard_detach(dmi_run *run) {
    if (!run->busy) return;
    _dmi_lock(&pools);
    _dmi_pool_free(&bitmaps, bitmap_of(run));
    _dmi_unlock(&pools);
    run->busy = 0;
}

/* ---- handing out ----------------------------------------------------------------------------------------- */

void *_dmi_hard_pop(dmi_heap *heap, dmi_run *run) {
    void *block = _dmi_lfh_head(run);
    uint32_t offset = (uint32_t)((char *)block - _dmi_run_base(run));
    uint32_t index = offset / run->block_size;
    if (!block || index >= run->carved || index * run->block_size != offset ||
        !_dmi_lfh_marked(run, block))
        return NULL;
    uint64_t *word = &bitmap_of(run)[index / 64], bit = UINT64_C(1) << (index % 64);
    if (*word & bit) return NULL;
    *word |= bit;
    _dmi_lfh_set_head(run, _dmi_link_get(run, block));
    (void)_dmi_used_add(run, 1);
    if (heap->flags & DMI_HEAP_ZERO) memset(block, 0, run->block_size);
    else memset(block, 0, 16);
    _dmi_canary_set(heap, block, run->block_size);
    return block;
}

static uint64_t random_of(dmi_quarantine *q) {
    q->random ^= q->random << 13;
    q->random ^= q->random >> 7;
    q->random ^= q->random << 17;
    return q->random;
}

void _dmi_hard_shuffle(dmi_heap *heap, dmi_run *run) {
    void *block[DMI_RUN_BLOCKS_MAX], *next = NULL;
    size_t count = 0;
    for (void *b = _dmi_lfh_head(run); b && count < DMI_RUN_BLOCKS_MAX; b = _dmi_link_get(run, b))
        block[count++] = b;
    for (size_t i = count; i > 1; i--) {
        size_t j = random_of(heap->quarantine) % i;
        void *kept = block[i - 1];
        block[i - 1] = block[j];
        block[j] = kept;
    }
    for (size_t i = 0; i < count; i++) {
        _dmi_link_set(run, block[i], next);
        next = block[i];
    }
    _dmi_lfh_set_head(run, next);
}

/* ---- the quarantine ---------------------------------------------------------------------------------------- */

bool _dmi_hard_setup(dmi_heap *heap) {
    _dmi_lock(&pools);
    heap->quarantine = _dmi_pool_alloc(&quarantines);
    _dmi_unlock(&pools);
    while (heap->quarantine && !heap->quarantine->random)
        _dmi_os_random(&heap->quarantine->random, sizeof heap->quarantine->random);
    return heap->quarantine != NULL;
}

void _dmi_hard_drop(dmi_heap *heap) {
    if (!heap->quarantine) return;
    for (dmi_segment *s = heap->space.segments; s; s = s->next)
        for (size_t page = 0; page < s->pages;) {
            dmi_run *run = _dmi_segment_run(s, page);
            page += run->pages;
            if (run->kind == DMI_RUN_LFH) _dmi_hard_detach(run);
        }
    _dmi_lock(&pools);
    _dmi_pool_free(&quarantines, heap->quarantine);
    _dmi_unlock(&pools);
    heap->quarantine = NULL;
}

/* Let one out. Written to meanwhile, it stays where it is for ever, and the fault is noted. */
static void let_out(dmi_heap *heap, size_t i) {
    dmi_quarantine *q = heap->quarantine;
    void *block = q->item[i].block;
    dmi_run *run = q->item[i].run;
    q->bytes -= run->block_size;
    q->item[i] = q->item[--q->count];
    if (!_dmi_lfh_marked(run, block) || _dmi_link_get(run, block)) {
        _dmi_fault_note(DMI_NOTE_LINK, block);
        return;
    }
    _dmi_cache_free(&heap->shared, run, block);
}

void _dmi_hard_flush(dmi_heap *heap) {
    while (heap->quarantine->count) let_out(heap, heap->quarantine->count - 1);
}

/* ---- taking back --------------------------------------------------------------------------------------------- */

static inline int judge(const dmi_heap *heap, const dmi_run *run, const void *block,
                        uint32_t *index) {
    if (run->kind != DMI_RUN_LFH || !run->busy)
        return DMI_FAULT_FREE; /* it was released meanwhile */
    uint32_t offset = (uint32_t)((const char *)block - _dmi_run_base(run));
    *index = offset / run->block_size;
    if (*index * run->block_size != offset) return DMI_FAULT_INTERIOR;
    if (*index >= run->carved || !(bitmap_of(run)[*index / 64] >> (*index % 64) & 1))
        return DMI_FAULT_FREE;
    return _dmi_canary_sound(heap, block, run->block_size) ? DMI_OK : DMI_FAULT_OVERFLOW;
}

int _dmi_hard_check(dmi_heap *heap, dmi_run *run, const void *block) {
    uint32_t index;
    _dmi_lock(&heap->shared_lock);
    int fault = judge(heap, run, block, &index);
    _dmi_unlock(&heap->shared_lock);
    return fault;
}

int _dmi_hard_free(dmi_heap *heap, dmi_run *run, void *block, bool *tick) {
    uint32_t index;
    _dmi_lock(&heap->shared_lock);
    int fault = judge(heap, run, block, &index);
    if (!fault) {
        dmi_quarantine *q = heap->quarantine;
        bitmap_of(run)[index / 64] &= ~(UINT64_C(1) << (index % 64));
        _dmi_link_set(run, block, NULL);
        while (q->count == QUARANTINE_BLOCKS ||
               (q->count && q->bytes + run->block_size > QUARANTINE_BYTES))
            let_out(heap, (uint32_t)random_of(q) * (uint64_t)q->count >> 32);
        q->item[q->count].block = block;
        q->item[q->count++].run = run;
        q->bytes += run->block_size;
        *tick = q->frees++ % 64 == 0;
    }
    _dmi_unlock(&heap->shared_lock);
    return fault;
}

size_t _dmi_hard_metadata(void) { return bitmaps.live_bytes + quarantines.live_bytes; }
