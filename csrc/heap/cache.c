/* cache.c - one thread's subsegments of one heap: where a block comes from when the fast path is empty. */
#include "cache.h"
#include "../block/note.h"
#include "../block/watch.h"
#include "../decommit/policies.h"
#include "fast.h"
#include "guarded.h"
#include "hard.h"
#include "observe.h"
#include "owner.h"
#include "registry.h"

#include <errno.h>

static dmi_lock pool_lock;
static dmi_pool pool = {
    .name = "dmi-caches", .item = (sizeof(dmi_cache) + 63) / 64 * 64, .chunk = 1024};

/* The only writer of the slots: small sizes have one for every 16 bytes as well. */
static void set_current(dmi_cache *cache, unsigned bucket, dmi_run *run) {
    cache->current[bucket] = run;
    size_t first = bucket ? _dmi_bucket_size[bucket - 1] / 16 + 1u : 0;
    size_t last = _dmi_bucket_size[bucket] / 16;
    if (last > DMI_DIRECT_MAX / 16) return;
    for (size_t i = first; i <= last; i++) cache->direct[i] = run;
}

void _dmi_cache_clear(dmi_cache *cache) {
    for (unsigned b = 0; b < DMI_BUCKETS; b++) set_current(cache, b, &_dmi_no_run);
}

void _dmi_cache_init(dmi_cache *cache, dmi_heap *heap, dmi_thread *thread, dmi_lock *lock) {
    _dmi_cache_clear(cache);
    for (size_t b = 0; b < DMI_BUCKETS; b++) {
        cache->avail[b].head = cache->avail[b].tail = NULL;
        cache->spare[b] = NULL;
        atomic_store_explicit(&cache->pending[b], NULL, memory_order_relaxed);
    }
    atomic_store_explicit(&cache->any_pending, false, memory_order_relaxed);
    cache->heap = heap;
    cache->thread = thread;
    cache->lock = lock;
    cache->taken = NULL;
}

static void recycle(dmi_cache *cache) {
    _dmi_lock(&pool_lock);
    _dmi_pool_free(&pool, cache);
    _dmi_unlock(&pool_lock);
}

dmi_cache *_dmi_cache_get(dmi_thread *self, dmi_heap *heap) {
    for (dmi_cache *cache = self->caches; cache; cache = cache->next_of_thread)
        if (cache->heap == heap) return cache;
    dmi_cache *cache = &self->cache;
    bool hard = _dmi_heap_is_hard(heap);
    if (heap != _dmi_default || hard) {
        _dmi_lock(&pool_lock);
        cache = _dmi_pool_alloc(&pool);
        _dmi_unlock(&pool_lock);
        if (!cache) return NULL;
    }
    if (hard && !_dmi_hard_setup(cache)) {
        recycle(cache);
        return NULL;
    }
    if (hard) _dmi_owner_favour(self);
    _dmi_cache_init(cache, heap, self, &self->lock);
    cache->next_of_thread = self->caches;
    self->caches = cache;
    _dmi_lock(&heap->lock);
    cache->prev_of_heap = NULL;
    cache->next_of_heap = heap->caches;
    if (cache->next_of_heap) cache->next_of_heap->prev_of_heap = cache;
    heap->caches = cache;
    _dmi_unlock(&heap->lock);
    return cache;
}

void _dmi_cache_drop(dmi_cache *cache) {
    dmi_thread *thread = cache->thread;
    dmi_cache **link = &thread->caches;
    while (*link != cache) link = &(*link)->next_of_thread;
    *link = cache->next_of_thread;
    if (thread->memo == cache) {
        thread->memo_heap = DMI_NO_HANDLE;
        thread->memo = NULL;
    }
    if (thread->door == cache) thread->door = &_dmi_no_thread.cache;
    if (thread->hard_memo == cache) thread->hard_memo = NULL;
    _dmi_hard_drop(cache);
    cache->heap = NULL;
    if (cache != &thread->cache) recycle(cache);
}

