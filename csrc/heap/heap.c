/* heap.c - making and destroying heaps; handles; the registry. */
#include "fast.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "../decommit/pressure.h"

/* A handle is the address of the heap's record, with its generation in the 16 bits that no user address
 * has. Records are never unmapped, so a stale handle points to a record of another generation. */
#define GENERATION_SHIFT 48

dmi_heap *_dmi_default;

static dmi_lock registry;
static dmi_pool pool = {
    .name = "dmi-heaps", .item = (sizeof(dmi_heap) + 4095) / 4096 * 4096, .chunk = 1024};
dmi_heap *_dmi_heaps;
static dmi_heap *last;
static uint16_t generations[DMI_POOL_CHUNKS * 1024];
static dmi_heap_options default_options = {.size = sizeof(dmi_heap_options)};
static char default_name[48];
static dmi_policy default_policy;

static size_t index_of(const dmi_heap *heap) {
    for (size_t c = 0; c < DMI_POOL_CHUNKS && pool.base[c]; c++) {
        size_t offset = (size_t)((const char *)heap - pool.base[c]);
        if ((const char *)heap >= pool.base[c] && offset < pool.chunk * pool.item)
            return c * pool.chunk + offset / pool.item;
    }
    return 0;
}

/* Read without a lock by everyone who has a handle. */
static uint16_t generation_of(const dmi_heap *heap) {
    return __atomic_load_n(&generations[index_of(heap)], __ATOMIC_RELAXED);
}

dmi_heap *_dmi_heap_resolve(void *handle) {
    uintptr_t word = (uintptr_t)handle;
    dmi_heap *heap = (dmi_heap *)(word & (((uintptr_t)1 << GENERATION_SHIFT) - 1));
    if (_dmi_pool_owns(&pool, heap) && generation_of(heap) == word >> GENERATION_SHIFT &&
        heap->live)
        return heap;
    errno = EINVAL;
    return NULL;
}

uint64_t _dmi_heap_clock(dmi_heap *heap) {
    uint64_t now = heap->flags & DMI_HEAP_MANUAL_CLOCK
                       ? __atomic_load_n(&heap->manual_now, __ATOMIC_RELAXED)
                       : _dmi_os_clock();
    atomic_store_explicit(&heap->space.now, now, memory_order_relaxed);
    return now;
}

int _dmi_heaps_each_locked(int (*visit)(dmi_heap *, void *), void *argument) {
    int result = 0;
    for (dmi_heap *heap = _dmi_heaps; heap && !result; heap = heap->next)
        result = visit(heap, argument);
    return result;
}

int _dmi_heaps_each(int (*visit)(dmi_heap *, void *), void *argument) {
    _dmi_lock(&registry);
    int result = _dmi_heaps_each_locked(visit, argument);
    _dmi_unlock(&registry);
    return result;
}

void _dmi_heaps_lock(void) { _dmi_lock(&registry); }
void _dmi_heaps_unlock(void) { _dmi_unlock(&registry); }

/* ---- creation -------------------------------------------------------------------------------------- */

static bool valid(const dmi_heap_options *options) {
    const uint32_t known = DMI_HEAP_NO_LFH | DMI_HEAP_HARDENED | DMI_HEAP_MANUAL_CLOCK |
                           DMI_HEAP_NO_SERIALIZE | DMI_HEAP_HUGE_PAGES;
    if (options->flags & ~known) return false;
    if (!(options->huge_split >= 0 && options->huge_split <= 1)) return false;
    return !options->policy || _dmi_policy_check(options->policy, NULL, 0) == 0;
}

static void copy_name(char *to, size_t size, const char *from) {
    size_t n = 0;
    while (from && from[n] && n + 1 < size) {
        to[n] = from[n];
        n++;
    }
    /* A cut must not leave half a UTF-8 character. */
    if (from && from[n])
        while (n && ((unsigned char)from[n] & 0xc0) == 0x80) n--;
    to[n] = 0;
}

