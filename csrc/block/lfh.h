/* lfh.h - floor 3: subsegments, the low-fragmentation front end. Each function works on one run; the heap floor
 * decides which thread may call it.
 *
 * Counting. used is busy + bias. A free that makes used 0 goes to the slow path, and bias says when that is:
 * - DMI_BIAS_CURRENT while the run is in a current slot: no free does;
 * - 0 while it waits in an avail list: the last free does;
 * - k - busy for a full run: the k-th free does.
 *
 * Remote frees. run->remote is one word: the first block in bits 0 to 47, how many blocks in bits 48 to 62, and
 * bit 63 while the run is in its cache's pending list or about to enter it. The thread whose push sets bit 63 enters
 * the run in that list. A run with bit 63 set is never released.
 *
 * Parked blocks. A carved block that overlaps an uncommitted or offered page is parked: it is free and in no list.
 * The commit map alone tells which blocks are parked.
 *
 * Links and marks. A free block begins with two words: the encoded address of the next one, and its mark. The mark is
 * block * inverse - origin, where inverse is 2^64 / block size, rounded up. So the upper half of the mark is the same
 * for all blocks of a run: the lower half of the run's address. An address between two blocks gives another upper half.
 * The lower half is a secret of the run plus a small part that depends on the place. A link is encoded with the mark
 * and a secret of the process.
 *
 * A block is handed out only when the upper half of its mark is right, and both words are cleared then. So a
 * corrupted list ends in an abort or at a wild address, never at a busy block; a second free finds the mark; and an
 * address that is no block but was freed is not handed out. While an operation may be in flight, links are decoded
 * without a check; before writing through one, ask _dmi_lfh_is_block.
 */
#ifndef DMI_LFH_H
#define DMI_LFH_H

#include "../segment/segment.h"
#include "bucket.h"
#include "secret.h"

#define DMI_BIAS_CURRENT (INT32_C(1) << 30)
#define DMI_REMOTE_PENDING (UINT64_C(1) << 63)
#define DMI_REMOTE_COUNT(word) ((unsigned)((word) >> 48) & 0x7fff)
#define DMI_REMOTE_HEAD(word) ((void *)(uintptr_t)((word)&0xffffffffffff))

#define DMI_RUN_BLOCKS_MAX 4096
#define DMI_RUN_PAGES_MAX 128

/* Which blocks of a run are free: one bit for each block. */
typedef struct dmi_blockmap {
    uint64_t word[DMI_RUN_BLOCKS_MAX / 64];
} dmi_blockmap;

/* A word of a block, whatever its user keeps there. */
typedef uintptr_t __attribute__((may_alias)) dmi_word;
typedef uint32_t __attribute__((may_alias)) dmi_half;

#define DMI_END ((void *)(uintptr_t)_dmi_end)

/* The second word of a free block of that run. */
static inline uint64_t _dmi_lfh_mark(const dmi_run *run, const void *block) {
    return (uint64_t)(uintptr_t)block * run->inverse - run->origin;
}
/* Is it the mark of a block of that run? */
static inline bool _dmi_lfh_fits(const dmi_run *run, uint64_t mark) {
    return (uint32_t)(mark >> 32) == (uint32_t)(uintptr_t)run;
}
/* Free blocks of watched pages carry their mark with this bit flipped, so that no fast path hands them out: watch.h. */
#define DMI_MARK_WATCHED (UINT64_C(1) << 63)
static inline bool _dmi_lfh_watched(const dmi_run *run, const void *block) {
    return __builtin_expect(run->flags & DMI_RUN_WATCHED, 0) && _dmi_pagemap_get(block) != run;
}
static inline bool _dmi_lfh_marked_watched(const dmi_run *run, const void *block) {
    return __atomic_load_n((const dmi_word *)block + 1, __ATOMIC_RELAXED) ==
           (_dmi_lfh_mark(run, block) ^ DMI_MARK_WATCHED);
}
static inline bool _dmi_lfh_marked(const dmi_run *run, const void *block) {
    uint64_t word = __atomic_load_n((const dmi_word *)block + 1, __ATOMIC_RELAXED);
    return ((word ^ _dmi_lfh_mark(run, block)) & ~DMI_MARK_WATCHED) == 0;
}

