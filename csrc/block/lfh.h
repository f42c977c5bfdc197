/* lfh.h - floor 3: subsegments, the low-fragmentation front end. Functions on one run; which thread may
 * call them is the heap floor's business.
 *
 * Counting. used holds busy + bias. bias is DMI_BIAS_CURRENT while the run is in a current slot, so that
 * frees never make used 0; 0 while it waits in an avail list, so that the last free does; and k - busy
 * for a full run, so that the k-th free does. Frees that make used 0 go to the slow path.
 *
 * Remote frees. run->remote is one word: bits 0-47 the first block, bits 48-62 how many, bit 63 set while
 * the run is in its cache's pending list (or about to enter it). The first push sets bit 63 and enters
 * the list. A run whose bit 63 is set is never released.
 *
 * Parked blocks. A carved block that overlaps an uncommitted (or offered) page of the run is parked: it
 * is free and in no list. Its state follows from the commit map alone.
 *
 * Links. The first word of a free block holds the next one, encoded with a secret and the block's mark, which is the
 * second word. A mark is block * inverse - origin, where inverse is 2^64 / block size, rounded up: so for the blocks of a
 * run all marks have the same upper half, the lower half of the run's address, and for any other address in it they
 * have not. The lower half is a secret of the run plus a little for the place. A block is handed out only when its mark
 * has the right upper half, and loses both words then. So a list that somebody wrote into ends in an abort or at a wild
 * address and never at a busy block; a second free finds the mark; and what was freed though it is no block is not
 * handed out. Links are decoded without a check while an operation may be in flight; whoever goes on to write asks
 * _dmi_lfh_is_block first.
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

/* Which blocks of a run are free, one bit a block. */
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
/* Is it the mark of one of its blocks? */
static inline bool _dmi_lfh_fits(const dmi_run *run, uint64_t mark) {
    return (uint32_t)(mark >> 32) == (uint32_t)(uintptr_t)run;
}
static inline bool _dmi_lfh_marked(const dmi_run *run, const void *block) {
    return __atomic_load_n((const dmi_word *)block + 1, __ATOMIC_RELAXED) ==
           _dmi_lfh_mark(run, block);
}

/* Links are read by takers while their owner runs: relaxed atomics throughout. NULL: the last one. */
static inline void *_dmi_link_get(const dmi_run *run, const void *block) {
    uintptr_t word = __atomic_load_n((const dmi_word *)block, __ATOMIC_RELAXED);
    uintptr_t next = word ^ _dmi_lfh_mark(run, block) ^ (uintptr_t)_dmi_secret.link;
    return next == (uintptr_t)_dmi_end ? NULL : (void *)next;
}
/* Makes it a free block: the mark too. */
static inline void _dmi_link_set(const dmi_run *run, void *block, const void *next) {
    uintptr_t mark = _dmi_lfh_mark(run, block), to = (uintptr_t)(next ? next : DMI_END);
    __atomic_store_n((dmi_word *)block, to ^ mark ^ (uintptr_t)_dmi_secret.link, __ATOMIC_RELAXED);
    __atomic_store_n((dmi_word *)block + 1, mark, __ATOMIC_RELAXED);
}
/* The first block of the local list, NULL: it is empty. */
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
/* Does every carved block on usable pages carry its mark? Asked before a run is given back, for a count may lie: an
 * address that is no block, or a block twice, was freed. */
bool _dmi_lfh_all_marked(const dmi_run *run);
/* Does one of its carved blocks begin there? */
static inline bool _dmi_lfh_is_block(const dmi_run *run, const void *p) {
    size_t offset = (size_t)((const char *)p - _dmi_run_base(run));
    if (offset >= _dmi_run_size(run)) return false;
    uint32_t index = (uint32_t)offset / run->block_size; /* 32 bits are divided faster */
    return index < run->carved && index * run->block_size == offset;
}
static inline char *_dmi_lfh_block(const dmi_run *run, size_t index) {
    return _dmi_run_base(run) + index * run->block_size;
}
/* The block of a number plus 1, and back; 0 is NULL. */
static inline void *_dmi_lfh_numbered(const dmi_run *run, uint16_t number) {
    return number ? _dmi_lfh_block(run, number - 1u) : NULL;
}
static inline uint16_t _dmi_lfh_number(const dmi_run *run, const void *block) {
    return (uint16_t)(block ? _dmi_lfh_index(run, block) + 1 : 0);
}