static dmi_heap *create_locked(const dmi_heap_options *options) {
    dmi_policy policy;
    if (options->policy) policy = *options->policy;
    else _dmi_policy_default(&policy, DMI_WHEN_LAZY);
    dmi_heap *heap = _dmi_pool_alloc(&pool);
    if (!heap) {
        errno = pool.used == DMI_POOL_CHUNKS * pool.chunk ? EMFILE : ENOMEM;
        return NULL;
    }
    copy_name(heap->name, sizeof heap->name, options->name);
    memcpy(heap->label, "dmi", 4);
    if (heap->name[0]) {
        memcpy(heap->label, "dmi:", 4);
        /* Names of mappings take printable ASCII without \ ` $ [ ]. */
        for (size_t i = 0; i <= strlen(heap->name); i++) {
            char c = heap->name[i];
            bool plain =
                c >= ' ' && c <= '~' && c != '\\' && c != '`' && c != '$' && c != '[' && c != ']';
            heap->label[4 + i] = c == 0 || plain ? c : '_';
        }
    }
    heap->flags = options->flags;
    heap->tail = options->flags & DMI_HEAP_HARDENED ? sizeof(uint64_t) : 0;
    heap->lfh_live = options->lfh_live ? options->lfh_live : 17;
    heap->lfh_total = options->lfh_total ? options->lfh_total : 256;
    dmi_how how = _dmi_policy_how(&policy);
    _dmi_space_init(&heap->space, how == DMI_HOW_DECOMMIT ? DMI_OS_STRICT : DMI_OS_LAZY,
                    options->flags & DMI_HEAP_HUGE_PAGES, heap->label, options->max_size);
    heap->space.manual = options->flags & DMI_HEAP_MANUAL_CLOCK;
    if (options->huge_split > 0) _dmi_space_set_split(&heap->space, options->huge_split);
    _dmi_freelist_init(&heap->list, &heap->space);
    _dmi_engine_init(&heap->engine, &heap->space, &heap->list, &policy);
    _dmi_cache_init(&heap->shared, heap, NULL, &heap->shared_lock);
    atomic_store_explicit(&heap->shared_only, policy.when == DMI_WHEN_EAGER, memory_order_relaxed);
    heap->handle = (void *)((uintptr_t)heap | (uintptr_t)generation_of(heap) << GENERATION_SHIFT);
    heap->live = true;
    _dmi_heap_schedule(heap, _dmi_heap_clock(heap));
    heap->prev = last;
    if (last) last->next = heap;
    else _dmi_heaps = heap;
    last = heap;
    return heap;
}

static bool setup(void) {
    if (_dmi_space_setup()) {
        errno = ENOMEM;
        return false;
    }
    if (_dmi_os_is_second_copy()) {
        errno = EEXIST;
        return false;
    }
    (void)_dmi_threads_setup();
    return true;
}

void *dmi_heap_create(const dmi_heap_options *options) {
    /* Older callers know fewer fields. */
    dmi_heap_options given = {.size = sizeof given};
    if (options && options->size < offsetof(dmi_heap_options, huge_split)) {
        errno = EINVAL;
        return NULL;
    }
    if (options)
        memcpy(&given, options, options->size < sizeof given ? options->size : sizeof given);
    options = &given;
    if (!valid(options)) {
        errno = EINVAL;
        return NULL;
    }
    if (!setup()) return NULL;
    if (options->policy && options->policy->when == DMI_WHEN_PRESSURE && _dmi_pressure_probe()) {
        errno = ENOTSUP;
        return NULL;
    }
    _dmi_lock(&registry);
    dmi_heap *heap = create_locked(options);
    _dmi_unlock(&registry);
    return heap ? heap->handle : NULL;
}

void _dmi_default_options(const dmi_heap_options *options) {
    default_options = *options;
    copy_name(default_name, sizeof default_name, options->name);
    default_options.name = default_name;
    if (options->policy) {
        default_policy = *options->policy;
        default_options.policy = &default_policy;
    }
}

dmi_heap *_dmi_default_heap(void) {
    dmi_heap *heap = __atomic_load_n(&_dmi_default, __ATOMIC_ACQUIRE);
    if (__builtin_expect(heap != NULL, 1)) return heap;
    if (!setup()) return NULL;
    _dmi_lock(&registry);
    if (!_dmi_default) {
        heap = create_locked(&default_options);
        if (heap) __atomic_store_n(&_dmi_default, heap, __ATOMIC_RELEASE);
    }
    heap = _dmi_default;
    _dmi_unlock(&registry);
    return heap;
}

void *dmi_heap_default(void) {
    dmi_heap *heap = _dmi_default_heap();
    return heap ? heap->handle : NULL;
}

/* ---- the end --------------------------------------------------------------------------------------- */

