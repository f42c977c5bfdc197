/* pool.h - fixed-size metadata objects in address space of their own; never moved, never unmapped, so
 * that a stale pointer to one always points to an object of its kind. Not locked: the caller is. */
#ifndef DMI_POOL_H
#define DMI_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DMI_POOL_CHUNKS 64
/* So many freed objects of whole pages keep them: heaps that come and go would fault them in each time. */
#define DMI_POOL_WARM 4

typedef struct dmi_pool {
    const char *name;
    size_t item;  /* bytes an object, a multiple of 64 */
    size_t chunk; /* objects a chunk; DMI_POOL_CHUNKS chunks at most */
    bool stable;  /* what was freed is not cleared: readers without a lock still look at it */
    char *base[DMI_POOL_CHUNKS]; /* each: chunk objects, then a stack of chunk freed indices */
    size_t freed;                /* indices on the stack, which runs through the chunks */
    size_t freed_high;           /* the most there ever were */
    size_t used;                 /* objects ever handed out: [0, used) */
    size_t warm;                 /* freed objects that keep their pages for the next one */
    size_t live_bytes;           /* committed bytes now */
} dmi_pool;

/* An object of zeroes, or NULL; from a stable pool one of zeroes, or as it was freed. */
void *_dmi_pool_alloc(dmi_pool *pool);
/* Give one back; but for the first few, an object of whole pages gives them to the OS. */
void _dmi_pool_free(dmi_pool *pool, void *object);
/* True when p is the address of an object that was handed out at some time. */
bool _dmi_pool_owns(const dmi_pool *pool, const void *p);
/* Object i of [0, used). */
static inline void *_dmi_pool_at(const dmi_pool *pool, size_t i) {
    return pool->base[i / pool->chunk] + i % pool->chunk * pool->item;
}
#endif