/* The next free block; NULL: this is the last. Atomic, for a taker reads links while their owner runs. */
static inline void *_dmi_link_get(const dmi_run *run, const void *block) {
    uintptr_t word = __atomic_load_n((const dmi_word *)block, __ATOMIC_RELAXED);
    uintptr_t next = word ^ _dmi_lfh_mark(run, block) ^ (uintptr_t)_dmi_secret.link;
    return next == (uintptr_t)_dmi_end ? NULL : (void *)next;
}
/* Make it a free block: write its link and its mark, with these bits flipped. */
static inline void _dmi_link_set_as(const dmi_run *run, void *block, const void *next,
                                    uint64_t flipped) {
    uintptr_t mark = _dmi_lfh_mark(run, block), to = (uintptr_t)(next ? next : DMI_END);
    __atomic_store_n((dmi_word *)block, to ^ mark ^ (uintptr_t)_dmi_secret.link, __ATOMIC_RELAXED);
    __atomic_store_n((dmi_word *)block + 1, mark ^ flipped, __ATOMIC_RELAXED);
}
static inline void _dmi_link_set(const dmi_run *run, void *block, const void *next) {
    _dmi_link_set_as(run, block, next, _dmi_lfh_watched(run, block) ? DMI_MARK_WATCHED : 0);
}
/* The first block of the local list; NULL: the list is empty. */
static inline void *_dmi_lfh_head(const dmi_run *run) {
    void *head = atomic_load_explicit(&run->head, memory_order_relaxed);
    return head == DMI_END ? NULL : head;
}
static inline void _dmi_lfh_set_head(dmi_run *run, void *head) {
    atomic_store_explicit(&run->head, head ? head : DMI_END, memory_order_relaxed);
}
static inline int32_t _dmi_lfh_busy(const dmi_run *run) {
    return atomic_load_explicit(&run->used, memory_order_relaxed) - run->bias;
}
static inline void _dmi_lfh_set_bias(dmi_run *run, int32_t bias) {
    int32_t busy = _dmi_lfh_busy(run);
    run->bias = bias;
    atomic_store_explicit(&run->used, busy + bias, memory_order_relaxed);
}
static inline size_t _dmi_lfh_index(const dmi_run *run, const void *block) {
    return (size_t)((const char *)block - _dmi_run_base(run)) / run->block_size;
}
/* Does every carved block on usable pages carry the upper half of its mark? Asked before an empty run is given back:
 * its count is wrong when a block was freed twice, or an address that is no block was freed. */
bool _dmi_lfh_all_marked(const dmi_run *run);
/* Does a carved block of the run begin at p? */
static inline bool _dmi_lfh_is_block(const dmi_run *run, const void *p) {
    size_t offset = (size_t)((const char *)p - _dmi_run_base(run));
    if (offset >= _dmi_run_size(run)) return false;
    uint32_t index = (uint32_t)offset / run->block_size; /* a division of 32 bits is faster */
    return index < run->carved && index * run->block_size == offset;
}
static inline char *_dmi_lfh_block(const dmi_run *run, size_t index) {
    return _dmi_run_base(run) + index * run->block_size;
}
/* Pages of the run that block i overlaps: [*first, *last]. */
static inline void _dmi_lfh_pages_of(const dmi_run *run, size_t i, size_t *first, size_t *last) {
    *first = i * run->block_size >> _dmi_page_shift;
    *last = ((i + 1) * run->block_size - 1) >> _dmi_page_shift;
}
/* May all of block i be touched? */
static inline bool _dmi_lfh_usable(const dmi_run *run, size_t i) {
    size_t first, last;
    _dmi_lfh_pages_of(run, i, &first, &last);
    for (size_t p = first; p <= last; p++)
        if (!_dmi_page_usable(run->segment, run->first + p)) return false;
    return true;
}
/* The block with an index plus 1, and back; 0 stands for NULL. */
static inline void *_dmi_lfh_numbered(const dmi_run *run, uint16_t number) {
    return number ? _dmi_lfh_block(run, number - 1u) : NULL;
}
static inline uint16_t _dmi_lfh_number(const dmi_run *run, const void *block) {
    return (uint16_t)(block ? _dmi_lfh_index(run, block) + 1 : 0);
}