/* ---- lists of runs ------------------------------------------------------------------------------------ */

/* avail: runs with blocks on their list. spare: runs with none that can grow by carving or by committing
 * again. Both latest first: what was used last is warm. */
static void list_add(dmi_cache *cache, dmi_run *run, dmi_run_place place) {
    run->place = (uint8_t)place;
    if (place == DMI_PLACE_SPARE) {
        run->prev = NULL;
        run->next = cache->spare[run->bucket];
        if (run->next) run->next->prev = run;
        cache->spare[run->bucket] = run;
        return;
    }
    run->prev = NULL;
    run->next = cache->avail[run->bucket].head;
    if (run->next) run->next->prev = run;
    else cache->avail[run->bucket].tail = run;
    cache->avail[run->bucket].head = run;
}

static void list_remove(dmi_cache *cache, dmi_run *run) {
    if (run->prev) run->prev->next = run->next;
    else if (run->place == DMI_PLACE_SPARE) cache->spare[run->bucket] = run->next;
    else cache->avail[run->bucket].head = run->next;
    if (run->next) run->next->prev = run->prev;
    else if (run->place == DMI_PLACE_AVAIL) cache->avail[run->bucket].tail = run->prev;
    run->next = run->prev = NULL;
    run->place = DMI_PLACE_FULL;
}

/* As list_remove, of the first run of avail. */
static inline void take_avail(dmi_cache *cache, dmi_run *run) {
    dmi_run *next = run->next;
    cache->avail[run->bucket].head = next;
    if (next) next->prev = NULL;
    else cache->avail[run->bucket].tail = NULL;
    run->next = NULL;
    run->place = DMI_PLACE_FULL;
}

/* How many frees a full run waits for before it is listed again: a few, so that a run does not come and
 * go with every block. Each slow path that this saves hides a free block meanwhile. A sixty-fourth of its
 * blocks, and three at least, where that is no more than a quarter; docs/tuning.md has what others cost. */
static int32_t patience(const dmi_run *run) {
    int32_t k = run->capacity / 64, least = run->capacity / 4;
    if (least > 3) least = 3; /* but 1 at least: no run has fewer than four blocks */
    return k > least ? k : least;
}

static bool can_grow(const dmi_run *run) { return run->parked || run->carved < run->capacity; }

/* The run is in no list, and its own free list is empty: it joins those that can grow, or waits for frees as a
 * full one. */
static void retire(dmi_cache *cache, dmi_run *run) {
    if (can_grow(run)) {
        _dmi_lfh_set_bias(run, 0);
        list_add(cache, run, DMI_PLACE_SPARE);
    } else {
        run->place = DMI_PLACE_FULL;
        _dmi_lfh_set_bias(run, patience(run) - _dmi_lfh_busy(run));
    }
}

static void make_current(dmi_cache *cache, dmi_run *run) {
    run->place = DMI_PLACE_CURRENT;
    _dmi_lfh_set_bias(run, DMI_BIAS_CURRENT);
    set_current(cache, run->bucket, run);
}

static bool empty(const dmi_run *run) {
    return _dmi_lfh_busy(run) == 0 &&
           !(atomic_load_explicit(&run->remote, memory_order_relaxed) & DMI_REMOTE_PENDING);
}

/* Give an empty run in no list back to the segment. */
static void release(dmi_cache *cache, dmi_run *run) {
    dmi_heap *heap = cache->heap;
    if (!_dmi_lfh_all_marked(
            run)) { /* somebody still has a block of it: so it stays, and serves nobody */
        _dmi_fault_note(DMI_NOTE_LINK, _dmi_run_base(run));
        run->place = DMI_PLACE_FULL;
        _dmi_lfh_set_bias(run, DMI_BIAS_CURRENT);
        _dmi_lfh_set_head(run, NULL);
        return;
    }
    /* Whoever finds the descriptor later, in its next life too, must not think that it belongs here. */
    atomic_store_explicit(&run->cache, NULL, memory_order_relaxed);
    _dmi_lock(&heap->lock);
    _dmi_hard_detach(run);
    if (run->flags & DMI_RUN_WATCHED) _dmi_watch_release(run);
    heap->bucket_pages[run->bucket] -= run->pages;
    dmi_run *freed = _dmi_run_free(&heap->space, run);
    _dmi_engine_give_freed_run(&heap->engine, freed);
    _dmi_unlock(&heap->lock);
}

