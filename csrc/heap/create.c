/* create.c - making and destroying heaps. */
#include "create.h"
#include "cache.h"
#include "fault.h"
#include "guarded.h"
#include "hard.h"
#include "hard_large.h"
#include "hold.h"
#include "pass.h"
#include "records.h"
#include "registry.h"
#include "take.h"
#include "thread.h"
#include "trace.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "../block/secret.h"
#include "../block/watch.h"
#include "../decommit/policies.h"

static dmi_heap_options default_options = {.size = sizeof(dmi_heap_options)};
static char default_name[48];
static dmi_policy default_policy;

/* ---- creation -------------------------------------------------------------------------------------- */

static bool valid(const dmi_heap_options *options) {
    const uint32_t known = DMI_HEAP_NO_LFH | DMI_HEAP_HARDENED | DMI_HEAP_MANUAL_CLOCK |
                           DMI_HEAP_NO_SERIALIZE | DMI_HEAP_HUGE_PAGES | DMI_HEAP_ZERO;
    if (options->flags & ~known) return false;
    if (options->guard > DMI_GUARD_MOST) return false;
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
    else _dmi_policy_set_default(&policy, DMI_WHEN_LAZY);
    int weak = _dmi_secret_setup();
    if (weak && options->flags & DMI_HEAP_HARDENED) { /* its promise is the key's */
        errno = weak;
        return NULL;
    }
    dmi_heap *heap = _dmi_heaps_new();
    if (!heap) return NULL;
    if (options->flags & DMI_HEAP_HARDENED && !_dmi_hard_setup(&heap->shared)) {
        _dmi_heaps_discard(heap);
        errno = ENOMEM;
        return NULL;
    }
    if (options->flags & DMI_HEAP_HARDENED) {
        (void)_dmi_os_random(&heap->withheld.random, sizeof heap->withheld.random);
    }
    if (options->guard && !_dmi_guarded_setup(heap, options->guard)) {
        _dmi_hard_drop(&heap->shared);
        _dmi_heaps_discard(heap);
        errno = ENOMEM;
        return NULL;
    }
    if (options->flags & DMI_HEAP_HARDENED || options->guard) _dmi_fault_tell_touches();
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
    /* Of a hardened heap every small block is to pass the quarantine. */
    bool hardened = options->flags & DMI_HEAP_HARDENED;
    heap->lfh_live = options->lfh_live ? options->lfh_live : hardened ? 1 : 17;
    heap->lfh_total = options->lfh_total ? options->lfh_total : 256;
    dmi_how how = _dmi_policy_how(&policy);
    _dmi_space_init(&heap->space, how == DMI_HOW_DECOMMIT ? DMI_OS_STRICT : DMI_OS_LAZY,
                    options->flags & DMI_HEAP_HUGE_PAGES, heap->label, options->max_size);
    heap->space.manual = options->flags & DMI_HEAP_MANUAL_CLOCK;
    heap->space.fenced = hardened;
    if (options->huge_split > 0) _dmi_space_set_split(&heap->space, options->huge_split);
    _dmi_freelist_init(&heap->list, &heap->space);
    _dmi_engine_init(&heap->engine, &heap->space, &heap->list, &policy);
    _dmi_cache_init(&heap->shared, heap, NULL, &heap->shared_lock);
    atomic_store_explicit(&heap->shared_only, _dmi_policy_row(&policy)->counts,
                          memory_order_relaxed);
    _dmi_heap_schedule(heap, _dmi_heap_clock(heap));
    _dmi_heaps_enter(heap);
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
    if (options->policy && _dmi_policy_probe(options->policy)) {
        errno = ENOTSUP;
        return NULL;
    }
    if (options->guard) _dmi_trace_begin();
    _dmi_heaps_lock();
    dmi_heap *heap = create_locked(options);
    _dmi_heaps_unlock();
    return heap ? heap->handle : NULL;
}

void _dmi_set_default_options(const dmi_heap_options *options) {
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
    _dmi_heaps_lock();
    if (!_dmi_default) {
        heap = create_locked(&default_options);
        if (heap) __atomic_store_n(&_dmi_default, heap, __ATOMIC_RELEASE);
    }
    heap = _dmi_default;
    _dmi_heaps_unlock();
    return heap;
}

void *dmi_heap_default(void) {
    dmi_heap *heap = _dmi_default_heap();
    return heap ? heap->handle : NULL;
}

/* ---- the end --------------------------------------------------------------------------------------- */

static int destroy(void *handle, bool force) {
    _dmi_heaps_lock();
    dmi_heap *heap = _dmi_heap_resolve(handle);
    int refused = !heap                            ? EINVAL
                  : heap == _dmi_default           ? EPERM
                  : !force && _dmi_heap_held(heap) ? EBUSY
                                                   : 0;
    if (refused) {
        _dmi_heaps_unlock();
        errno = refused;
        return -1;
    }
    _dmi_heaps_leave(heap);
    _dmi_heaps_unlock();
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
    _dmi_hard_let_go(heap);
    _dmi_hard_drop_all(heap);
    _dmi_watch_forget(&heap->space);
    _dmi_virtual_release_all(&heap->space);
    _dmi_space_release(&heap->space);
    _dmi_guarded_drop(heap);
    _dmi_unlock(&heap->pass);
    _dmi_heaps_recycle(heap);
    return 0;
}

int dmi_heap_destroy(void *handle) { return destroy(handle, false); }
int dmi_heap_destroy_force(void *handle) { return destroy(handle, true); }

uint64_t dmi_metadata_committed(void) {
    return _dmi_pagemap_committed() + _dmi_threads_metadata() + _dmi_caches_metadata() +
           _dmi_virtual_metadata() + _dmi_heaps_metadata() + _dmi_hard_metadata() +
           _dmi_watch_metadata() + _dmi_guarded_metadata();
}

const char *dmi_version(void) { return DMI_VERSION; }

void dmi_set_map_limit(uint64_t most) { _dmi_set_map_limit(most); }