/* Make a fresh run a subsegment of the bucket. Nothing is carved or committed yet. */
void _dmi_lfh_init(dmi_run *run, unsigned bucket);
/* Commit the next page, or the pages of the next block where that is larger, and put the blocks in front of the
 * list. False: all blocks are carved (*error is 0), or out of memory (*error is an errno); nothing changed. */
bool _dmi_lfh_carve(dmi_run *run, int *error);
/* Commit the pages of the lowest parked block, and link each parked block that lies on usable pages now. False: no
 * block is parked (*error is 0), or out of memory (*error is an errno). */
bool _dmi_lfh_unpark(dmi_run *run, int *error);
/* These pages were to be given back, and were not. Link the blocks that were parked for them, unless they overlap
 * another page that is gone. */
void _dmi_lfh_relink(dmi_run *run, const uint64_t pages[2]);
/* Push a block that another thread frees, with these bits of its mark flipped (DMI_MARK_WATCHED or none: whoever frees
 * knows, and need not read the owner's line). True: the caller must enter the run in its cache's pending list. */
bool _dmi_lfh_push_remote(dmi_run *run, void *block, uint64_t flipped);
/* Move the blocks that others freed to the local list, and return how many. keep_pending: the run stays in the pending
 * list, or on its way there. A remote list that is damaged is dropped, and the damage is noted. */
unsigned _dmi_lfh_collect_some(dmi_run *run, bool keep_pending);
static inline unsigned _dmi_lfh_collect(dmi_run *run, bool keep_pending) {
    uint64_t word = atomic_load_explicit(&run->remote, memory_order_relaxed);
    return keep_pending && DMI_REMOTE_COUNT(word) == 0 ? 0
                                                       : _dmi_lfh_collect_some(run, keep_pending);
}
/* Which carved blocks are free: those of the local list, the parked ones and, with_remote, those of the remote list.
 * A sweep collects the remote list first, and treats what arrives later as busy. The owner stands still, or the run is
 * taken. *pinned (unless NULL) is the block that an operation in flight may touch; SIZE_MAX: none. False: a link is
 * damaged; *bad (unless NULL) is the block that holds it, or the run. */
bool _dmi_lfh_free_map(const dmi_run *run, bool with_remote, dmi_blockmap *map, size_t *pinned,
                       const void **bad);
/* What links are encoded with besides marks, and what the last one leads to. Each process has its own. */
typedef struct dmi_link_code {
    uint64_t secret, end; /* _dmi_secret.link, the address of _dmi_end */
} dmi_link_code;
/* The same for the run of another process: memory is a copy of its usable pages. */
bool _dmi_lfh_free_map_in(const dmi_run *run, const dmi_link_code *code, const char *memory,
                          bool with_remote, dmi_blockmap *map, size_t *pinned, const void **bad);
/* May the block be free? Asks its first word alone: that of a free block is a link. A busy block may look so too. */
bool _dmi_lfh_looks_free(const dmi_run *run, const void *block);
/* May a page of the run be free? Asks the first words of its blocks, which costs a few words a page instead of a walk
 * along the list. False: certainly no page is free. */
bool _dmi_lfh_may_free(const dmi_run *run);
/* The usable pages of the run without a byte of a busy or pinned block: their bits in pages, and how many. */
size_t _dmi_lfh_free_pages(const dmi_run *run, const dmi_blockmap *map, size_t pinned,
                           uint64_t pages[2]);
/* Park the free blocks that overlap these pages, which are about to be given back. Blocks at the end of the carved
 * part that overlap a page without memory are carved anew later. The list is made anew: blocks on pages with a busy
 * byte first, and by address among those and among the others. */
void _dmi_lfh_park(dmi_run *run, const dmi_blockmap *map, size_t pinned, const uint64_t pages[2]);
/* How many blocks lie wholly on uncommitted pages. */
size_t _dmi_lfh_ghosts(const dmi_run *run);
/* Note head and list of a run whose thread was just taken, so that a taker may work on them (heap/take.h). current: an
 * operation of the owner may be in flight on this run; its head block is left alone. */
void _dmi_lfh_take(dmi_run *run, bool current);
/* Bring head and used of a taken run in order. Called in the owner's next slow path. */
void _dmi_lfh_repair(dmi_run *run);

static inline bool _dmi_map_get(const dmi_blockmap *map, size_t i) {
    return (map->word[i / 64] >> (i % 64)) & 1;
}
#endif
