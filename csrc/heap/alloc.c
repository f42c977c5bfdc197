/* alloc.c - the whole path of an allocation: bucket, free list, run of pages, or a mapping of its own. */
#include "alloc.h"
#include "../decommit/level.h"
#include "cache.h"
#include "canary.h"
#include "create.h"
#include "fast.h"
#include "fault.h"
#include "guarded.h"
#include "hard_fast.h"
#include "hard_large.h"
#include "leave.h"
#include "pass.h"
#include "registry.h"
#include "retry.h"
#include "take.h"
#include "thread.h"
#include "tick.h"

#include <errno.h>
#include <string.h>

/* ---- the ways ---------------------------------------------------------------------------------------- */

static void *alloc_from_cache(dmi_heap *heap, unsigned bucket) {
    dmi_cache *cache = _dmi_thread_lock_cache(heap);
    void *block =
        cache->quarantine ? _dmi_hard_alloc(cache, bucket) : _dmi_cache_alloc(cache, bucket);
    _dmi_unlock(cache->lock);
    return block;
}

/* Count an allocation towards the bucket's activation. */
static void activate(dmi_heap *heap, unsigned bucket, unsigned key) {
    if (++heap->bucket_live[key] < heap->lfh_live && ++heap->bucket_total[key] < heap->lfh_total)
        return;
    atomic_store_explicit(&heap->active[bucket], 1, memory_order_release);
    atomic_store_explicit(&heap->lfh_active, true, memory_order_relaxed);
}

/* Is the next bucket to serve a request of one that is not active? Where it is active, and its blocks are no larger than
 * what the free list would cut, they cost a tenth of the work. What is freed of them is not noticed, so the bucket may
 * become active a little early. */
static bool next_serves(dmi_heap *heap, size_t total, unsigned bucket) {
    unsigned next = bucket + 1;
    if (next == DMI_BUCKETS || _dmi_bucket_size[next] > _dmi_freelist_units(total) * 16 ||
        !atomic_load_explicit(&heap->active[next], memory_order_acquire))
        return false;
    _dmi_lock(&heap->lock);
    activate(heap, bucket, bucket);
    _dmi_unlock(&heap->lock);
    return true;
}

static void *alloc_from_list(dmi_heap *heap, size_t size, size_t align, unsigned bucket) {
    _dmi_lock(&heap->lock);
    void *block = _dmi_freelist_alloc(&heap->list, size + heap->tail, align);
    _dmi_guarded_note_places(heap, 1);
    if (block && !(heap->flags & DMI_HEAP_NO_LFH)) activate(heap, bucket, _dmi_list_key(block));
    if (block && heap->flags & DMI_HEAP_ZERO) memset(block, 0, _dmi_freelist_usable(block));
    if (block) _dmi_canary_set(heap, block, _dmi_freelist_usable(block));
    _dmi_unlock(&heap->lock);
    return block;
}

/* Kept room; NULL: what fits is not there. What must read as zeroes comes fresh: to clear it would make all of it
 * resident. */
static dmi_run *alloc_from_kept(dmi_heap *heap, size_t total, size_t align, bool wanted) {
    if (wanted || !heap->space.kept) return NULL;
    dmi_run *run = _dmi_virtual_reuse(&heap->space, total, align);
    if (run) _dmi_level_note_served(&heap->engine, total);
    return run;
}

static dmi_run *alloc_from_mapping(dmi_heap *heap, size_t total, size_t align, bool *zero,
                                   bool wanted) {
    dmi_run *run = alloc_from_kept(heap, total, align, wanted);
    if (run) return run;
    if (!wanted) run = _dmi_virtual_extend(&heap->space, total, align);
    if (!run) {
        run = _dmi_virtual_map(&heap->space, total, align);
        *zero = run != NULL;
    }
    if (run) _dmi_level_make_way(&heap->engine, run->segment->size);
    return run;
}

/* Blocks of some MiB share the room of larger ones where there are such: what one leaves serves the other. */
static bool is_mapped(const dmi_space *space, size_t total, size_t align) {
    if (total >= DMI_VIRTUAL_MIN || align > DMI_VIRTUAL_MIN) return true;
    return total >= DMI_VIRTUAL_SHARE_MIN && (space->virtuals || space->kept);
}

void *_dmi_alloc_to_grow(dmi_heap *heap, size_t size) {
    size_t total = size + heap->tail;
    dmi_space *space = &heap->space;
    if (total < DMI_VIRTUAL_GROW_MIN || total >= DMI_VIRTUAL_MIN || space->huge ||
        space->mode != DMI_OS_LAZY || !_dmi_os_can_trim())
        return NULL;
    bool zero;
    _dmi_lock(&heap->lock);
    dmi_run *run = NULL;
    if (!_dmi_space_has_warm(space, _dmi_pages(total)))
        run = alloc_from_mapping(heap, total, 1, &zero, false);
    void *block = run ? _dmi_run_base(run) : NULL;
    if (run) _dmi_canary_set(heap, block, _dmi_run_size(run));
    _dmi_heap_unlock(heap);
    return block;
}

