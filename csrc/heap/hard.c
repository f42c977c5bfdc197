/* hard.c - small blocks of hardened heaps: what each is, and which wait to be used again. */
#include "hard.h"
#include "cache.h"
#include "canary.h"
#include "fast.h"
#include "hard_fast.h"
#include "take.h"

#include "../block/note.h"

#include <string.h>

/* Of all quarantines of a heap together. */
#define QUARANTINE_BYTES ((uint64_t)262144)
/* Places of all bins. */
#define QUARANTINE_BLOCKS (16 * 32 + 24 * 16 + 32 * 8)
/* Neighbours that are shuffled with each other when they are carved. */
#define GROUP 8

/* The more blocks a run has, the larger the item that holds their states. */
#define STATES(bytes, number)                                                                      \
    { .name = "dmi-states", .item = (bytes), .chunk = (number) }
static dmi_lock pools;
static dmi_pool states[] = {STATES(128, 16384), STATES(576, 8192), STATES(4160, 2048)};
#define KINDS (sizeof states / sizeof *states)
static dmi_pool quarantines = {
    .name = "dmi-quarantine",
    .item = (sizeof(dmi_quarantine) + QUARANTINE_BLOCKS * sizeof(dmi_waiting) + 4095) / 4096 * 4096,
    .chunk = 256};

/* ---- what blocks are ----------------------------------------------------------------------------------- */

static dmi_pool *pool_of(const dmi_run *run) {
    size_t kind = 0;
    while (kind < KINDS - 1 && sizeof(dmi_states) + run->capacity + 1u > states[kind].item) kind++;
    return &states[kind];
}

bool _dmi_hard_attach(dmi_run *run) {
    _dmi_lock(&pools);
    run->states = _dmi_pool_alloc(pool_of(run));
    _dmi_unlock(&pools);
    if (run->states) run->states->base = (uintptr_t)_dmi_run_base(run);
    return run->states != NULL;
}

bool _dmi_hard_busy(const dmi_run *run, size_t index) {
    return run->states->of[index] == DMI_HARD_BUSY;
}

void _dmi_hard_detach(dmi_run *run) {
    if (!_dmi_run_is_hard(run)) return;
    atomic_store_explicit(&run->owner, DMI_OWNER_NONE, memory_order_release);
    _dmi_lock(&pools);
    _dmi_pool_free(pool_of(run), run->states);
    _dmi_unlock(&pools);
    run->states = NULL;
}

/* ---- handing out ----------------------------------------------------------------------------------------- */

void *_dmi_hard_pop(dmi_quarantine *q, dmi_run *run) {
    void *block = _dmi_lfh_head(run);
    size_t index;
    if (!block || !_dmi_hard_index(run, run->states, block, &index) || index >= run->carved ||
        run->states->of[index] != DMI_HARD_FREE || !_dmi_lfh_marked(run, block))
        return NULL;
    run->states->of[index] = DMI_HARD_BUSY;
    _dmi_lfh_set_head(run, _dmi_link_get(run, block));
    (void)_dmi_used_add(run, 1);
    q->state = &run->states->of[index];
    return block;
}

static void shuffle(dmi_quarantine *q, void **block, uint32_t count) {
    for (uint32_t i = count; i > 1; i--) {
        uint32_t j = _dmi_hard_draw_number(&q->random, i);
        void *kept = block[i - 1];
        block[i - 1] = block[j];
        block[j] = kept;
    }
}

/* A group after the other: processors fetch ahead what a program reads in about the order in which it allocated it, and
 * in a page that was shuffled as a whole they find no order (docs/security.md). */
void _dmi_hard_shuffle(dmi_cache *cache, dmi_run *run) {
    void *block[DMI_RUN_BLOCKS_MAX], *next = NULL;
    uint32_t count = 0;
    for (void *b = _dmi_lfh_head(run); b && count < DMI_RUN_BLOCKS_MAX; b = _dmi_link_get(run, b))
        block[count++] = b;
    for (uint32_t i = 0; i < count; i += GROUP)
        shuffle(cache->quarantine, block + i, count - i < GROUP ? count - i : GROUP);
    for (uint32_t i = count; i-- > 0;) {
        _dmi_link_set(run, block[i], next);
        next = block[i];
    }
    _dmi_lfh_set_head(run, next);
}

/* ---- the quarantine ---------------------------------------------------------------------------------------- */

bool _dmi_hard_setup(dmi_cache *cache) {
    _dmi_lock(&pools);
    dmi_quarantine *q = _dmi_pool_alloc(&quarantines);
    _dmi_unlock(&pools);
    if (!q) return false;
    (void)_dmi_os_random(&q->random, sizeof q->random); /* the heap has its secrets by now */
    dmi_waiting *item = q->item;
    for (size_t b = 0; b < DMI_BUCKETS; b++) {
        size_t size = _dmi_bucket_size[b];
        size_t ring = size <= 256 ? 8 : size <= 2048 ? 4 : 2;
        q->bin[b] = (dmi_bin){.ring = item,
                              .pool = item + ring,
                              .mask = (uint8_t)(ring - 1),
                              .most = (uint16_t)(3 * ring),
                              .size = (uint16_t)size};
        item += 4 * ring;
    }
    cache->quarantine = q;
    return true;
}

