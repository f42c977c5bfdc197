/* watch.c - watched pages: drawn as they are carved, found by their run; a block of one that is hit too often sits out.
 * */
#include "watch.h"

#include "../os/lock.h"
#include "../os/probes.h"
#include "../segment/pool.h"
#include "lfh.h"

#define CHAINS 1024
/* While one page had _dmi_watch_patience hits, all pages together had less than SHARE times as many: then the block
 * that is freed sits out. A block of a page that is hit no more than its share never does. */
#define SHARE 4u
uint32_t _dmi_watch_patience = 64;

_Atomic uint32_t _dmi_watch_period;

static _Atomic uint64_t state;    /* of the draw: a counter, which is mixed */
static _Atomic int64_t skip;      /* pages to pass before the next that is watched */
static _Atomic double scale;      /* -1 / ln(1 - 1 / period); 0: every page is watched */
static _Atomic uint32_t all_hits; /* frees on watched pages */
static _Atomic uint64_t lost;
_Atomic uint32_t _dmi_watch_freed[DMI_WATCH_CLASSES];
static dmi_lock lock;
static dmi_watch *chains[CHAINS];
static size_t count;
static dmi_pool pool = {
    .name = "dmi-watch", .item = (sizeof(dmi_watch) + 63) / 64 * 64, .chunk = 2048, .stable = true};