void _dmi_cache_settle(dmi_cache *cache, dmi_run *run) {
    if (run->place == DMI_PLACE_CURRENT) return;
    if (run->place == DMI_PLACE_FULL) {
        _dmi_lfh_set_bias(run, 0);
        list_add(cache, run, DMI_PLACE_AVAIL);
    }
    if (empty(run)) {
        list_remove(cache, run);
        release(cache, run);
    }
}

void _dmi_cache_list(dmi_cache *cache, dmi_run *run) {
    if (run->place != DMI_PLACE_FULL) return;
    _dmi_lfh_set_bias(run, 0);
    list_add(cache, run, DMI_PLACE_AVAIL);
}

/* Is it time to settle a run whose count changed by more than one at once? */
static bool due(const dmi_run *run) {
    if (run->place == DMI_PLACE_CURRENT) return false;
    if (run->place == DMI_PLACE_FULL)
        return atomic_load_explicit(&run->used, memory_order_relaxed) <= 0;
    return empty(run);
}

void _dmi_cache_review(dmi_cache *cache, dmi_run *run) {
    if (due(run)) _dmi_cache_settle(cache, run);
}

/* ---- remote frees -------------------------------------------------------------------------------------- */

/* First the list, then the flag; whoever takes in all clears the flag first. So either it finds the run, or the
 * flag is set behind it. */
static void pend_on(dmi_cache *cache, dmi_run *run) {
    _Atomic(dmi_run *) *list = &cache->pending[run->bucket];
    dmi_run *head = atomic_load_explicit(list, memory_order_relaxed);
    do {
        atomic_store_explicit(&run->pending_next, head, memory_order_relaxed);
    } while (!atomic_compare_exchange_weak_explicit(list, &head, run, memory_order_seq_cst,
                                                    memory_order_relaxed));
    if (!atomic_load_explicit(&cache->any_pending, memory_order_seq_cst))
        atomic_store_explicit(&cache->any_pending, true, memory_order_seq_cst);
}

void _dmi_cache_pend(dmi_run *run) {
    pend_on(atomic_load_explicit(&run->cache, memory_order_acquire), run);
}

static void take_run(dmi_cache *cache, dmi_run *run) {
    if (!cache->thread || cache->thread->state != DMI_THREAD_TAKEN) return;
    if (cache->quarantine) return; /* nothing is in flight without the lock */
    if (run->flags & DMI_RUN_TAKEN) return;
    _dmi_lfh_take(run, run->place == DMI_PLACE_CURRENT);
    run->taken_next = cache->taken;
    cache->taken = run;
}

static inline bool pends(const dmi_cache *cache, unsigned bucket) {
    return atomic_load_explicit(&cache->pending[bucket], memory_order_seq_cst) != NULL;
}

static void drain_bucket(dmi_cache *cache, unsigned bucket) {
    _Atomic(dmi_run *) *list = &cache->pending[bucket];
    if (!pends(cache, bucket)) return;
    dmi_run *run = atomic_exchange_explicit(list, NULL, memory_order_acquire), *next;
    for (; run; run = next) {
        next = atomic_load_explicit(&run->pending_next, memory_order_relaxed);
        dmi_cache *owner = atomic_load_explicit(&run->cache, memory_order_acquire);
        if (owner != cache) { /* it moved while it was on its way here */
            pend_on(owner, run);
            continue;
        }
        take_run(cache, run); /* a taker may not write what its owner may */
        (void)_dmi_lfh_collect(run, false);
        if (run->flags & DMI_RUN_TAKEN) continue;
        if (run->flags & DMI_RUN_COUNTED) (void)_dmi_engine_count_run(run);
        if (due(run)) _dmi_cache_settle(cache, run);
    }
}

