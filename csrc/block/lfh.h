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
 */
#ifndef DMI_LFH_H
#define DMI_LFH_H

#include "../segment/segment.h"
#include "bucket.h"

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

/* Links are read by takers while their owner runs: relaxed atomics throughout. */
static inline void *_dmi_link_get(const void *block) {
    return __atomic_load_n((void *const *)block, __ATOMIC_RELAXED);
}
static inline void _dmi_link_set(void *block, void *next) {
    __atomic_store_n((void **)block, next, __ATOMIC_RELAXED);
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
static inline char *_dmi_lfh_block(const dmi_run *run, size_t index) {
    return _dmi_run_base(run) + index * run->block_size;
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
 * list. Returns how many blocks came. */
unsigned _dmi_lfh_collect(dmi_run *run, bool keep_pending);
/* Free blocks among the carved ones: local list and parked; the remote list too if asked (to look; a
 * sweep collects it first and takes what arrives later for busy). The lists must be at rest, or the
 * run taken. pinned (may be NULL) gets the block that an operation in flight may touch, SIZE_MAX if
 * none. False: a link is damaged (*bad is the block that holds it, or the run). */
bool _dmi_lfh_free_map(const dmi_run *run, bool with_remote, dmi_blockmap *map, size_t *pinned,
                       const void **bad);
/* The same, with the run's pages (the usable ones) read at memory: a copy, when the run is another process's. */
bool _dmi_lfh_free_map_in(const dmi_run *run, const char *memory, bool with_remote,
                          dmi_blockmap *map, size_t *pinned, const void **bad);
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
/* The run is at rest and its head is intact: make the list of a taken run its own (see cache.h). */
void _dmi_lfh_take(dmi_run *run, bool current);
/* The owner's next slow path: bring head and used of a taken run in order. */
void _dmi_lfh_repair(dmi_run *run);

static inline bool _dmi_map_get(const dmi_blockmap *map, size_t i) {
    return (map->word[i / 64] >> (i % 64)) & 1;
}
#endif
