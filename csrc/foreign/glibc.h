/* glibc.h - floor 7: the chunks of a region of glibc's malloc, in this process or another.
 *
 * A chunk begins with two words: the size of the chunk before it if that is free, and its own size with three flags. So
 * the chunks form a chain by address, and the next chunk tells whether one is free. Free chunks in fastbins and in the
 * caches of threads (tcache) look busy there. The caller gives the addresses of those in fastbins; those in a cache hold
 * a key in their fourth word.
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
    DMI_GLIBC_FENCE,  /* the end of a stretch that malloc left behind */
    DMI_GLIBC_UNKNOWN /* cannot be read, or makes no sense */
} dmi_glibc_state;

typedef struct dmi_glibc_chunk {
    uint64_t address; /* of the chunk; the program's pointer is 16 higher */
    uint64_t size;
    dmi_glibc_state state;
} dmi_glibc_chunk;

/* A region [from, end), which begins with a chunk. It need not be page aligned. */
typedef struct dmi_glibc_region {
    uint64_t from, end;
    uint64_t top;         /* the arena's top if it lies here, else 0 */
    uint64_t flags;       /* the flags of a chunk besides PREV_INUSE: 4 outside the main arena */
    uint64_t key;         /* the key of cached chunks; 0: not known */
    const uint64_t *fast; /* sorted addresses of chunks in fastbins */
    size_t fast_count;
} dmi_glibc_region;

typedef struct dmi_glibc_walk {
    dmi_view *view;
    dmi_glibc_region region;
    uint64_t at, head; /* the next chunk and its size word; head 0: not read yet */
    size_t fast;       /* how many of region.fast the walk has passed */
    unsigned again;    /* how often this chunk was read again */
    unsigned retries;  /* how often a chunk may be read again; 0 if the process stands still */
    bool ended;
} dmi_glibc_walk;

void _dmi_glibc_begin(dmi_glibc_walk *walk, dmi_view *view, const dmi_glibc_region *region,
                      unsigned retries);
/* The next chunk. False: there is none. A stretch that cannot be read or makes no sense comes as one chunk of state
 * UNKNOWN; it ends where chunks make sense again. */
bool _dmi_glibc_next(dmi_glibc_walk *walk, dmi_glibc_chunk *chunk);

#define DMI_GLIBC_SMALL 8192u /* each size below 16 times this has its own count */
#define DMI_GLIBC_CACHES 1024u

typedef struct dmi_glibc_size {
    uint64_t size, count;
} dmi_glibc_size;
#define DMI_GLIBC_LARGE 4096u /* how many larger sizes have a count of their own */

typedef struct dmi_glibc_pin {
    uint64_t address, size, pinned;
} dmi_glibc_pin;
#define DMI_GLIBC_PINS 64u

/* Called, by address, with each range of whole pages that malloc_trim would give back. */
typedef void (*dmi_glibc_pages)(void *context, uint64_t address, uint64_t size);

typedef struct dmi_glibc_tally {
    uint64_t page; /* bytes; set by the caller */
    uint64_t
        cache_chunk; /* size of the chunk that holds a thread's cache, 0: none; set by the caller */
    dmi_glibc_pages pages; /* may be NULL */
    void *context;
    uint64_t chunks;
    uint64_t bytes[DMI_GLIBC_UNKNOWN + 1], counts[DMI_GLIBC_UNKNOWN + 1]; /* by dmi_glibc_state */
    uint64_t trim; /* bytes of whole pages that malloc_trim would give back, without the top */
    uint64_t
        before_top;  /* bytes of chunks of fastbins right before the top, which become part of it */
    uint64_t pinned; /* free bytes on pages with one busy chunk */
    uint64_t caches[DMI_GLIBC_CACHES]; /* chunks that may hold a thread's cache */
    size_t cache_count;
    uint64_t small[DMI_GLIBC_SMALL]; /* busy chunks by size / 16 */
    dmi_glibc_size large[DMI_GLIBC_LARGE];
    uint64_t large_other, large_other_bytes; /* chunks of sizes that found no room in large */
    dmi_glibc_pin pins[DMI_GLIBC_PINS];      /* a binary heap with the least first */
    size_t pin_count;
} dmi_glibc_tally;

/* Count the chunks of a region. Returns 0, or an errno of the view; then the tally has what came before. */
int _dmi_glibc_count(dmi_view *view, const dmi_glibc_region *region, unsigned retries,
                     dmi_glibc_tally *tally);

#endif