static void *alloc_from_pages(dmi_heap *heap, size_t size, size_t align, bool *zero, bool wanted) {
    size_t total = size + heap->tail;
    dmi_run *run = NULL;
    _dmi_lock(&heap->lock);
    if (is_mapped(&heap->space, total, align))
        run = alloc_from_mapping(heap, total, align, zero, wanted);
    if (!run && total < DMI_VIRTUAL_MIN && align <= DMI_VIRTUAL_MIN) {
        size_t align_pages = align > _dmi_page ? align >> _dmi_page_shift : 1;
        size_t pages = _dmi_pages(total ? total : 1) + _dmi_hard_fence_pages(heap);
        run = _dmi_run_alloc(&heap->space, pages, align_pages, DMI_RUN_LARGE, true, zero);
        if (run) _dmi_hard_fence(heap, run);
    }
    void *block = run ? _dmi_run_base(run) : NULL;
    if (run) _dmi_canary_set(heap, block, _dmi_run_size(run));
    _dmi_heap_unlock(heap);
    return block;
}

/* The bucket whose blocks all have that alignment and hold size bytes; DMI_BUCKETS when there is none. */
static unsigned aligned_bucket(size_t size, size_t align) {
    if (align > _dmi_page || size > DMI_BUCKET_MAX) return DMI_BUCKETS;
    size_t whole = (size + align - 1) & ~(align - 1);
    if (whole > DMI_BUCKET_MAX) return DMI_BUCKETS; /* large pages */
    unsigned bucket = _dmi_bucket(whole);
    while (bucket < DMI_BUCKETS && _dmi_bucket_size[bucket] % align) bucket++;
    return bucket;
}

static inline void *allocate(dmi_heap *heap, size_t size, size_t align, bool *zero, bool wanted) {
    size_t total = size + heap->tail;
    unsigned bucket = align <= 16 ? (total <= DMI_BUCKET_MAX ? _dmi_bucket(total) : DMI_BUCKETS)
                                  : aligned_bucket(total, align);
    *zero = false;
    if (_dmi_guarded_due(heap)) {
        void *block = _dmi_guarded_alloc(heap, size, align);
        *zero = block != NULL;
        if (block) return block;
    }
    if (bucket == DMI_BUCKETS) return alloc_from_pages(heap, size, align, zero, wanted);
    if (atomic_load_explicit(&heap->active[bucket], memory_order_acquire))
        return alloc_from_cache(heap, bucket);
    if (align <= 16 && next_serves(heap, total, bucket)) return alloc_from_cache(heap, bucket + 1);
    return alloc_from_list(heap, size, align < 16 ? 16 : align, bucket);
}

/* The system or the heap's own limit refused. */
__attribute__((noinline, cold)) static void *again(dmi_heap *heap, size_t size, size_t align,
                                                   bool *zero, bool wanted) {
    uint64_t tried = 0;
    if (size >> _dmi_page_shift > UINT32_MAX) return NULL; /* no run has so many pages */
    if (_dmi_retry_shed(heap, size)) {
        void *block = allocate(heap, size, align, zero, wanted);
        if (block) return block;
    }
    if (!_dmi_retry_make_room(heap, size, &tried)) return NULL;
    void *block = allocate(heap, size, align, zero, wanted);
    _dmi_retry_note(heap, block ? 0 : tried);
    return block;
}

void *_dmi_heap_alloc(dmi_heap *heap, size_t size, size_t align, bool *zero) {
    bool unused, wanted = zero != NULL;
    if (!zero) zero = &unused;
    *zero = false;
    _dmi_observe_agent();
    _dmi_heap_tick(heap);
    if (size <= (size_t)PTRDIFF_MAX - DMI_VIRTUAL_MIN) {
        void *block = allocate(heap, size, align, zero, wanted);
        if (__builtin_expect(!block, 0)) block = again(heap, size, align, zero, wanted);
        _dmi_fault_tell("malloc");
        if (block) return block;
    }
    errno = ENOMEM;
    return NULL;
}

/* What most calls come to: this thread's cache of that heap is there, and its slot was empty. NULL: somebody has
 * to go the whole way. */
static inline void *alloc_from_own(dmi_thread *self, dmi_cache *cache, size_t size) {
    dmi_heap *heap = cache->heap;
    if (!heap || size > DMI_BUCKET_MAX ||
        atomic_load_explicit(&heap->shared_only, memory_order_relaxed))
        return NULL;
    unsigned bucket = _dmi_bucket(size);
    if (!atomic_load_explicit(&heap->active[bucket], memory_order_acquire)) return NULL;
    _dmi_heap_tick(heap);
    void *block = _dmi_guarded_due(heap) ? _dmi_guarded_alloc(heap, size, 1) : NULL;
    if (block) return block;
    _dmi_thread_lock(self);
    /* It may be so by now; then repair has handed this thread's runs over. */
    if (!atomic_load_explicit(&heap->shared_only, memory_order_relaxed))
        block = _dmi_cache_alloc(cache, bucket);
    _dmi_unlock(&self->lock);
    _dmi_fault_tell("malloc");
    return block;
}

