/* stats.h - every counter of a heap, in one table.
 *
 * DMI_STATS(X) lists them as X(name, unit, "documentation"). The struct below is made of it, and so are the words
 * that describe a counter wherever it is shown. The Python class and the Cython struct are written from it by
 * tools/generate.py; run it after a change. Units: B bytes, n a count, b 0 or 1, x flag bits.
 *
 * The order of the tables, and of the struct that is made of them, is the ABI: what is there keeps its place.
 * After the first release a new counter, reason or age does not go to the end of its table, for that
 * would move the tables behind it, but to a table of its own behind all others.
 *
 * The waterfall closes to the byte:
 *     reserved  = uncommitted + committed
 *     committed = busy + free_lfh + free_list + free_pages + offered + overhead
 * and of what is kept without being used:
 *     retained  = committed - busy                 (= the sum of the reasons, with detail)
 *     free_lfh + free_list + free_pages = reclaimable + pinned          (with detail)
 *     reclaimable = the sum of the ages                                 (with detail)
 */
#ifndef DMI_STATS_H
#define DMI_STATS_H

#include <stdint.h>

#define DMI_STATS(X)                                                                               \
    X(reserved, B, "address space held: segments and virtual blocks")                              \
    X(uncommitted, B, "reserved but not committed")                                                \
    X(committed, B, "pages that the heap may touch")                                               \
    X(busy, B, "usable bytes of blocks handed to the caller")                                      \
    X(free_lfh, B, "free and not yet carved blocks of subsegments, on committed pages")            \
    X(free_list, B, "free back-end blocks without their tags, on committed pages")                 \
    X(free_pages, B, "free runs, and freed virtual blocks that the policy keeps")                  \
    X(offered, B, "pages the OS may take when it wants to")                                        \
    X(overhead, B, "tags, tails and gaps on committed pages")                                      \
    X(metadata_committed, B, "out-of-line metadata of this heap, outside the waterfall")           \
    X(busy_blocks, n, "blocks handed to the caller")                                               \
    X(segments, n, "segments, freed virtual blocks that the policy keeps among them")              \
    X(segment_reserved, B, "Reserv column: reserved bytes in segments")                            \
    X(segment_committed, B, "Commit column: committed bytes in segments")                          \
    X(segment_virtual, B, "Virt column: Reserv less the large uncommitted ranges")                 \
    X(list_length, n, "List length column: free blocks and runs with a byte in Free")              \
    X(uncommitted_ranges, n, "UCR blocks column: maximal uncommitted ranges in segments")          \
    X(virtual_blocks, n, "Virt blocks column: busy blocks mapped on their own")                    \
    X(virtual_committed, B, "committed bytes of virtual blocks")                                   \
    X(lock_contention, n, "Lock cont. column: contended acquisitions of the heap's locks")         \
    X(lfh_active, b, "Fast heap column: 1 when a bucket of the front end is active")               \
    X(flags, x, "Flags column: 0x2 growable, 0x1000 private class, 0x1 not serialized")            \
    X(commit_calls, n, "times pages were committed for the first time")                            \
    X(commit_bytes, B, "bytes committed for the first time")                                       \
    X(decommit_calls, n, "system calls that decommitted")                                          \
    X(decommit_bytes, B, "bytes decommitted")                                                      \
    X(recommit_calls, n, "times decommitted pages were committed again")                           \
    X(recommit_bytes, B, "bytes committed again")                                                  \
    X(recommit_churn_bytes, B, "bytes committed again within a second of their decommit")          \
    X(offer_calls, n, "system calls that offered pages")                                           \
    X(offer_bytes, B, "bytes offered")                                                             \
    X(unoffer_bytes, B, "offered bytes taken back for use")                                        \
    X(refused_calls, n, "decommits that the OS refused or the VMA limit forbade")                  \
    X(decommit_refused_bytes, B,                                                                   \
      "bytes that are uncommitted for dmi but still writable: the VMA "                            \
      "limit made them a discard")                                                                 \
    X(reclaimable, B, "detail: retained bytes on pages without a byte of a busy block")            \
    X(pinned, B, "detail: retained bytes on pages that hold a busy byte or a tag")                 \
    X(page_bound, B, "detail: distinct pages that hold a byte of a busy block")                    \
    X(resident, B, "detail: bytes of the heap's ranges in physical memory, asked from the OS")

/* Why a retained byte is retained; with detail, the reasons sum to retained. */
#define DMI_REASONS(X)                                                                             \
    X(pinned, "shares its page with a busy block or with a tag that must stay")                    \
    X(in_flight, "an operation of another thread may still touch it")                              \
    X(delay, "free for less than the policy's delay")                                              \
    X(decay, "still under the decay curve")                                                        \
    X(budget, "within the budget's share of busy")                                                 \
    X(pressure, "the machine is at ease")                                                          \
    X(never, "the policy never gives back")                                                        \
    X(block_threshold, "the free block is below the block threshold")                              \
    X(total_threshold, "total free is below the total threshold")                                  \
    X(commit_granularity, "committed ahead of use, or on a huge page kept whole")                  \
    X(offered, "offered; the OS has the last word")                                                \
    X(refused, "the OS refused to take it (locked, VMA limit)")                                    \
    X(overhead, "tags, tails and gaps")

/* For how long the reclaimable bytes have been free, with detail; they sum to reclaimable. Known are lower
 * bounds only, since no free writes down its time: a page is as old as the first look (a pass of the policy,
 * a stats with detail) of those in a row that found it free, a free run also as old as the last free that
 * made it larger. X(name, upper bound in 1/16 s, "documentation"). */
#define DMI_AGES(X)                                                                                \
    X(unseen, 0, "no look has found it free before")                                               \
    X(under_250ms, 4, "found free first less than 0.25 s ago")                                     \
    X(under_1s, 16, "found free first 0.25 s ago or more, less than 1 s")                          \
    X(under_4s, 64, "1 s or more, less than 4 s")                                                  \
    X(under_16s, 256, "4 s or more, less than 16 s")                                               \
    X(under_64s, 1024, "16 s or more, less than 64 s")                                             \
    X(under_256s, 4096, "64 s or more, less than 256 s")                                           \
    X(older, UINT32_MAX, "256 s or more")

#define DMI_STATS_FIELD(name, unit, doc) uint64_t name;
#define DMI_REASON_FIELD(name, doc) uint64_t reason_##name;
#define DMI_AGE_FIELD(name, bound, doc) uint64_t age_##name;

typedef struct dmi_stats {
    uint64_t size; /* set by the caller: sizeof(dmi_stats); fields beyond it are not written */
    DMI_STATS(DMI_STATS_FIELD)
    DMI_REASONS(DMI_REASON_FIELD)
    DMI_AGES(DMI_AGE_FIELD)
} dmi_stats;

#endif
