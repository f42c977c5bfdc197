/* hard_fast.h - hardened heaps: the paths of most allocations and frees, inlined into every door. See hard.h. */
#ifndef DMI_HARD_FAST_H
#define DMI_HARD_FAST_H

#include "hard.h"
#include "owner.h"

/* What a block is. FREE: in the run's list, parked, or never carved. */
enum { DMI_HARD_FREE = 0, DMI_HARD_BUSY = 1, DMI_HARD_WAITING = 2 };

/* What the blocks of a run are. There is one state more than blocks, for an address behind the last of them. */
typedef struct dmi_states {
    uintptr_t base; /* of the run */
    uint8_t of[];
} dmi_states;

typedef struct dmi_waiting {
    void *block;
    uint8_t *state;
} dmi_waiting;

/* One bucket's part of a quarantine. A freed block takes the place of the one that was in the ring longest, and that
 * one joins the pool, from which blocks are drawn at random. */
typedef struct dmi_bin {
    dmi_waiting *pool, *ring;
    uint32_t count,
        limit;     /* in the pool; that the fast path may put there: 0 until the ring is full */
    uint32_t low;  /* with more, the fast path draws one */
    uint16_t size; /* bytes of a block */
    uint8_t turn, mask; /* the place in the ring; places there, a power of two, less one */
    uint16_t room,
        most;      /* how many may be in the pool now, and at most; no room: nothing may wait */
    uint8_t young; /* blocks in the ring */
} dmi_bin;

struct dmi_quarantine {
    uint32_t random;
    bool any;       /* some limit is not 0 */
    uint8_t *state; /* of the block that was popped last */
    dmi_bin bin[DMI_BUCKETS];
    dmi_waiting item[]; /* all bins' */
};

/* The canary's place and value: see canary.h. */
static inline uint64_t *_dmi_hard_end(const void *block, size_t size) {
    return (uint64_t *)(void *)((char *)(uintptr_t)block + size - sizeof(uint64_t));
}
static inline uint64_t _dmi_hard_canary(const uint64_t *end) {
    return _dmi_secret.canary ^ (uintptr_t)end;
}

/* Each of the first two words of a block that waits. */
static inline uintptr_t _dmi_hard_word(const void *block) {
    return (uintptr_t)_dmi_secret.freed ^ (uintptr_t)block;
}
static inline bool _dmi_hard_intact(const void *block) {
    const dmi_word *word = block;
    uintptr_t expected = _dmi_hard_word(block);
    return ((word[0] ^ expected) | (word[1] ^ expected)) == 0;
}

static inline uint32_t _dmi_hard_draw_number(uint32_t *state, uint32_t below) {
    *state = *state * UINT32_C(1664525) + UINT32_C(1013904223);
    return (uint32_t)((uint64_t)*state * below >> 32);
}

/* The functions below call others only as their last act, so that they need no stack frame. */

/* Take the slow path. damaged: a block that was written to while it waited, which is never handed out again; or NULL. */
void *_dmi_hard_go(void *damaged, size_t size, void *(*slow)(size_t));
/* The same as the two below for who is not favoured (owner.h), or not the owner. */
void *_dmi_hard_draw_locked(dmi_thread *self, dmi_cache *cache, size_t size, void *(*slow)(size_t));
void _dmi_hard_free_locked(void *block, dmi_run *run, void (*slow)(void *, dmi_run *));

/* Take one at random from the pool, which has count of them. */
static inline dmi_waiting _dmi_hard_take(dmi_quarantine *q, dmi_bin *bin, uint32_t count) {
    dmi_waiting *pool = bin->pool, *at = &pool[_dmi_hard_draw_number(&q->random, count)], one = *at;
    bin->count = --count;
    *at = pool[count];
    return one;
}

/* Let a block that waited be busy. */
static inline void _dmi_hard_hand_out(const dmi_bin *bin, dmi_waiting one) {
    dmi_word *word = one.block;
    uint64_t *end = _dmi_hard_end(one.block, bin->size);
    *one.state = DMI_HARD_BUSY;
    word[0] = word[1] = 0;
    *end = _dmi_hard_canary(end);
}