void *_dmi_alloc_own(dmi_thread *self, dmi_cache *cache, size_t size) {
    return alloc_from_own(self, cache, size);
}

/* As alloc_from_own, for a hardened heap, whose cache no usual fast path sees. */
static void *alloc_from_own_hard(dmi_thread *self, dmi_cache *cache, size_t size) {
    if (size > DMI_BUCKET_MAX - sizeof(uint64_t)) return NULL; /* the sum may wrap around */
    void *block = _dmi_hard_draw(self, cache, size);
    if (__builtin_expect(block != NULL, 1)) return block;
    dmi_heap *heap = cache->heap;
    unsigned bucket = _dmi_bucket(size + heap->tail);
    if (!atomic_load_explicit(&heap->active[bucket], memory_order_acquire)) return NULL;
    _dmi_heap_tick(heap);
    block = _dmi_guarded_due(heap) ? _dmi_guarded_alloc(heap, size, 1) : NULL;
    if (block) return block;
    _dmi_thread_lock(self);
    if (!atomic_load_explicit(&heap->shared_only, memory_order_relaxed))
        block = _dmi_hard_alloc(cache, bucket);
    _dmi_unlock(&self->lock);
    _dmi_fault_tell("malloc");
    return block;
}

static void *malloc_slow(size_t size) {
    dmi_thread *self = _dmi_self_get();
    if (self->hard) {
        void *hard = alloc_from_own_hard(self, self->hard, size);
        if (__builtin_expect(hard != NULL, 1)) return hard;
    }
    void *block = alloc_from_own(self, &self->cache, size);
    if (__builtin_expect(block != NULL, 1)) return block;
    dmi_heap *heap = _dmi_default_heap();
    if (!heap) {
        errno = ENOMEM;
        return NULL;
    }
    return _dmi_heap_alloc(heap, size, 1, NULL);
}

void *_dmi_malloc_slow(size_t size) {
    return _dmi_observe_block(malloc_slow(size), size, DMI_FRAME);
}

static void *heap_malloc_slow(void *handle, size_t size) {
    dmi_thread *self = _dmi_self_get();
    if (self->memo_heap == handle) {
        void *block = alloc_from_own(self, self->memo, size);
        if (__builtin_expect(block != NULL, 1)) return block;
    }
    if (self->hard_memo && self->hard_memo->heap->handle == handle) {
        void *hard = alloc_from_own_hard(self, self->hard_memo, size);
        if (__builtin_expect(hard != NULL, 1)) return hard;
    }
    dmi_heap *heap = _dmi_heap_resolve(handle);
    return heap ? _dmi_heap_alloc(heap, size, 1, NULL) : NULL;
}

void *_dmi_heap_malloc_slow(void *handle, size_t size) {
    return _dmi_observe_block(heap_malloc_slow(handle, size), size, DMI_FRAME);
}

/* ---- the public doors ---------------------------------------------------------------------------------- */

void *dmi_malloc(size_t size) { return _dmi_fast_malloc(size); }
void *dmi_heap_malloc(void *handle, size_t size) { return _dmi_fast_heap_malloc(handle, size); }

static void *alloc_cleared(dmi_heap *heap, size_t count, size_t size) {
    size_t total;
    bool zero;
    if (__builtin_mul_overflow(count, size, &total)) {
        errno = ENOMEM;
        return NULL;
    }
    void *block = _dmi_heap_alloc(heap, total, 1, &zero);
    if (block && !zero) memset(block, 0, total);
    return _dmi_observe_block(block, total, DMI_FRAME);
}

void *dmi_calloc(size_t count, size_t size) {
    size_t total;
    if (!__builtin_mul_overflow(count, size, &total) && total <= DMI_BUCKET_MAX) {
        void *block = _dmi_fast_malloc(total);
        return block ? memset(block, 0, total) : NULL;
    }
    dmi_heap *heap = _dmi_default_heap();
    return heap ? alloc_cleared(heap, count, size) : NULL;
}

void *dmi_heap_calloc(void *handle, size_t count, size_t size) {
    size_t total;
    if (!__builtin_mul_overflow(count, size, &total) && total <= DMI_BUCKET_MAX) {
        void *block = _dmi_fast_heap_malloc(handle, total);
        return block ? memset(block, 0, total) : NULL;
    }
    dmi_heap *heap = _dmi_heap_resolve(handle);
    return heap ? alloc_cleared(heap, count, size) : NULL;
}

static void *alloc_aligned(dmi_heap *heap, size_t align, size_t size) {
    if (align == 0 || align & (align - 1)) {
        errno = EINVAL;
        return NULL;
    }
    return _dmi_observe_block(_dmi_heap_alloc(heap, size, align, NULL), size, DMI_FRAME);
}

void *dmi_aligned_alloc(size_t align, size_t size) {
    dmi_heap *heap = _dmi_default_heap();
    return heap ? alloc_aligned(heap, align, size) : NULL;
}

void *dmi_heap_aligned_alloc(void *handle, size_t align, size_t size) {
    dmi_heap *heap = _dmi_heap_resolve(handle);
    return heap ? alloc_aligned(heap, align, size) : NULL;
}