void _dmi_hard_drop(dmi_cache *cache) {
    if (!cache->quarantine) return;
    _dmi_lock(&pools);
    _dmi_pool_free(&quarantines, cache->quarantine);
    _dmi_unlock(&pools);
    cache->quarantine = NULL;
}

void _dmi_hard_drop_all(dmi_heap *heap) {
    if (!heap->shared.quarantine) return;
    for (dmi_segment *s = heap->space.segments; s; s = s->next)
        for (size_t page = 0; page < s->pages;) {
            dmi_run *run = _dmi_segment_run(s, page);
            page += run->pages;
            if (run->kind == DMI_RUN_LFH) _dmi_hard_detach(run);
        }
    _dmi_hard_drop(&heap->shared);
}

void *_dmi_hard_go(void *damaged, size_t size, void *(*slow)(size_t)) {
    if (damaged) _dmi_fault_note(DMI_NOTE_LINK, damaged);
    return slow(size);
}

void *_dmi_hard_draw_locked(dmi_thread *self, dmi_cache *cache, size_t size,
                            void *(*slow)(size_t)) {
    if (!_dmi_lock_try(&self->lock)) return slow(size);
    _dmi_owner_arrive(self);
    dmi_quarantine *q = cache->quarantine;
    dmi_bin *bin = &q->bin[_dmi_bucket(size + sizeof(uint64_t))];
    dmi_waiting one = {0};
    bool drawn = bin->count > bin->low;
    if (drawn) one = _dmi_hard_take(q, bin, bin->count);
    bool intact = drawn && _dmi_hard_intact(one.block);
    if (intact) _dmi_hard_hand_out(bin, one);
    _dmi_unlock(&self->lock);
    return intact ? one.block : _dmi_hard_go(one.block, size, slow);
}

void _dmi_hard_free_locked(void *block, dmi_run *run, void (*slow)(void *, dmi_run *)) {
    dmi_cache *cache = atomic_load_explicit(&run->cache, memory_order_acquire);
    dmi_lock *lock = cache ? cache->lock : NULL;
    bool done = false;
    if (lock && _dmi_lock_try(lock)) {
        if (atomic_load_explicit(&run->cache, memory_order_relaxed) == cache) {
            if (cache->thread) _dmi_owner_arrive(cache->thread);
            done = _dmi_hard_take_back(cache, run, block);
        }
        _dmi_unlock(lock);
    }
    if (!done) slow(block, run);
}

static void release(dmi_cache *cache, dmi_waiting one) {
    if (!_dmi_hard_intact(one.block)) {
        _dmi_fault_note(DMI_NOTE_LINK, one.block);
        return;
    }
    *one.state = DMI_HARD_FREE;
    _dmi_cache_free(cache, _dmi_pagemap_get(one.block), one.block);
}

/* To how many blocks a pool is filled when it is empty, and emptied when it is full. */
static uint32_t middle(const dmi_bin *bin) { return bin->room / 2u; }

static void let_out(dmi_cache *cache, dmi_bin *bin, uint32_t to) {
    while (bin->count > to) release(cache, _dmi_hard_take(cache->quarantine, bin, bin->count));
}

/* Bytes that may wait in a bin. */
static uint64_t capacity(const dmi_bin *bin) {
    return bin->room ? (uint64_t)(bin->mask + 1u + bin->room) * bin->size : 0;
}

static void close_bin(dmi_cache *cache, dmi_bin *bin) {
    uint64_t bytes = capacity(bin);
    let_out(cache, bin, 0);
    while (bin->young) release(cache, bin->ring[--bin->young]);
    bin->room = bin->turn = 0;
    bin->limit = 0;
    atomic_fetch_sub_explicit(&cache->heap->waiting, bytes, memory_order_relaxed);
}

void _dmi_hard_flush(dmi_cache *cache) {
    dmi_quarantine *q = cache->quarantine;
    if (!q || !q->any) return;
    for (size_t b = 0; b < DMI_BUCKETS; b++)
        if (q->bin[b].room) close_bin(cache, &q->bin[b]);
    q->any = false;
}

/* Give a bin more room, if all quarantines of the heap stay within their bound: first the ring and a third of the pool,
 * then all of it. */