/* Hand out a block that waited in that cache of this thread's. */
static inline __attribute__((always_inline)) void *
_dmi_hard_draw(dmi_thread *self, dmi_cache *cache, size_t size, void *(*slow)(size_t)) {
    if (!_dmi_owner_enter(self)) return _dmi_hard_draw_locked(self, cache, size, slow);
    dmi_quarantine *q = cache->quarantine;
    dmi_bin *bin = &q->bin[_dmi_bucket(size + sizeof(uint64_t))];
    uint32_t count = bin->count;
    if (__builtin_expect(count <= bin->low, 0)) {
        _dmi_owner_leave(self);
        return slow(size);
    }
    dmi_waiting one = _dmi_hard_take(q, bin, count);
    if (__builtin_expect(!_dmi_hard_intact(one.block), 0)) {
        _dmi_owner_leave(self);
        return _dmi_hard_go(one.block, size, slow);
    }
    _dmi_hard_hand_out(bin, one);
    _dmi_owner_leave(self);
    return one.block;
}

/* Allocate from the default heap, if it is hardened. */
static inline __attribute__((always_inline)) void *_dmi_hard_malloc_or(size_t size,
                                                                       void *(*slow)(size_t)) {
    dmi_thread *self = __atomic_load_n(&_dmi_self, __ATOMIC_RELAXED);
    dmi_cache *cache = self->hard;
    if (!cache || size > DMI_BUCKET_MAX - sizeof(uint64_t)) return slow(size);
    return _dmi_hard_draw(self, cache, size, slow);
}

/* Does a block of that run begin there? *index is its number. The product is exact: run->inverse is a little
 * more than 2^64 / size, by less than what a run is long. */
static inline bool _dmi_hard_index(const dmi_run *run, const dmi_states *states, const void *block,
                                   size_t *index) {
    __extension__ unsigned __int128 product =
        (unsigned __int128)((uintptr_t)block - states->base) * run->inverse;
    *index = (size_t)(product >> 64);
    return (uint64_t)product >> 32 == 0;
}

/* Let a busy block wait in that place. */
static inline void _dmi_hard_wait(dmi_waiting *at, void *block, uint8_t *state) {
    dmi_word *word = block;
    at->block = block;
    at->state = state;
    word[0] = word[1] = _dmi_hard_word(block);
    *state = DMI_HARD_WAITING;
}

/* Let a busy block wait in the ring, which is full: the oldest one there joins the pool, which has room for it. */
static inline void _dmi_hard_rotate(dmi_bin *bin, uint32_t count, void *block, uint8_t *state) {
    uint32_t turn = bin->turn;
    dmi_waiting *at = &bin->ring[turn];
    bin->count = count + 1;
    bin->turn = (uint8_t)((turn + 1) & bin->mask);
    bin->pool[count] = *at;
    _dmi_hard_wait(at, block, state);
}

/* Let a busy block of the run wait in the quarantine of that cache, which is locked and owns it. False: it is no such
 * block, or there is no room. */
static inline __attribute__((always_inline)) bool _dmi_hard_take_back(dmi_cache *cache,
                                                                      dmi_run *run, void *block) {
    const uint64_t *end = _dmi_hard_end(block, run->block_size);
    size_t index;
    if (__builtin_expect(!_dmi_hard_index(run, run->states, block, &index), 0)) return false;
    uint8_t *state = &run->states->of[index];
    dmi_bin *bin = &cache->quarantine->bin[run->bucket];
    uint32_t count = bin->count;
    if (__builtin_expect(*state != DMI_HARD_BUSY, 0) ||
        __builtin_expect(*end != _dmi_hard_canary(end), 0) ||
        __builtin_expect(count >= bin->limit, 0))
        return false;
    _dmi_hard_rotate(bin, count, block, state);
    return true;
}

/* Let a busy block of a run of any thread wait in the quarantine of the run's cache. Where it is no such block, or
 * there is no room, slow is called. */
static inline __attribute__((always_inline)) void
_dmi_hard_free_or(void *block, dmi_run *run, void (*slow)(void *, dmi_run *)) {
    dmi_thread *self = __atomic_load_n(&_dmi_self, __ATOMIC_RELAXED);
    dmi_cache *cache = atomic_load_explicit(&run->cache, memory_order_acquire);
    /* Nobody enters &_dmi_no_thread, which owns no cache and is everybody's. */
    if (__builtin_expect(cache && cache->thread == self, 1) &&
        __builtin_expect(_dmi_owner_enter(self), 1)) {
        /* Asked again inside: who takes a run over waits for that. */
        bool own = atomic_load_explicit(&run->cache, memory_order_relaxed) == cache;
        bool done = __builtin_expect(own, 1) && _dmi_hard_take_back(cache, run, block);
        _dmi_owner_leave(self);
        if (__builtin_expect(done, 1)) return;
        if (own) {
            slow(block, run);
            return;
        }
    }
    _dmi_hard_free_locked(block, run, slow);
}
#endif