void _dmi_cache_drain(dmi_cache *cache) {
    _dmi_hard_flush(cache);
    if (!_dmi_cache_waits(cache)) return;
    atomic_store_explicit(&cache->any_pending, false, memory_order_seq_cst);
    for (unsigned b = 0; b < DMI_BUCKETS; b++) drain_bucket(cache, b);
}

/* ---- taken runs, empty runs ------------------------------------------------------------------------------------------ */

void _dmi_cache_take_run(dmi_cache *cache, dmi_run *run) { take_run(cache, run); }

bool _dmi_cache_shed(dmi_cache *cache) {
    bool any = false;
    _dmi_cache_drain(cache);
    for (unsigned b = 0; b < DMI_BUCKETS; b++) {
        dmi_run *run = cache->current[b];
        if (run != &_dmi_no_run && empty(run)) {
            set_current(cache, b, &_dmi_no_run);
            release(cache, run);
            any = true;
        }
        while ((run = cache->avail[b].head) && empty(run)) {
            list_remove(cache, run);
            release(cache, run);
            any = true;
        }
    }
    return any;
}

/* ---- handing out -------------------------------------------------------------------------------------------- */

/* Make a run that another cache left this one's own. */
static void adopt(dmi_cache *cache, dmi_run *run) {
    uintptr_t token = cache->quarantine ? DMI_OWNER_HARD
                      : cache->thread   ? (uintptr_t)cache->thread
                                        : DMI_OWNER_NONE;
    atomic_store_explicit(&run->cache, cache, memory_order_release);
    atomic_store_explicit(&run->owner, token, memory_order_release);
}

static dmi_run *steal_from(dmi_cache *from, dmi_cache *cache, unsigned bucket) {
    _dmi_hard_flush(from); /* what waits there is of its runs */
    drain_bucket(from, bucket);
    dmi_run *run = from->avail[bucket].head;
    if (!run) run = from->spare[bucket];
    if (run) {
        list_remove(from, run);
    } else if (from->current[bucket] != &_dmi_no_run) {
        run = from->current[bucket];
        set_current(from, bucket, &_dmi_no_run);
    }
    if (run) {
        run->place = DMI_PLACE_FULL;
        run->flags &= (uint8_t)~DMI_RUN_COUNTED;
        adopt(cache, run);
    }
    return run;
}

/* A run of the bucket that nobody else will use: of the shared cache, or of a thread that ended. */
static dmi_run *steal(dmi_cache *cache, unsigned bucket) {
    dmi_heap *heap = cache->heap;
    dmi_run *run = NULL;
    if (cache != &heap->shared && _dmi_lock_try(&heap->shared_lock)) {
        run = steal_from(&heap->shared, cache, bucket);
        _dmi_unlock(&heap->shared_lock);
    }
    if (run || atomic_load_explicit(&heap->abandoned, memory_order_relaxed) == 0) return run;
    /* Draining may need the heap's lock, so the search only locks a promising cache. */
    dmi_cache *from;
    _dmi_lock(&heap->lock);
    for (from = heap->caches; from; from = from->next_of_heap) {
        if (from == cache || !_dmi_lock_try(from->lock)) continue;
        if (from->thread->state == DMI_THREAD_ABANDONED &&
            (from->avail[bucket].head || from->spare[bucket] ||
             from->current[bucket] != &_dmi_no_run ||
             atomic_load_explicit(&from->pending[bucket], memory_order_relaxed)))
            break;
        _dmi_unlock(from->lock);
    }
    _dmi_unlock(&heap->lock);
    if (from) {
        run = steal_from(from, cache, bucket);
        _dmi_unlock(from->lock);
    }
    return run;
}

