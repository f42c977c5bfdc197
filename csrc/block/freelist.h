/* freelist.h - floor 3: blocks of any size with boundary tags. Adjacent free blocks are joined at once.
 *
 * A region is a run of kind LIST: a gap of 8 bytes, a row of blocks, and another gap of 8 bytes. Each block begins
 * with a tag of 8 bytes at an address that is 8 modulo 16, so its payload is 16-byte aligned. The tag holds the size
 * of the block, the size of the block before it, flags, and a checksum over these, its address and a secret.
 *
 * A free block has two links behind its tag and stands in a bin for its size; requests take the best fit. Pages that
 * lie wholly inside a free block, behind its links, may be uncommitted.
 *
 * Tags and links are verified before use. A free block is handed out or joined only when its tag is sound, its
 * neighbours in the region agree with it, and its neighbours in the bin point back to it. A block that fails stays
 * where it is, a bin that leads to one is emptied, and the damage is noted (note.h). Links are encoded with a secret
 * and their own address, and are cleared when the block leaves its bin.
 *
 * The caller holds the heap's lock.
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
/* A block of at least size bytes of payload, aligned to align: a power of two from 16 to a page. NULL: out of memory,
 * or larger than a region; nothing changed. */
void *_dmi_freelist_alloc(dmi_freelist *list, size_t size, size_t align);
/* Free a busy block that _dmi_freelist_check found sound. Returns the free block that it is now part of. NULL: its
 * region was empty and became the free run *freed. */
dmi_tag *_dmi_freelist_free(dmi_freelist *list, dmi_run *run, void *payload, dmi_run **freed);
/* Shrink in place, or grow into the free block behind. False: it cannot, and the block is as it was. */
bool _dmi_freelist_resize(dmi_freelist *list, dmi_run *run, void *payload, size_t size);
/* How many units of 16 bytes a request takes, its tag with it. */
size_t _dmi_freelist_units(size_t size);
/* Usable bytes of a busy block. */
size_t _dmi_freelist_usable(const void *payload);

typedef enum dmi_list_state {
    DMI_LIST_BUSY = 0,     /* a busy block begins at this payload */
    DMI_LIST_FREE = 1,     /* a free block begins there */
    DMI_LIST_INTERIOR = 2, /* inside a block */
    DMI_LIST_CORRUPT = 3   /* the tag there, or a neighbour's, is damaged */
} dmi_list_state;
/* What payload is. Walks the region from its start when the tag before payload is not sound, or its neighbours do not
 * agree with it. */
dmi_list_state _dmi_freelist_check(const dmi_run *run, const void *payload);

/* The tag of the block that the address lies in. NULL: the address is in a gap, or its tag is not sound. */
const dmi_tag *_dmi_freelist_holding(const dmi_run *run, const void *address);

/* The neighbours of a free block in its bin; NULL: none. They are decoded, not checked: before following one, ask
 * _dmi_free_listed. */
dmi_free_block *_dmi_free_next(const dmi_free_block *block);
dmi_free_block *_dmi_free_prev(const dmi_free_block *block);
/* Is it a free block of this list? Its tag is sound, its pages can be read, and its neighbours in the bin point back. */
bool _dmi_free_listed(const dmi_freelist *list, const dmi_free_block *block);

/* Walk a region: its first tag, and the tag behind one that is sound; NULL behind the last. */
dmi_tag *_dmi_region_first(const dmi_run *run);
dmi_tag *_dmi_region_next(const dmi_run *run, dmi_tag *tag);
bool _dmi_tag_sound(const dmi_tag *tag);
/* The same for a copy of a tag: key and address are those of its own process. */
bool _dmi_tag_sound_at(const dmi_tag *tag, uint64_t key, uint64_t address);
static inline size_t _dmi_tag_bytes(const dmi_tag *tag) { return (size_t)tag->size * 16; }
/* How many whole pages of a free block hold neither its tag nor its links. *first is the index of the first of them in
 * the segment. */
size_t _dmi_tag_free_pages(const dmi_run *run, const dmi_tag *tag, size_t *first);
#endif
