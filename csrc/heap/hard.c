/* hard.c - small blocks of hardened heaps: what each is, and which wait to be used again. */
#include "hard.h"
#include "cache.h"
#include "canary.h"
#include "fast.h"
#include "hard_fast.h"
#include "take.h"

#include "../block/note.h"

#include <string.h>

/* Of all quarantines of a heap together: half of it for blocks in places, which nobody gets, and half for those on stacks,
 * which are handed out next. */
#define QUARANTINE_BYTES ((uint64_t)524288)
/* What all bins have: places, one item between, and the stack. */
#define QUARANTINE_ITEMS (16 * (16 + 1 + 32) + 24 * (8 + 1 + 24) + 32 * (4 + 1 + 4))
/* Neighbours that are shuffled with each other when they are carved. */
#define GROUP 8

_Static_assert(DMI_BUCKETS == 16 + 24 + 32, "bins with 16 places, with 8, and with 4");
/* The bucket of the smallest requests: a block has room for two words and for the canary, which stands while it waits. */
#define SMALLEST 1

/* The more blocks a run has, the larger the item that holds their states. */
#define STATES(bytes, number)                                                                      \
    { .name = "dmi-states", .item = (bytes), .chunk = (number) }
static dmi_lock pools;
static dmi_pool states[] = {STATES(128, 16384), STATES(576, 8192), STATES(4160, 2048)};
#define KINDS (sizeof states / sizeof *states)
static dmi_pool quarantines = {.name = "dmi-quarantine",
                               .item = (sizeof(dmi_quarantine) + DMI_BUCKETS * sizeof(dmi_bin) +
                                        QUARANTINE_ITEMS * sizeof(dmi_waiting) + 4095) /
                                       4096 * 4096,
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

/* Places of a bin, and how high its stack may be, which is no less. The bins of all sizes up to 1 KiB together are to
 * keep within the bound. */
static uint32_t places_of(size_t size) { return size <= 256 ? 16 : size <= 2048 ? 8 : 4; }
static uint16_t most_of(size_t size) { return size <= 256 ? 32 : size <= 2048 ? 24 : 4; }

bool _dmi_hard_setup(dmi_cache *cache) {
    _dmi_lock(&pools);
    dmi_quarantine *q = _dmi_pool_alloc(&quarantines);
    _dmi_unlock(&pools);
    if (!q) return false;
    (void)_dmi_os_random(&q->random, sizeof q->random); /* the heap has its secrets by now */
    char *next = (char *)(q + 1);
    for (size_t b = 0; b < DMI_BUCKETS; b++) {
        dmi_bin *bin = q->bin[b] = (dmi_bin *)(void *)next;
        uint32_t places = places_of(_dmi_bucket_size[b]);
        dmi_waiting *bottom = bin->place + places + 1;
        *bin = (dmi_bin){.top = bottom,
                         .limit = bottom,
                         .bottom = bottom,
                         .random = _dmi_hard_step(&q->random),
                         .mask = (places - 1) * (uint32_t)sizeof(dmi_waiting),
                         .places = places,
                         .most = most_of(_dmi_bucket_size[b]),
                         .size = _dmi_bucket_size[b]};
        bottom[-1] = _dmi_no_quarantine.bin[b]->top[-1];
        next = (char *)(bottom + bin->most);
    }
    q->bin[0] = q->bin[SMALLEST];
    q->cache = cache;
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

/* Take one from the stack, which is not empty, at random. */
static dmi_waiting draw(dmi_quarantine *q, dmi_bin *bin) {
    uint32_t count = (uint32_t)(bin->top - bin->bottom);
    dmi_waiting *at = &bin->bottom[_dmi_hard_draw_number(&q->random, count)], one = *at;
    *at = *--bin->top;
    return one;
}

/* A block from the stack, as the fast path hands it out; NULL: somebody has to go the whole way. */
static void *pop_locked(dmi_thread *self, dmi_bin *bin) {
    if (!_dmi_lock_try(&self->lock)) return NULL;
    _dmi_owner_arrive(self);
    void *block = _dmi_hard_pop_waiting(bin);
    _dmi_unlock(&self->lock);
    return block;
}

void *_dmi_hard_draw(dmi_thread *self, dmi_cache *cache, size_t size) {
    dmi_bin *bin = _dmi_hard_bin(cache->quarantine, size);
    if (cache->heap->flags & DMI_HEAP_ZERO) return NULL;
    if (!_dmi_owner_enter(self)) return pop_locked(self, bin);
    void *block = _dmi_hard_pop_waiting(bin);
    _dmi_owner_leave(self);
    return block;
}

/* Done, or there is nothing to do so shortly: then *own says whether this thread's slow path is to be taken at once. */
static bool free_inside(void *block, dmi_run *run, bool *own) {
    dmi_thread *self = _dmi_self_get();
    dmi_cache *cache = atomic_load_explicit(&run->cache, memory_order_acquire);
    *own = false;
    /* Nobody enters &_dmi_no_thread, which owns no cache and is everybody's. */
    if (!cache || cache->thread != self || !_dmi_owner_enter(self)) return false;
    *own = atomic_load_explicit(&run->cache, memory_order_relaxed) == cache;
    bool done = *own && _dmi_hard_take_back(cache->quarantine, run, block);
    _dmi_owner_leave(self);
    return done;
}

static bool free_locked(void *block, dmi_run *run) {
    dmi_cache *cache = atomic_load_explicit(&run->cache, memory_order_acquire);
    dmi_lock *lock = cache ? cache->lock : NULL;
    if (!lock || !_dmi_lock_try(lock)) return false;
    bool done = false;
    if (atomic_load_explicit(&run->cache, memory_order_relaxed) == cache) {
        if (cache->thread) _dmi_owner_arrive(cache->thread);
        done = _dmi_hard_take_back(cache->quarantine, run, block);
    }
    _dmi_unlock(lock);
    return done;
}

void _dmi_hard_free_other(void *block, dmi_run *run, void (*slow)(void *, dmi_run *)) {
    bool own;
    if (free_inside(block, run, &own)) return;
    if (own || !free_locked(block, run)) slow(block, run);
}

static void release(dmi_cache *cache, dmi_waiting one) {
    if (!_dmi_hard_intact(one.block)) {
        _dmi_fault_note(DMI_NOTE_LINK, one.block);
        return;
    }
    *one.state = DMI_HARD_FREE;
    _dmi_cache_free(cache, _dmi_pagemap_get(one.block), one.block);
}

static uint32_t stacked(const dmi_bin *bin) { return (uint32_t)(bin->top - bin->bottom); }

/* How many blocks a stack gets when it is empty, and loses when it is full. */
static uint32_t share(const dmi_bin *bin) { return bin->room / 4u; }

static void let_out(dmi_cache *cache, dmi_bin *bin, uint32_t to) {
    while (stacked(bin) > to) release(cache, draw(cache->quarantine, bin));
}

/* Bytes that may wait in a bin. */
static uint64_t capacity(const dmi_bin *bin) {
    return bin->room ? (uint64_t)(bin->places + bin->room) * bin->size : 0;
}

/* The fast path may use the stack once every place holds a block. */
static void set_limit(dmi_bin *bin) {
    bin->limit = bin->bottom + (bin->young == bin->places ? bin->room : 0);
}

static void close_bin(dmi_cache *cache, dmi_bin *bin) {
    uint64_t bytes = capacity(bin);
    let_out(cache, bin, 0);
    while (bin->young) release(cache, bin->place[--bin->young]);
    bin->room = 0;
    set_limit(bin);
    atomic_fetch_sub_explicit(&cache->heap->waiting, bytes, memory_order_relaxed);
}

void _dmi_hard_flush(dmi_cache *cache) {
    dmi_quarantine *q = cache->quarantine;
    if (!q || !q->any) return;
    for (size_t b = 0; b < DMI_BUCKETS; b++)
        if (q->bin[b]->room) close_bin(cache, q->bin[b]);
    q->any = false;
}

/* Give a bin more room, if all quarantines of the heap stay within their bound: first its places and as
 * many on the stack, then all of it. */
static bool widen(dmi_cache *cache, dmi_bin *bin) {
    dmi_heap *heap = cache->heap;
    if (bin->room == bin->most) return false;
    uint64_t had = capacity(bin);
    uint16_t room = bin->room;
    bin->room = bin->room ? bin->most : (uint16_t)bin->places;
    uint64_t bytes = capacity(bin) - had;
    if (atomic_fetch_add_explicit(&heap->waiting, bytes, memory_order_relaxed) + bytes >
        QUARANTINE_BYTES) {
        atomic_fetch_sub_explicit(&heap->waiting, bytes, memory_order_relaxed);
        bin->room = room;
        return false;
    }
    set_limit(bin);
    cache->quarantine->any = true;
    return true;
}

/* The bin in which the most bytes may wait; NULL: none has room. */
static dmi_bin *widest(dmi_quarantine *q) {
    dmi_bin *found = NULL;
    for (size_t b = 0; b < DMI_BUCKETS; b++)
        if (capacity(q->bin[b]) > (found ? capacity(found) : 0)) found = q->bin[b];
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
    if (bin->young < bin->places) {
        _dmi_hard_wait(&bin->place[bin->young++], block, state);
        set_limit(bin);
        return true;
    }
    if (bin->top == bin->limit && !widen(cache, bin))
        let_out(cache, bin, stacked(bin) - share(bin));
    _dmi_hard_exchange(bin, block, state);
    return true;
}

/* Let some blocks of the current run's list come onto the stack, in random order, so that the next allocations find them
 * there. */
static void fill(dmi_cache *cache, dmi_bin *bin, unsigned bucket) {
    dmi_quarantine *q = cache->quarantine;
    dmi_run *run = cache->current[bucket];
    void *block;
    while (stacked(bin) < share(bin) && (block = _dmi_hard_pop(q, run))) {
        if (run->flags & DMI_RUN_COUNTED)
            _dmi_engine_count_block(&cache->heap->engine, run, block, 1);
        _dmi_canary_set(cache->heap, block, bin->size);
        dmi_waiting *at = &bin->bottom[_dmi_hard_draw_number(&q->random, stacked(bin) + 1)];
        *bin->top++ = *at;
        _dmi_hard_wait(at, block, q->state);
    }
}

void *_dmi_hard_alloc(dmi_cache *cache, unsigned bucket) {
    if (bucket < SMALLEST) bucket = SMALLEST;
    dmi_quarantine *q = cache->quarantine;
    dmi_bin *bin = q->bin[bucket];
    void *block = NULL;
    while (!block && stacked(bin)) {
        dmi_waiting one = *--bin->top;
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
        dmi_bin *bin = cache->quarantine->bin[run->bucket];
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