/* A new run for the bucket. NULL: out of memory. */
static dmi_run *make_run(dmi_cache *cache, unsigned bucket) {
    dmi_heap *heap = cache->heap;
    _dmi_lock(&heap->lock);
    size_t bytes = _dmi_bucket_run(bucket, heap->bucket_pages[bucket] << _dmi_page_shift);
    if (heap->space.free_committed < bytes && _dmi_cache_waits(cache)) {
        /* Before more is committed: what others emptied, of all buckets. */
        _dmi_unlock(&heap->lock);
        _dmi_cache_drain(cache);
        _dmi_lock(&heap->lock);
    }
    dmi_run *run = _dmi_run_alloc(&heap->space, _dmi_pages(bytes), 1, DMI_RUN_LFH, false, NULL);
    if (run) {
        heap->bucket_pages[bucket] += run->pages;
        _dmi_lfh_init(run, bucket);
        bool counts = !cache->thread && _dmi_policy_row(&heap->engine.policy)->counts;
        bool attached = !cache->quarantine || _dmi_hard_attach(run);
        if (attached) adopt(cache, run);
        if (!attached || (counts && _dmi_engine_count_run(run))) {
            _dmi_hard_detach(run);
            heap->bucket_pages[bucket] -= run->pages;
            (void)_dmi_run_free(&heap->space, run);
            run = NULL;
        }
    }
    _dmi_unlock(&heap->lock);
    return run;
}

/* Let the run have something on its list: what it has, or what others freed. False: nothing came back. */
static inline bool fill_list(dmi_run *run) {
    return _dmi_lfh_head(run) || _dmi_lfh_collect(run, true);
}
/* The same from blocks that were never used, or whose pages were given back. */
static bool grow(dmi_cache *cache, dmi_run *run, int *error) {
    if (!_dmi_lfh_carve(run, error) && (*error || !_dmi_lfh_unpark(run, error))) return false;
    if (cache->quarantine) _dmi_hard_shuffle(cache, run);
    return true;
}

/* A run with something on its list now, by the cheapest way there is: blocks that came back, then blocks never used or
 * given back, then a run of others, then a new one. It is in no list, unless it is current. NULL: out of memory. */
static dmi_run *filled(dmi_cache *cache, unsigned bucket) {
    dmi_run *old = cache->current[bucket], *run;
    int error = 0;
    /* What others freed is taken in only when there is nothing else at hand, and of this bucket alone: the
     * later, the more blocks come with each exchange of the cache lines; and a list that is empty takes
     * theirs as it is, where another would be followed to its end first. */
    for (int round = 0; round < 2; round++) {
        if (round && pends(cache, bucket)) drain_bucket(cache, bucket);
        if (fill_list(old)) return old;
        while ((run = cache->avail[bucket].head)) {
            take_avail(cache, run);
            if (fill_list(run)) return run;
            retire(cache, run);
        }
    }
    if (can_grow(old)) {
        if (grow(cache, old, &error)) return old;
        if (error) return NULL;
    }
    while ((run = cache->spare[bucket]) || (run = steal(cache, bucket))) {
        if (run->place == DMI_PLACE_SPARE) list_remove(cache, run);
        if (fill_list(run) || grow(cache, run, &error)) return run;
        retire(cache, run);
        if (error) return NULL;
    }
    run = make_run(cache, bucket);
    if (!run) return NULL;
    if (!grow(cache, run, &error)) {
        release(cache, run);
        return NULL;
    }
    return run;
}

/* Let the bucket's current run have something on its list. */
static bool refill(dmi_cache *cache, unsigned bucket) {
    dmi_run *old = cache->current[bucket];
    _dmi_observe_agent();
    dmi_run *run = filled(cache, bucket);
    if (run == old) return true;
    if (!run) return false;
    make_current(cache, run);
    if (old == &_dmi_no_run) return true;
    if (__builtin_expect(!_dmi_lfh_head(old), 1)) {
        retire(cache, old);
    } else { /* others freed blocks of it while a new run was made */
        old->place = DMI_PLACE_FULL;
        _dmi_cache_settle(cache, old);
    }
    return true;
}

