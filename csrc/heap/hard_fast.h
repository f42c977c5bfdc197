/* hard_fast.h - hardened heaps: the paths of most allocations and frees, inlined into every door. See hard.h. */
#ifndef DMI_HARD_FAST_H
#define DMI_HARD_FAST_H

#include "fast.h"
#include "hard.h"
#include "owner.h"
#include "quarantine.h"

/* What a block is. FREE: in the run's list, parked, or never carved. */
enum { DMI_HARD_FREE = 0, DMI_HARD_BUSY = 1, DMI_HARD_WAITING = 2 };

/* What the blocks of a run are. There is one state more than blocks, for an address behind the last of them. */
typedef struct dmi_states {
    uintptr_t base; /* of the run */
    uint8_t of[];
} dmi_states;

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
    return word[0] == expected && word[1] == expected;
}

static inline uint32_t _dmi_hard_step(uint32_t *state) {
    return *state = *state * UINT32_C(1664525) + UINT32_C(1013904223);
}
static inline uint32_t _dmi_hard_draw_number(uint32_t *state, uint32_t below) {
    return (uint32_t)((uint64_t)_dmi_hard_step(state) * below >> 32);
}

/* Pop a block of the stack and let it be busy. NULL: there is none, or it was written to while it waited. Its canary is
 * there: it was looked at when the block was freed, and stays. */
static inline void *_dmi_hard_pop_waiting(dmi_bin *bin) {
    const dmi_waiting *one = bin->top - 1;
    dmi_word *word = one->block;
    if (__builtin_expect(!_dmi_hard_intact(word), 0)) return NULL;
    bin->top--;
    *one->state = DMI_HARD_BUSY;
    word[0] = word[1] = 0;
    return word;
}

static inline dmi_bin *_dmi_hard_bin(const dmi_quarantine *q, size_t size) {
    return q->bin[_dmi_bucket(size + sizeof(uint64_t))];
}

/* Allocate from the default heap, if it is hardened. slow is called last, so that this needs no stack frame. */
static inline __attribute__((always_inline)) void *_dmi_hard_malloc_or(size_t size,
                                                                       void *(*slow)(size_t)) {
    dmi_thread *self = __atomic_load_n(&_dmi_self, __ATOMIC_RELAXED);
    if (__builtin_expect(size >= self->draws, 0)) return slow(size);
    dmi_quarantine *q = _dmi_owner_enter_own(self);
    void *block = _dmi_hard_pop_waiting(_dmi_hard_bin(q, size));
    if (__builtin_expect(!block, 0)) {
        _dmi_owner_leave(self);
        return slow(size);
    }
    _dmi_owner_leave(self);
    return block;
}

/* As _dmi_run_is_hard, one instruction shorter: for who frees a block of it, so that it stays. */
static inline bool _dmi_hard_owns(const dmi_run *run) {
    return _dmi_owner_is(run, (const dmi_thread *)DMI_OWNER_HARD);
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
    /* Not as one vector, which takes two instructions to make. */
    uintptr_t written = _dmi_hard_word(block);
    __atomic_store_n(word, written, __ATOMIC_RELAXED);
    __atomic_store_n(word + 1, written, __ATOMIC_RELAXED);
    *state = DMI_HARD_WAITING;
}

/* Let a busy block wait in place of another one, which comes onto the stack. Every place is taken, and the stack is not
 * full. */
static inline void _dmi_hard_exchange(dmi_bin *bin, void *block, uint8_t *state) {
    uint32_t number = _dmi_hard_step(&bin->random);
    /* The highest bit says which place of the bank, the lowest ones which bank. */
    uint32_t offset = (number << 5 | number >> 27) & bin->mask;
    dmi_waiting *at = (dmi_waiting *)(void *)((char *)bin->place + offset);
    *bin->top++ = *at;
    _dmi_hard_wait(at, block, state);
}

/* Let a busy block of the run wait in that quarantine, whose cache owns it and is locked. False: it is no such block,
 * or there is no room. */
static inline __attribute__((always_inline)) bool _dmi_hard_take_back(dmi_quarantine *q,
                                                                      dmi_run *run, void *block) {
    size_t index;
    if (__builtin_expect(!_dmi_hard_index(run, run->states, block, &index), 0)) return false;
    uint8_t *state = &run->states->of[index];
    __asm__(
        ""
        : "+r"(state)); /* or gcc keeps what it was made of too, and has no registers for that */
    if (__builtin_expect(*state != DMI_HARD_BUSY, 0)) return false;
    const uint64_t *end = _dmi_hard_end(block, run->block_size);
    if (__builtin_expect(*end != _dmi_hard_canary(end), 0)) return false;
    dmi_bin *bin = q->bin[run->bucket];
    if (__builtin_expect(bin->top >= bin->limit, 0)) return false;
    _dmi_hard_exchange(bin, block, state);
    return true;
}

/* Is that a sound busy block of this thread's cache of the default heap? False: it may be one all the same. */
static inline bool _dmi_hard_sound(const dmi_run *run, const void *block) {
    dmi_thread *self = __atomic_load_n(&_dmi_self, __ATOMIC_RELAXED);
    const dmi_quarantine *q = _dmi_owner_enter_own(self);
    size_t index;
    const uint64_t *end = _dmi_hard_end(block, run->block_size);
    bool sound = atomic_load_explicit(&run->cache, memory_order_relaxed) == q->cache &&
                 _dmi_hard_index(run, run->states, block, &index) &&
                 run->states->of[index] == DMI_HARD_BUSY && *end == _dmi_hard_canary(end);
    _dmi_owner_leave(self);
    return sound;
}

/* As the next one, of a block that is not of this thread's cache of the default heap, or while it is not favoured. */
void _dmi_hard_free_other(void *block, dmi_run *run, void (*slow)(void *, dmi_run *));

/* Let a busy block of a hardened run of any thread wait in the quarantine of the run's cache. Where it is no such block,
 * or there is no room, slow is called. */
static inline __attribute__((always_inline)) void
_dmi_hard_free_or(void *block, dmi_run *run, void (*slow)(void *, dmi_run *)) {
    dmi_thread *self = __atomic_load_n(&_dmi_self, __ATOMIC_RELAXED);
    dmi_quarantine *q = _dmi_owner_enter_own(self);
    /* Asked inside: who takes a run over waits for that. */
    if (__builtin_expect(atomic_load_explicit(&run->cache, memory_order_relaxed) != q->cache, 0)) {
        _dmi_owner_leave(self);
        _dmi_hard_free_other(block, run, slow);
        return;
    }
    if (__builtin_expect(_dmi_hard_take_back(q, run, block), 1)) {
        _dmi_owner_leave(self);
        return;
    }
    _dmi_owner_leave(self);
    slow(block, run);
}
#endif