static int destroy(void *handle, bool force) {
    _dmi_lock(&registry);
    dmi_heap *heap = _dmi_heap_resolve(handle);
    int refused = !heap                            ? EINVAL
                  : heap == _dmi_default           ? EPERM
                  : !force && _dmi_heap_held(heap) ? EBUSY
                                                   : 0;
    if (refused) {
        _dmi_unlock(&registry);
        errno = refused;
        return -1;
    }
    heap->live = false; /* from here on the handle is stale */
    __atomic_store_n(&generations[index_of(heap)], (uint16_t)(generation_of(heap) + 1),
                     __ATOMIC_RELAXED);
    if (heap->prev) heap->prev->next = heap->next;
    else _dmi_heaps = heap->next;
    if (heap->next) heap->next->prev = heap->prev;
    else last = heap->prev;
    _dmi_unlock(&registry);
    _dmi_lock(&heap->pass);
    for (;;) {
        _dmi_lock(&heap->lock);
        dmi_cache *cache = heap->caches;
        if (cache) heap->caches = cache->next_of_heap;
        _dmi_unlock(&heap->lock);
        if (!cache) break;
        dmi_thread *thread = cache->thread;
        /* Without a barrier the thread cannot be stopped from outside; the caller's promise, that nobody
         * is inside this heap, is what is left. */
        if (!_dmi_thread_take(thread)) _dmi_lock(&thread->lock);
        if (thread->state == DMI_THREAD_ABANDONED)
            atomic_fetch_sub_explicit(&heap->abandoned, 1, memory_order_relaxed);
        _dmi_cache_drop(cache);
        _dmi_unlock(&thread->lock);
    }
    _dmi_virtual_release_all(&heap->space);
    _dmi_space_release(&heap->space);
    _dmi_unlock(&heap->pass);
    _dmi_lock(&registry);
    _dmi_pool_free(&pool, heap);
    _dmi_unlock(&registry);
    return 0;
}

int dmi_heap_destroy(void *handle) { return destroy(handle, false); }
int dmi_heap_destroy_force(void *handle) { return destroy(handle, true); }

/* ---- looking --------------------------------------------------------------------------------------- */

int dmi_heap_valid(void *handle) {
    int saved = errno;
    _dmi_lock(&registry);
    int result = _dmi_heap_resolve(handle) != NULL;
    _dmi_unlock(&registry);
    errno = saved;
    return result;
}

size_t dmi_heap_list(void **handles, size_t capacity) {
    size_t n = 0;
    _dmi_lock(&registry);
    for (dmi_heap *heap = _dmi_heaps; heap; heap = heap->next, n++)
        if (n < capacity) handles[n] = heap->handle;
    _dmi_unlock(&registry);
    return n;
}

int dmi_heap_get_info(void *handle, dmi_heap_info *info) {
    dmi_heap *heap = _dmi_heap_resolve(handle);
    if (!heap) return -1;
    if (info->size < offsetof(dmi_heap_info, huge_split)) {
        errno = EINVAL;
        return -1;
    }
    info->handle = heap->handle;
    info->max_size = heap->space.max_reserved;
    info->flags = heap->flags;
    info->is_default = heap == _dmi_default;
    memcpy(info->name, heap->name, sizeof info->name);
    info->clock = (double)_dmi_heap_clock(heap) / 1e9;
    info->policy = heap->engine.policy;
    if (info->size >= sizeof *info) info->huge_split = heap->space.huge_split;
    return 0;
}

uint64_t dmi_metadata_committed(void) {
    return _dmi_pagemap_committed() + _dmi_threads_metadata() + _dmi_caches_metadata() +
           _dmi_virtual_metadata() + pool.live_bytes;
}

const char *dmi_version(void) { return DMI_VERSION; }

static int recount_run(dmi_run *run) {
    dmi_blockmap map;
    size_t free_blocks = 0;
    if (!_dmi_lfh_free_map(run, true, &map, NULL, NULL)) return 0;
    for (size_t w = 0; w < _dmi_bits_words(run->carved); w++)
        free_blocks += (size_t)__builtin_popcountll(map.word[w]);
    unsigned remote = DMI_REMOTE_COUNT(atomic_load_explicit(&run->remote, memory_order_relaxed));
    int32_t busy = (int32_t)(run->carved - free_blocks + remote);
    atomic_store_explicit(&run->used, busy + run->bias, memory_order_relaxed);
    return 0;
}

int _dmi_heap_recount(dmi_heap *heap, void *unused) {
    (void)unused;
    for (dmi_segment *segment = heap->space.segments; segment; segment = segment->next)
        for (size_t page = 0; page < segment->pages;) {
            dmi_run *run = _dmi_segment_run(segment, page);
            page += run->pages;
            dmi_cache *cache = run->kind == DMI_RUN_LFH ? run->cache : NULL;
            if (!cache || !cache->thread || cache->thread->state != DMI_THREAD_ABANDONED) continue;
            (void)recount_run(run);
            _dmi_cache_list(cache, run);
        }
    return 0;
}