/* The first block of the list, if it lies on a watched page: the fast path leaves such blocks alone. */
static void *pop_watched(dmi_run *run) {
    void *block = _dmi_lfh_head(run);
    if (!_dmi_lfh_is_block(run, block) || !_dmi_lfh_marked_watched(run, block)) return NULL;
    _dmi_lfh_set_head(run, _dmi_link_get(run, block));
    (void)_dmi_used_add(run, 1);
    __atomic_store_n((dmi_word *)block, 0, __ATOMIC_RELEASE);
    __atomic_store_n((dmi_word *)block + 1, 0, __ATOMIC_RELAXED);
    return block;
}

static int32_t push_watched(dmi_run *run, void *block) {
    _dmi_link_set_as(run, block, _dmi_lfh_head(run), DMI_MARK_WATCHED);
    atomic_store_explicit(&run->head, block, memory_order_release);
    return _dmi_used_add(run, -1);
}

void *_dmi_cache_alloc(dmi_cache *cache, unsigned bucket) {
    void *block;
    while (!(block = cache->quarantine ? _dmi_hard_pop(cache->quarantine, cache->current[bucket])
                                       : _dmi_fast_pop(cache->current[bucket]))) {
        dmi_run *old = cache->current[bucket];
        void *damaged = _dmi_lfh_head(old);
        if (damaged && old->flags & DMI_RUN_WATCHED && (block = pop_watched(old))) break;
        if (damaged) { /* its list is lost: its blocks stay busy for ever */
            _dmi_fault_note(DMI_NOTE_LINK, damaged);
            _dmi_lfh_set_head(old, NULL);
        }
        if (!refill(cache, bucket)) return NULL;
        const dmi_run *came = cache->current[bucket];
        _dmi_guarded_note_places(cache->heap, came->carved - came->parked - _dmi_lfh_busy(came));
    }
    dmi_run *run = cache->current[bucket];
    if (run->flags & DMI_RUN_COUNTED) _dmi_engine_count_block(&cache->heap->engine, run, block, 1);
    return block;
}

void _dmi_cache_free(dmi_cache *cache, dmi_run *run, void *block) {
    int32_t used = _dmi_lfh_watched(run, block)
                       ? push_watched(run, block)
                       : _dmi_fast_push(run, block, _dmi_lfh_mark(run, block));
    if (run->flags & DMI_RUN_COUNTED) _dmi_engine_count_block(&cache->heap->engine, run, block, -1);
    if (used == 0) _dmi_cache_settle(cache, run);
}

void _dmi_cache_hand_over(dmi_cache *cache) {
    dmi_heap *heap = cache->heap;
    dmi_cache *shared = &heap->shared;
    _dmi_hard_flush(cache);
    _dmi_lock(&heap->shared_lock);
    _dmi_lock(&heap->lock);
    for (dmi_segment *segment = heap->space.segments; segment; segment = segment->next) {
        size_t page = 0;
        while (page < segment->pages) {
            dmi_run *run = _dmi_segment_run(segment, page);
            page += run->pages;
            if (run->kind != DMI_RUN_LFH ||
                atomic_load_explicit(&run->cache, memory_order_relaxed) != cache)
                continue;
            if (run->place == DMI_PLACE_CURRENT) set_current(cache, run->bucket, &_dmi_no_run);
            else if (run->place != DMI_PLACE_FULL) list_remove(cache, run);
            _dmi_lfh_set_bias(run, 0);
            adopt(shared, run);
            /* Without memory for its counts the run's pages wait for the next pass. */
            (void)_dmi_engine_count_run(run);
            list_add(shared, run, DMI_PLACE_AVAIL);
        }
    }
    _dmi_unlock(&heap->lock);
    _dmi_unlock(&heap->shared_lock);
}

size_t _dmi_caches_metadata(void) { return pool.live_bytes; }