/* Make a fresh run a subsegment of the bucket; nothing is carved or committed yet. */
void _dmi_lfh_init(dmi_run *run, unsigned bucket);
/* Carve blocks of the next page (at least one block) onto the empty head. Commits first. False: fully
 * carved (*error 0) or out of memory (*error set); then nothing changed. */
bool _dmi_lfh_carve(dmi_run *run, int *error);
/* Commit the pages of the lowest parked block and link every parked block that became whole. False:
 * nothing parked (*error 0) or out of memory. */
bool _dmi_lfh_unpark(dmi_run *run, int *error);
/* Link the parked blocks that overlap these pages, which were parked and did not go, and lie on usable pages
 * only. */
void _dmi_lfh_relink(dmi_run *run, const uint64_t pages[2]);
/* Push a block that another thread frees. True: the caller enters the run in its cache's pending list. */
bool _dmi_lfh_push_remote(dmi_run *run, void *block);
/* Move what others freed to the local list. keep_pending: the run stays in (or on its way to) the pending
 * list. Returns how many blocks came. A list that is no list of its free blocks is left behind, and the fault noted. */
unsigned _dmi_lfh_collect_some(dmi_run *run, bool keep_pending);
static inline unsigned _dmi_lfh_collect(dmi_run *run, bool keep_pending) {
    uint64_t word = atomic_load_explicit(&run->remote, memory_order_relaxed);
    return keep_pending && DMI_REMOTE_COUNT(word) == 0 ? 0
                                                       : _dmi_lfh_collect_some(run, keep_pending);
}
/* Free blocks among the carved ones: local list and parked; the remote list too if asked (to look; a
 * sweep collects it first and takes what arrives later for busy). The lists must be at rest, or the
 * run taken. pinned (may be NULL) gets the block that an operation in flight may touch, SIZE_MAX if
 * none. False: a link is damaged (*bad is the block that holds it, or the run). */
bool _dmi_lfh_free_map(const dmi_run *run, bool with_remote, dmi_blockmap *map, size_t *pinned,
                       const void **bad);
/* What links are encoded with besides marks, and how a list ends: in another process, what they are there. */
typedef struct dmi_link_code {
    uint64_t secret, end; /* _dmi_secret.link, the address of _dmi_end */
} dmi_link_code;
/* The same, with the run's pages (the usable ones) read at memory: a copy, when the run is another process's. */
bool _dmi_lfh_free_map_in(const dmi_run *run, const dmi_link_code *code, const char *memory,
                          bool with_remote, dmi_blockmap *map, size_t *pinned, const void **bad);
/* Does the first word of that block (which may be in use) say that it may be free? What is free begins with a link. */
bool _dmi_lfh_looks_free(const dmi_run *run, const void *block);
/* May a page of the run be free? A free block begins with a link, so one that does not is busy, and its page
 * with it: for most pages that costs a few words instead of a walk. False: certainly none is. */
bool _dmi_lfh_may_free(const dmi_run *run);
/* Pages of the run without a byte of a busy or pinned block that are usable (committed, not offered). */
size_t _dmi_lfh_free_pages(const dmi_run *run, const dmi_blockmap *map, size_t pinned,
                           uint64_t pages[2]);
/* Unlink every free block that overlaps the given pages, which are about to be given back, and forget
 * carved blocks behind the last busy one. Rebuilds the list lowest page first, fuller pages before emptier
 * ones. Call before the pages go. */
void _dmi_lfh_park(dmi_run *run, const dmi_blockmap *map, size_t pinned, const uint64_t pages[2]);
/* Blocks that lie wholly on uncommitted pages. */
size_t _dmi_lfh_ghosts(const dmi_run *run);
/* The run is at rest and its head is intact: make the list of a taken run its own (see take.h of the heap floor). */
void _dmi_lfh_take(dmi_run *run, bool current);
/* The owner's next slow path: bring head and used of a taken run in order. */
void _dmi_lfh_repair(dmi_run *run);

static inline bool _dmi_map_get(const dmi_blockmap *map, size_t i) {
    return (map->word[i / 64] >> (i % 64)) & 1;
}
#endif