/* SplitMix64: one counter for all threads, so that each draw is one of its own. */
static uint64_t next_random(void) {
    uint64_t z =
        atomic_fetch_add_explicit(&state, UINT64_C(0x9e3779b97f4a7c15), memory_order_relaxed);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* -ln(x) for 0 < x <= 1: no function of the mathematics library is called here. */
static double minus_log(double x) {
    union {
        double value;
        uint64_t bits;
    } m = {x};
    int exponent = (int)(m.bits >> 52) - 1023;
    m.bits = (m.bits & UINT64_C(0x000fffffffffffff)) | UINT64_C(0x3ff0000000000000);
    double s = (m.value - 1) / (m.value + 1), square = s * s, sum = 0;
    for (int k = 21; k > 0; k -= 2) sum = sum * square + 1.0 / k;
    return -(2 * s * sum + exponent * 0.6931471805599453);
}

/* How many pages are passed before one that is watched, when each is with the same probability. */
static int64_t draw_skip(void) {
    double times = atomic_load_explicit(&scale, memory_order_relaxed);
    return (int64_t)(minus_log((double)((next_random() >> 11) + 1) * 0x1p-53) * times);
}

void _dmi_watch_begin(uint32_t every, uint64_t seed) {
    if (every) {
        if (seed) atomic_store_explicit(&state, seed, memory_order_relaxed);
        double times = every > 1 ? 1 / minus_log(1 - 1.0 / every) : 0;
        atomic_store_explicit(&scale, times, memory_order_relaxed);
        atomic_store_explicit(&skip, draw_skip(), memory_order_relaxed);
    }
    atomic_store_explicit(&_dmi_watch_period, every, memory_order_release);
}

static dmi_watch **chain_of(const dmi_run *run) {
    uint64_t hash = (uint64_t)(uintptr_t)run * UINT64_C(0x9e3779b97f4a7c15);
    return &chains[hash >> 54];
}
_Static_assert(CHAINS == 1 << 10, "chain_of takes ten bits");

/* ---- pages come and go; locked ------------------------------------------------------------------------- */

static char *address_of(const dmi_run *run, size_t page) {
    return _dmi_run_base(run) + page * DMI_WATCH_PAGE;
}

/* An agent that was told of blocks on this page will not hear of their frees any more. So tell it now that they are
 * gone. */
static void tell_gone(dmi_watch *watch) {
    for (size_t k = 0; k < watch->blocks; k++) {
        uint32_t told =
            atomic_fetch_and_explicit(&watch->holder[k], ~DMI_HOLDER_TOLD, memory_order_relaxed);
        if (told & DMI_HOLDER_TOLD)
            _dmi_os_probe_free(_dmi_run_base(_dmi_watch_run(watch)) +
                               (watch->first + k) * _dmi_watch_run(watch)->block_size);
    }
}

/* The descriptor stays: frees of its blocks that are under way still look at it. */
static void give_up(dmi_watch *watch) {
    dmi_run *run = _dmi_watch_run(watch);
    if (!watch->given_up && _dmi_os_probes_wanted()) tell_gone(watch);
    if (!watch->given_up) _dmi_pagemap_set(address_of(run, watch->page), DMI_WATCH_PAGE, run);
    count -= !watch->given_up;
    watch->given_up = true;
}

static void drop(dmi_watch *watch) {
    dmi_run *run = _dmi_watch_run(watch);
    give_up(watch);
    if (watch->next) watch->next->prev = watch->prev;
    if (watch->prev) watch->prev->next = watch->next;
    else *chain_of(run) = watch->next;
    _dmi_pool_free(&pool, watch);
}

static void begin(dmi_run *run, size_t page, size_t first, uint32_t every) {
    dmi_watch *watch = _dmi_pool_alloc(&pool);
    if (!watch) {
        atomic_fetch_add_explicit(&lost, 1, memory_order_relaxed);
        return;
    }
    const size_t size = run->block_size;
    size_t end = ((page + 1) * DMI_WATCH_PAGE + size - 1) / size;
    if (end > run->capacity) end = run->capacity;
    watch->page = (uint32_t)page;
    watch->first = (uint16_t)first;
    watch->blocks = (uint16_t)(end - first);
    watch->given_up = false;
    atomic_store_explicit(&watch->every, every, memory_order_relaxed);
    atomic_store_explicit(&watch->hits, 0, memory_order_relaxed);
    atomic_store_explicit(&watch->before, 0, memory_order_relaxed);
    for (size_t k = 0; k < DMI_WATCH_BLOCKS; k++)
        atomic_store_explicit(&watch->holder[k], 0, memory_order_relaxed);
    watch->shadow.segment = run->segment;
    /* A reader that found this shadow by its former page, and sees this run, sees the changed page map too. */
    __atomic_store_n(&watch->shadow.next, run, __ATOMIC_RELEASE);
    if (watch->shadow.kind != DMI_RUN_SHADOW) {
        watch->shadow.head = (void *)(uintptr_t)_dmi_end;
        watch->shadow.kind = DMI_RUN_SHADOW;
    }
    /* A shadow once, a shadow for ever: a late reader never takes it for a run. */
    atomic_store_explicit(&watch->shadow.owner, DMI_OWNER_SHADOW, memory_order_release);
    dmi_watch **chain = chain_of(run);
    watch->prev = NULL;
    watch->next = *chain;
    if (watch->next) watch->next->prev = watch;
    *chain = watch;
    count++;
    run->flags |= DMI_RUN_WATCHED;
    _dmi_pagemap_set(address_of(run, page), DMI_WATCH_PAGE, &watch->shadow);
}

static dmi_watch *find(const dmi_run *run, size_t page) {
    dmi_run *there = _dmi_pagemap_get(address_of(run, page));
    return _dmi_run_is_shadow(there) ? (dmi_watch *)(void *)there : NULL;
}

/* Among pages [first, first + n) of the run, which come to be used in this order: which is watched? SIZE_MAX: no more of
 * them. One count for all threads: whoever comes to its end draws anew. What another one took off it meanwhile is
 * forgotten, which changes no probability: a draw does not depend on how many pages were passed before. */
typedef struct drawing {
    int64_t at, n;
} drawing;
static drawing draw_among(size_t n) {
    drawing d = {0, (int64_t)n};
    d.at = atomic_fetch_sub_explicit(&skip, d.n, memory_order_relaxed);
    if (d.at < 0) d.at = draw_skip();
    return d;
}
static size_t next_drawn(drawing *d) {
    if (d->at >= d->n) return SIZE_MAX;
    size_t drawn = (size_t)d->at;
    d->at += 1 + draw_skip();
    atomic_store_explicit(&skip, d->at - d->n, memory_order_relaxed);
    return drawn;
}

/* Does a block begin on the page, and is it the first time one comes to be used? *first: the first that begins there. */
static bool begins_now(const dmi_run *run, size_t page, size_t last, size_t *first) {
    const size_t size = run->block_size;
    *first = (page * DMI_WATCH_PAGE + size - 1) / size;
    return *first >= run->carved && *first < last && *first * size < (page + 1) * DMI_WATCH_PAGE;
}

void _dmi_watch_carve(dmi_run *run, size_t last) {
    const size_t size = run->block_size, carved = run->carved;
    const uint32_t every = _dmi_watch_every();
    if (_dmi_run_is_hard(run) || !every)
        return; /* hardened heaps have their own way of handing out */
    /* A page that was carved in part was drawn then; on some pages no block begins. */
    size_t page = carved ? (carved - 1) * size / DMI_WATCH_PAGE + 1 : 0;
    size_t end = (last - 1) * size / DMI_WATCH_PAGE + 1, first;
    if (page >= end) return;
    drawing d = draw_among(end - page);
    size_t drawn = next_drawn(&d);
    if (drawn == SIZE_MAX && !(run->flags & DMI_RUN_WATCHED)) return;
    for (size_t i = 0; page + i < end; i++) {
        bool now = i == drawn;
        if (now) drawn = next_drawn(&d);
        if (!begins_now(run, page + i, last, &first)) continue;
        dmi_watch *old = run->flags & DMI_RUN_WATCHED ? find(run, page + i) : NULL;
        if (!now && !old) continue;
        _dmi_lock(&lock);
        if (old) drop(old); /* none of its blocks was left: it is drawn afresh */
        if (now) begin(run, page + i, first, every);
        _dmi_unlock(&lock);
    }
}

/* Its free blocks that stand on lists turn away the fast path. What an operation in flight, or a thread that frees a
 * block this moment, puts back is marked as usual, and missed once. */
static void turn_away(const dmi_run *run, size_t first, size_t end, const dmi_blockmap *map,
                      size_t in_flight) {
    for (size_t i = first; i < end; i++) {
        dmi_word *block = (dmi_word *)(void *)_dmi_lfh_block(run, i);
        if (i == in_flight || !_dmi_map_get(map, i) || !_dmi_lfh_usable(run, i)) continue;
        if (_dmi_lfh_marked(run, block))
            __atomic_store_n(block + 1, _dmi_lfh_mark(run, block) ^ DMI_MARK_WATCHED,
                             __ATOMIC_RELAXED);
    }
}

void _dmi_watch_carved(dmi_run *run, const dmi_blockmap *map, size_t in_flight) {
    const size_t size = run->block_size, carved = run->carved;
    const uint32_t every = _dmi_watch_every();
    if (_dmi_run_is_hard(run) || !every) return;
    if (carved == 0) return;
    drawing d = draw_among((carved - 1) * size / DMI_WATCH_PAGE + 1);
    for (size_t page; (page = next_drawn(&d)) != SIZE_MAX;) {
        size_t first = (page * DMI_WATCH_PAGE + size - 1) / size;
        size_t end = ((page + 1) * DMI_WATCH_PAGE + size - 1) / size;
        if (end > carved) end = carved;
        if (first >= end || (run->flags & DMI_RUN_WATCHED && find(run, page))) continue;
        _dmi_lock(&lock);
        begin(run, page, first, every);
        _dmi_unlock(&lock);
        if (find(run, page)) turn_away(run, first, end, map, in_flight);
    }
}

void _dmi_watch_release(dmi_run *run) {
    _dmi_lock(&lock);
    for (dmi_watch *watch = *chain_of(run), *next; watch; watch = next) {
        next = watch->next;
        if (_dmi_watch_run(watch) == run) drop(watch);
    }
    run->flags &= (uint8_t)~DMI_RUN_WATCHED;
    _dmi_unlock(&lock);
}

void _dmi_watch_forget(const dmi_space *space) {
    /* Whoever watched a page of this space has done so before; others' pages do not matter here. */
    if (__atomic_load_n(&pool.used, __ATOMIC_RELAXED) == 0) return;
    _dmi_lock(&lock);
    for (size_t i = 0; i < CHAINS; i++)
        for (dmi_watch *watch = chains[i], *next; watch; watch = next) {
            next = watch->next;
            if (watch->shadow.segment->space == space) drop(watch);
        }
    _dmi_unlock(&lock);
}

void _dmi_watch_thin(void) {
    _dmi_lock(&lock);
    for (size_t i = 0; i < CHAINS; i++)
        for (dmi_watch *watch = chains[i]; watch; watch = watch->next) {
            if (watch->given_up) continue;
            if (next_random() >> 63) give_up(watch);
            else
                atomic_store_explicit(&watch->every,
                                      2 * atomic_load_explicit(&watch->every, memory_order_relaxed),
                                      memory_order_relaxed);
        }
    _dmi_unlock(&lock);
}

/* ---- hits ---------------------------------------------------------------------------------------------- */

bool _dmi_watch_note_free(dmi_run *shadow, const void *block) {
    dmi_watch *watch = (dmi_watch *)(void *)shadow;
    uint32_t held = atomic_exchange_explicit(&watch->holder[_dmi_watch_index(watch, block)], 0,
                                             memory_order_relaxed);
    if (held & DMI_HOLDER_TOLD) _dmi_os_probe_free(block);
    size_t class = held >> DMI_HOLDER_CLASS_SHIFT & (DMI_WATCH_CLASSES - 1);
    atomic_fetch_add_explicit(&_dmi_watch_freed[class], 1, memory_order_relaxed);
    uint32_t all = atomic_fetch_add_explicit(&all_hits, 1, memory_order_relaxed) + 1;
    uint32_t hits = atomic_load_explicit(&watch->hits, memory_order_relaxed) + 1;
    if (hits < _dmi_watch_patience) {
        atomic_store_explicit(&watch->hits, hits, memory_order_relaxed);
        return false;
    }
    uint32_t since = all - atomic_load_explicit(&watch->before, memory_order_relaxed);
    atomic_store_explicit(&watch->hits, 0, memory_order_relaxed);
    atomic_store_explicit(&watch->before, all, memory_order_relaxed);
    uintptr_t owner = atomic_load_explicit(&_dmi_watch_run(watch)->owner, memory_order_relaxed);
    return since < _dmi_watch_patience * SHARE && owner != DMI_OWNER_NONE;
}

/* ---- all of them --------------------------------------------------------------------------------------- */

int _dmi_watch_each(int (*visit)(void *argument, dmi_watch *watch), void *argument) {
    int result = 0;
    _dmi_lock(&lock);
    for (size_t i = 0; i < CHAINS && !result; i++)
        for (dmi_watch *watch = chains[i]; watch && !result; watch = watch->next)
            if (!watch->given_up) result = visit(argument, watch);
    _dmi_unlock(&lock);
    return result;
}

size_t _dmi_watch_count(void) {
    _dmi_lock(&lock);
    size_t now = count;
    _dmi_unlock(&lock);
    return now;
}

uint64_t _dmi_watch_lost(void) { return atomic_load_explicit(&lost, memory_order_relaxed); }
size_t _dmi_watch_metadata(void) {
    _dmi_lock(&lock);
    size_t bytes = pool.live_bytes;
    _dmi_unlock(&lock);
    return bytes;
}
void _dmi_watch_lock(void) { _dmi_lock(&lock); }
void _dmi_watch_unlock(void) { _dmi_unlock(&lock); }
