/* registry.c - the list of heaps, their handles and their clocks. */
#include "registry.h"
#include "guarded.h"

#include <errno.h>
#include <string.h>

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

dmi_heap *_dmi_heaps_new(void) {
    dmi_heap *heap = _dmi_pool_alloc(&pool);
    if (!heap) errno = pool.used == DMI_POOL_CHUNKS * pool.chunk ? EMFILE : ENOMEM;
    return heap;
}

void _dmi_heaps_enter(dmi_heap *heap) {
    heap->handle = (void *)((uintptr_t)heap | (uintptr_t)generation_of(heap) << GENERATION_SHIFT);
    heap->live = true;
    heap->prev = last;
    if (last) last->next = heap;
    else _dmi_heaps = heap;
    last = heap;
}

void _dmi_heaps_leave(dmi_heap *heap) {
    heap->live = false; /* from here on the handle is stale */
    __atomic_store_n(&generations[index_of(heap)], (uint16_t)(generation_of(heap) + 1),
                     __ATOMIC_RELAXED);
    if (heap->prev) heap->prev->next = heap->next;
    else _dmi_heaps = heap->next;
    if (heap->next) heap->next->prev = heap->prev;
    else last = heap->prev;
}

void _dmi_heaps_discard(dmi_heap *heap) { _dmi_pool_free(&pool, heap); }

void _dmi_heaps_recycle(dmi_heap *heap) {
    _dmi_lock(&registry);
    _dmi_pool_free(&pool, heap);
    _dmi_unlock(&registry);
}

size_t _dmi_heaps_metadata(void) { return pool.live_bytes; }

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
    if (info->size >= offsetof(dmi_heap_info, guard)) info->huge_split = heap->space.huge_split;
    if (info->size >= sizeof *info) info->guard = heap->guarded ? heap->guarded->every : 0;
    return 0;
}
