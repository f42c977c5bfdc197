/* pool.c - fixed-size metadata objects. */
#include "pool.h"

#include "../os/os.h"
#include "../os/own.h"

#include <string.h>

/* In the note of a freed object: the OS refused to take its pages, they are committed still. */
#define BACKED UINT32_C(0x80000000)

static size_t round_up(size_t n, size_t to) { return (n + to - 1) & ~(to - 1); }

static size_t objects_bytes(const dmi_pool *pool) {
    return round_up(pool->chunk * pool->item, _dmi_os_page_size());
}

/* Commit what lies between the first byte of element i of an array and the end of the element, if
 * its last page was not entered by an element before it. */
static bool enter(dmi_pool *pool, char *array, size_t i, size_t element) {
    size_t page = _dmi_os_page_size();
    size_t from = round_up(i * element, page), to = round_up((i + 1) * element, page);
    if (from == to) return true;
    if (_dmi_os_commit(array + from, to - from, DMI_OS_LAZY)) return false;
    pool->live_bytes += to - from;
    return true;
}

#define CHUNK_LEAST 64

/* A page that faults lies on either side: what runs over the end of a block that is mapped on its own stops there. */
static char *reserve(const dmi_pool *pool) {
    size_t page = _dmi_os_page_size();
    size_t size = objects_bytes(pool) + round_up(pool->chunk * sizeof(uint32_t), page);
    char *fence = _dmi_own_reserve(size + 2 * page, pool->name);
    if (!fence) return NULL;
    (void)_dmi_os_guard(fence, page, DMI_OS_SPARSE);
    (void)_dmi_os_guard(fence + page + size, page, DMI_OS_SPARSE);
    return fence + page;
}

static uint32_t *freed_at(const dmi_pool *pool, size_t i) {
    char *stack = pool->base[i / pool->chunk] + objects_bytes(pool);
    return (uint32_t *)(void *)stack + i % pool->chunk;
}

void *_dmi_pool_alloc(dmi_pool *pool) {
    size_t page = _dmi_os_page_size();
    if (pool->freed) {
        uint32_t note = *freed_at(pool, pool->freed - 1);
        char *object = _dmi_pool_at(pool, note & ~BACKED);
        if (pool->item % page == 0 && !(note & BACKED)) {
            if (_dmi_os_commit(object, pool->item, DMI_OS_LAZY)) return NULL;
            pool->live_bytes += pool->item;
        }
        if (note & BACKED && pool->warm) pool->warm--;
        pool->freed--;
        if (!pool->stable) memset(object, 0, pool->item);
        return object;
    }
    size_t chunk = pool->used / pool->chunk, i = pool->used % pool->chunk;
    if (chunk == DMI_POOL_CHUNKS) return NULL;
    if (!pool->base[chunk]) {
        while (!(pool->base[chunk] = reserve(pool)) && chunk == 0 && pool->chunk >= 8 * CHUNK_LEAST)
            pool->chunk /= 8; /* address space is short (RLIMIT_AS): then few will do */
        if (!pool->base[chunk]) return NULL;
    }
    if (!enter(pool, pool->base[chunk], i, pool->item)) return NULL;
    /* _dmi_pool_owns may be asked without the lock. */
    __atomic_store_n(&pool->used, pool->used + 1, __ATOMIC_RELEASE);
    return pool->base[chunk] + i * pool->item;
}

void _dmi_pool_free(dmi_pool *pool, void *object) {
    size_t index = 0;
    for (size_t c = 0; c < DMI_POOL_CHUNKS && pool->base[c]; c++)
        if ((char *)object >= pool->base[c] && (char *)object < pool->base[c] + objects_bytes(pool))
            index = c * pool->chunk + (size_t)((char *)object - pool->base[c]) / pool->item;
    size_t i = pool->freed;
    if (i == pool->freed_high) {
        /* Without room for the note the object stays allocated: a leak of metadata, not of a block. */
        char *stack = pool->base[i / pool->chunk] + objects_bytes(pool);
        if (!enter(pool, stack, i % pool->chunk, sizeof(uint32_t))) return;
        pool->freed_high++;
    }
    bool backed = pool->item % _dmi_os_page_size() == 0;
    if (backed && pool->warm < DMI_POOL_WARM) pool->warm++;
    else if (backed && _dmi_os_decommit(object, pool->item, DMI_OS_LAZY) == 0) {
        pool->live_bytes -= pool->item;
        backed = false;
    }
    *freed_at(pool, i) = (uint32_t)index | (backed ? BACKED : 0);
    pool->freed++;
}

bool _dmi_pool_owns(const dmi_pool *pool, const void *p) {
    for (size_t c = 0; c < DMI_POOL_CHUNKS && pool->base[c]; c++) {
        size_t offset = (uintptr_t)p - (uintptr_t)pool->base[c];
        if (offset < pool->chunk * pool->item)
            return offset % pool->item == 0 && c * pool->chunk + offset / pool->item <
                                                   __atomic_load_n(&pool->used, __ATOMIC_ACQUIRE);
    }
    return false;
}
