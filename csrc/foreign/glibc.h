/* glibc.h - floor 7: the chunks of a region of glibc's malloc, whoever's memory it is.
 *
 * A chunk begins with two words: the size of the chunk before it, where that one is free, and its own size with
 * three flags. So the chunks are a chain by address, and whether one is free is told by the next one. Small
 * free chunks of fastbins and of the thread caches (tcache) look busy: the former come from lists that the
 * caller followed, the latter hold a key in their fourth word.
 */
#ifndef DMI_FOREIGN_GLIBC_H
#define DMI_FOREIGN_GLIBC_H

#include "view.h"

typedef enum dmi_glibc_state {
    DMI_GLIBC_BUSY,
    DMI_GLIBC_FREE,   /* in a bin */
    DMI_GLIBC_FAST,   /* in a fastbin */
    DMI_GLIBC_TCACHE, /* in a thread's cache */
    DMI_GLIBC_TOP,
    DMI_GLIBC_FENCE,  /* what ends a heap that was left behind */
    DMI_GLIBC_UNKNOWN /* cannot be read, or makes no sense */
} dmi_glibc_state;

typedef struct dmi_glibc_chunk {
    uint64_t address; /* of the chunk: 16 below what the program has */
    uint64_t size;
    dmi_glibc_state state;
} dmi_glibc_chunk;

/* A region: from `from` up to `end`, page aligned or not, chunks from its first byte on. */
typedef struct dmi_glibc_region {
    uint64_t from, end;
    uint64_t top;   /* the arena's top when it lies here, else 0 */
    uint64_t flags; /* what a chunk's flags have besides PREV_INUSE: 4 outside the main arena */
    uint64_t key;   /* what a cached chunk holds, 0: not known */
    const uint64_t *fast; /* sorted addresses of chunks in fastbins */
    size_t fast_count;
} dmi_glibc_region;

typedef struct dmi_glibc_walk {
    dmi_view *view;
    dmi_glibc_region region;
    uint64_t at, head; /* the next chunk and its size word; head 0: not read yet */
    size_t fast;       /* how many of region.fast lie behind us */
    unsigned again;    /* how often the present place was read again */
    unsigned retries;  /* how often it may be: 0 for what stands still */
    bool ended;
} dmi_glibc_walk;

void _dmi_glibc_begin(dmi_glibc_walk *walk, dmi_view *view, const dmi_glibc_region *region,
                      unsigned retries);
/* The next chunk. False: there is no more. What cannot be read or makes no sense comes as one chunk of state
 * UNKNOWN, up to the next chunk that proves itself. */
bool _dmi_glibc_next(dmi_glibc_walk *walk, dmi_glibc_chunk *chunk);

#define DMI_GLIBC_SMALL 8192u /* sizes below 16 times this are counted one by one */
#define DMI_GLIBC_CACHES 1024u

typedef struct dmi_glibc_size {
    uint64_t size, count;
} dmi_glibc_size;
#define DMI_GLIBC_LARGE 4096u /* so many larger sizes are told apart */

typedef struct dmi_glibc_pin {
    uint64_t address, size, pinned;
} dmi_glibc_pin;
#define DMI_GLIBC_PINS 64u

/* A range of whole pages that malloc_trim would give back; called in the order of addresses. */
typedef void (*dmi_glibc_pages)(void *context, uint64_t address, uint64_t size);

typedef struct dmi_glibc_tally {
    uint64_t page; /* bytes; set by the caller */
    uint64_t
        cache_chunk; /* size of the chunk that holds a thread's cache, 0: none; set by the caller */
    dmi_glibc_pages pages; /* may be NULL */
    void *context;
    uint64_t chunks;
    uint64_t bytes[DMI_GLIBC_UNKNOWN + 1], counts[DMI_GLIBC_UNKNOWN + 1]; /* by dmi_glibc_state */
    uint64_t trim; /* bytes of whole pages in chunks that malloc_trim looks at; without the top */
    uint64_t
        before_top;  /* bytes of fastbins' chunks right before the top, which become part of it */
    uint64_t pinned; /* free bytes on pages that one busy chunk alone keeps */
    uint64_t caches[DMI_GLIBC_CACHES]; /* chunks that may hold a thread's cache */
    size_t cache_count;
    uint64_t small[DMI_GLIBC_SMALL]; /* busy chunks by size / 16 */
    dmi_glibc_size large[DMI_GLIBC_LARGE];
    uint64_t large_other, large_other_bytes; /* those for which there was no room */
    dmi_glibc_pin pins[DMI_GLIBC_PINS];      /* a heap, least first */
    size_t pin_count;
} dmi_glibc_tally;

/* Count the chunks of a region. 0, or an errno of the view: then what was counted is what came before. */
int _dmi_glibc_count(dmi_view *view, const dmi_glibc_region *region, unsigned retries,
                     dmi_glibc_tally *tally);

#endif
