/* freelist.h - floor 3: the back end's variable-size blocks with boundary tags, coalesced at once.
 *
 * A region is a run of kind LIST. Behind a gap of 8 bytes (and before one) it is a row of blocks; each
 * begins with a tag of 8 bytes at an address = 8 mod 16, so that payloads are 16-byte aligned. A tag
 * holds its block's size and the size of the one before, and a checksum over both, its address and the
 * process's heap key. Free blocks carry two links behind the tag and stand in bins by size: best fit.
 * Pages that lie wholly inside a free block, behind its links, need not be committed.
 * Tags and links are verified before they are used, when a block is handed out as when it is freed: a block is
 * joined or unlinked only if its tag is sound, its neighbours in the region agree with it, and its neighbours in the
 * bin point back. What is not so stays where it is, unlisted, and the damage is noted (note.h). A link is encoded with a
 * secret of its own and its place, and is cleared when its block leaves the bin.
 * Everything here wants the heap's lock held.
 */
#ifndef DMI_FREELIST_H
#define DMI_FREELIST_H

#include "../segment/segment.h"

#define DMI_LIST_BINS 152
#define DMI_LIST_TAG ((size_t)8)
#define DMI_LIST_REGION ((size_t)262144) /* bytes, rounded up to pages */

typedef struct dmi_tag {
    uint16_t size;   /* units of 16 bytes, tag included */
    uint16_t before; /* size of the block before, 0: first of the region */
    uint16_t flags;  /* DMI_TAG_* */
    uint16_t check;
} dmi_tag;
#define DMI_TAG_BUSY 1u
#define DMI_TAG_LAST 2u /* last of the region */

typedef struct dmi_free_block {
    dmi_tag tag;
    uint64_t next, prev; /* encoded: _dmi_free_next, _dmi_free_prev */
} dmi_free_block;

typedef struct dmi_freelist {
    dmi_space *space;
    dmi_free_block *bins[DMI_LIST_BINS];
    uint64_t bin_map[(DMI_LIST_BINS + 63) / 64];
    uint64_t free_bytes; /* of all blocks in bins, tags included, committed or not */
} dmi_freelist;

void _dmi_freelist_init(dmi_freelist *list, dmi_space *space);
/* A block of at least size payload bytes (<= 32 KiB + 4 KiB), payload aligned to align (a power of two,
 * 16 at least, a page at most). NULL: out of memory, nothing changed. */
void *_dmi_freelist_alloc(dmi_freelist *list, size_t size, size_t align);
/* Free a busy block that _dmi_freelist_check found sound. Returns the free block it became part of; or
 * NULL, when its whole region went back to the segment: then *freed is the free run. */
dmi_tag *_dmi_freelist_free(dmi_freelist *list, dmi_run *run, void *payload, dmi_run **freed);
/* Grow (into a free neighbour) or shrink in place. False: nothing changed. */
bool _dmi_freelist_resize(dmi_freelist *list, dmi_run *run, void *payload, size_t size);
/* Usable bytes of a busy block. */
size_t _dmi_freelist_usable(const void *payload);

typedef enum dmi_list_state {
    DMI_LIST_BUSY = 0,     /* a busy block begins at this payload */
    DMI_LIST_FREE = 1,     /* a free block begins there */
    DMI_LIST_INTERIOR = 2, /* inside a block */
    DMI_LIST_CORRUPT = 3   /* the tag there, or a neighbour's, is damaged */
} dmi_list_state;
/* What payload is. Walks the region from its start only when the tag at payload is not sound. */
dmi_list_state _dmi_freelist_check(const dmi_run *run, const void *payload);

/* The tag of the block that this address of the region lies in, NULL: none that is sound. */
const dmi_tag *_dmi_freelist_holding(const dmi_run *run, const void *address);

/* Neighbours of a free block in its bin, NULL: none. Nothing is followed unseen: whoever goes on from here asks
 * _dmi_free_listed first. */
dmi_free_block *_dmi_free_next(const dmi_free_block *block);
dmi_free_block *_dmi_free_prev(const dmi_free_block *block);
/* Is it a free block of that list: sound, on pages that may be read, and known to its neighbours in the bin? */
bool _dmi_free_listed(const dmi_freelist *list, const dmi_free_block *block);

/* Walk a region: the first tag, and the next one (NULL behind the last; *bad set when it is damaged). */
dmi_tag *_dmi_region_first(const dmi_run *run);
dmi_tag *_dmi_region_next(const dmi_run *run, dmi_tag *tag);
bool _dmi_tag_sound(const dmi_tag *tag);
/* The same of a copy, by the key of the process that it comes from and the address it has there. */
bool _dmi_tag_sound_at(const dmi_tag *tag, uint64_t key, uint64_t address);
static inline size_t _dmi_tag_bytes(const dmi_tag *tag) { return (size_t)tag->size * 16; }
/* Whole pages inside a free block that hold neither tag nor links: [*first, *first + return value),
 * page indices in the segment. */
size_t _dmi_tag_free_pages(const dmi_run *run, const dmi_tag *tag, size_t *first);
#endif