static bool widen(dmi_cache *cache, dmi_bin *bin) {
    dmi_heap *heap = cache->heap;
    if (bin->room == bin->most) return false;
    uint64_t had = capacity(bin);
    uint16_t room = bin->room;
    bin->room = bin->room ? bin->most : bin->most / 3;
    uint64_t bytes = capacity(bin) - had;
    if (atomic_fetch_add_explicit(&heap->waiting, bytes, memory_order_relaxed) + bytes >
        QUARANTINE_BYTES) {
        atomic_fetch_sub_explicit(&heap->waiting, bytes, memory_order_relaxed);
        bin->room = room;
        return false;
    }
    /* The fast path clears two words only; where blocks are cleared whole, the slow path draws them. */
    bin->low = heap->flags & DMI_HEAP_ZERO ? UINT32_MAX : 0;
    bin->limit = bin->young > bin->mask ? bin->room : 0;
    cache->quarantine->any = true;
    return true;
}

/* The bin in which the most bytes may wait; NULL: none has room. */
static dmi_bin *widest(dmi_quarantine *q) {
    dmi_bin *found = NULL;
    for (size_t b = 0; b < DMI_BUCKETS; b++)
        if (capacity(&q->bin[b]) > (found ? capacity(found) : 0)) found = &q->bin[b];
    return found;
}

/* Let a freed block wait. False: other caches hold all that may wait. */
static bool wait(dmi_cache *cache, dmi_bin *bin, void *block, uint8_t *state) {
    dmi_bin *other;
    while (!bin->room && !widen(cache, bin)) {
        other = widest(cache->quarantine);
        if (!other) return false;
        close_bin(cache, other);
    }
    if (bin->young <= bin->mask) {
        _dmi_hard_wait(&bin->ring[bin->young++], block, state);
        if (bin->young > bin->mask) bin->limit = bin->room;
        return true;
    }
    if (bin->count == bin->room && !widen(cache, bin)) let_out(cache, bin, middle(bin));
    _dmi_hard_rotate(bin, bin->count, block, state);
    return true;
}

/* Let some blocks of the current run's list wait, so that the next allocations find them in the pool. */
static void fill(dmi_cache *cache, dmi_bin *bin, unsigned bucket) {
    dmi_quarantine *q = cache->quarantine;
    dmi_run *run = cache->current[bucket];
    void *block;
    while (bin->count < middle(bin) && (block = _dmi_hard_pop(q, run))) {
        if (run->flags & DMI_RUN_COUNTED)
            _dmi_engine_count_block(&cache->heap->engine, run, block, 1);
        _dmi_hard_wait(&bin->pool[bin->count++], block, q->state);
    }
}

void *_dmi_hard_alloc(dmi_cache *cache, unsigned bucket) {
    dmi_quarantine *q = cache->quarantine;
    dmi_bin *bin = &q->bin[bucket];
    void *block = NULL;
    while (!block && bin->count) {
        dmi_waiting one = _dmi_hard_take(q, bin, bin->count);
        if (_dmi_hard_intact(one.block)) {
            *one.state = DMI_HARD_BUSY;
            block = one.block;
        } else {
            _dmi_fault_note(DMI_NOTE_LINK, one.block);
        }
    }
    if (!block) {
        block = _dmi_cache_alloc(cache, bucket);
        if (!block) return NULL;
        fill(cache, bin, bucket);
    }
    memset(block, 0, cache->heap->flags & DMI_HEAP_ZERO ? bin->size : 16);
    _dmi_canary_set(cache->heap, block, bin->size);
    return block;
}

/* ---- taking back --------------------------------------------------------------------------------------------- */

/* What is wrong with freeing that block: a fault, or DMI_OK. The cache that owns the run is locked. */
static int judge(const dmi_run *run, const void *block, size_t *index) {
    if (!_dmi_hard_index(run, run->states, block, index)) return DMI_FAULT_INTERIOR;
    if (run->states->of[*index] != DMI_HARD_BUSY) return DMI_FAULT_FREE;
    return *_dmi_hard_end(block, run->block_size) ==
                   _dmi_hard_canary(_dmi_hard_end(block, run->block_size))
               ? DMI_OK
               : DMI_FAULT_OVERFLOW;
}

int _dmi_hard_check(dmi_run *run, const void *block) {
    size_t index;
    dmi_cache *cache = _dmi_cache_lock_of(run, false);
    if (!cache) return DMI_FAULT_FREE; /* it was released meanwhile */
    int fault = judge(run, block, &index);
    _dmi_unlock(cache->lock);
    return fault;
}

int _dmi_hard_free_slow(dmi_run *run, void *block) {
    size_t index;
    dmi_cache *cache = _dmi_cache_lock_of(run, false);
    if (!cache) return DMI_FAULT_FREE;
    int fault = judge(run, block, &index);
    if (!fault) {
        dmi_bin *bin = &cache->quarantine->bin[run->bucket];
        if (!wait(cache, bin, block, &run->states->of[index])) {
            run->states->of[index] = DMI_HARD_FREE;
            _dmi_cache_free(cache, run, block);
        }
    }
    _dmi_unlock(cache->lock);
    return fault;
}

size_t _dmi_hard_metadata(void) {
    size_t bytes = quarantines.live_bytes;
    for (size_t kind = 0; kind < KINDS; kind++) bytes += states[kind].live_bytes;
    return bytes;
}
