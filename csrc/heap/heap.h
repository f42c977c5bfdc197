/* heap.h - floor 5: the one floor that knows the whole path of a request. Here are its structs; each job that is done
 * with them has a header of its own, which says what always holds and which locks it takes.
 *
 * The order in which locks may be taken: the registry of heaps, heap->pass, the records of threads, thread->lock or
 * heap->shared_lock, heap->unmapping, heap->lock, then the small locks below (page map, pools). Whoever holds the lock
 * of one record takes that of another by trying only; so does whoever holds heap->lock and wants a cache's.
 */
#ifndef DMI_HEAP_H
#define DMI_HEAP_H

#include "../block/freelist.h"
#include "../block/lfh.h"
#include "../block/virtual.h"
#include "../decommit/engine.h"
#include "../os/lock.h"
#include "../segment/pool.h"

#include <dmi/dmi.h>

typedef struct dmi_heap dmi_heap;
typedef struct dmi_cache dmi_cache;
typedef struct dmi_quarantine dmi_quarantine;
typedef struct dmi_guarded dmi_guarded;
typedef struct dmi_thread dmi_thread;

/* How many large blocks a hardened heap withholds (hard_large.h). */
#define DMI_WITHHELD_RUNS 32
#define DMI_WITHHELD_MAPS 16

/* Up to this size the fast path finds its run without the table of buckets. */
#define DMI_DIRECT_MAX ((size_t)1024)

/* One thread's LFH state for one heap; or the heap's shared one, for eager heaps and for threads
 * without a record. Its lock protects everything here and the lists of its runs. */
struct dmi_cache {
    dmi_run *direct[DMI_DIRECT_MAX / 16 + 1]; /* current of small sizes, by (size + 15) / 16 */
    dmi_run *current[DMI_BUCKETS]; /* what the fast path allocates from; _dmi_no_run: nothing */
    struct {
        dmi_run *head, *tail; /* runs with something to hand out, latest first */
    } avail[DMI_BUCKETS];
    dmi_run *spare[DMI_BUCKETS]; /* runs with nothing on their list that can grow, latest first */
    _Atomic(dmi_run *) pending[DMI_BUCKETS]; /* runs that got remote frees, through pending_next */
    _Atomic bool any_pending;                /* there may be some */
    dmi_heap *heap;                          /* NULL: not in use */
    dmi_thread *thread;                      /* NULL: a shared cache */
    dmi_lock *lock;
    dmi_run *taken; /* runs of this cache that are taken, through taken_next */
    dmi_cache *next_of_thread;
    dmi_cache *next_of_heap, *prev_of_heap; /* under heap->lock */
    dmi_quarantine *quarantine;             /* of hardened heaps; else NULL */
};

typedef enum dmi_thread_state {
    DMI_THREAD_LIVE = 0,
    DMI_THREAD_TAKEN =
        1, /* its TLS word points to _dmi_no_thread; it repairs in its next slow path */
    DMI_THREAD_ABANDONED = 2 /* its thread ended; the next new thread adopts it */
} dmi_thread_state;

/* A thread's record. Its address is the token that runs name as their owner. Never freed. */
struct dmi_thread {
    dmi_cache cache; /* of the default heap, first: the fast path indexes it */
    void *memo_heap; /* handle and cache of the last other heap used */
    dmi_cache *memo;
    dmi_cache *door; /* what door.c allocates from; never NULL */
    /* Caches that no fast path sees: of the default heap, if it is hardened, and of the last other hardened heap used.
     * */
    dmi_cache *hard, *hard_memo;
    /* How its thread takes the lock for hardened heaps (owner.h): whether it need not, how often it is inside, and how
     * often it took it since others came. */
    _Atomic(dmi_quarantine *) favour; /* of hard, while it is favoured; else &_dmi_no_quarantine */
    _Atomic bool favoured;
    size_t draws; /* a fast path hands out blocks of hard for requests below that; 0: for none */
    _Atomic uint32_t inside;
    uint32_t quiet;
    dmi_lock lock;
    dmi_thread_state state;
    dmi_thread **tls;      /* that thread's _dmi_self */
    dmi_cache *caches;     /* every cache in use, through next_of_thread */
    dmi_thread *next;      /* all records, through the registry */
    dmi_thread *abandoned; /* those without a thread */
    uint64_t os_id;
    _Atomic uint32_t guarding; /* how often its thread guards the segments now: see _dmi_guard */
};

struct dmi_heap {
    dmi_lock lock;        /* space, list, activation, caches */
    dmi_lock shared_lock; /* shared */
    dmi_lock unmapping;   /* what leaves (leave.h) */
    dmi_lock pass;        /* one pass, walk, trim or policy change at a time */
    dmi_space space;
    dmi_freelist list;
    dmi_engine engine;
    void *handle;
    uint32_t flags; /* DMI_HEAP_* */
    uint32_t
        tail; /* bytes behind each block that are not the caller's: the canary of hardened heaps */
    bool live;
    _Atomic uint64_t waiting; /* hardened: bytes that its quarantines may hold now */
    dmi_guarded *guarded;     /* slots of sampled blocks; else NULL */
    struct {
        uint32_t runs, maps, random;
        uint64_t bytes; /* of the runs */
        dmi_run *run[DMI_WITHHELD_RUNS];
        dmi_os_range map[DMI_WITHHELD_MAPS];
    } withheld;               /* hardened: freed large blocks, in the order in which they came */
    _Atomic bool shared_only; /* eager: every block through the shared cache */
    _Atomic bool lfh_active;
    uint32_t lfh_live, lfh_total; /* activation thresholds */
    uint32_t bucket_live[DMI_BUCKETS], bucket_total[DMI_BUCKETS];
    size_t bucket_pages[DMI_BUCKETS]; /* in its subsegments */
    _Atomic uint8_t active[DMI_BUCKETS];
    _Atomic uint32_t abandoned; /* caches of ended threads */
    _Atomic uint64_t wait;      /* between passes, ns; 0: the policy has none */
    _Atomic bool armed;         /* something happened since a pass found nothing to wait for */
    _Atomic uint64_t next_pass; /* heap clock, ns; UINT64_MAX: none */
    uint64_t manual_now;
    struct {
        char who[48];
        uint64_t holds;          /* 0: free */
    } holders[DMI_HEAP_HOLDERS]; /* under the registry's lock */
    dmi_thread *frozen;          /* newest record when the heap was frozen */
    dmi_cache *caches;           /* of threads */
    dmi_cache shared;
    uint64_t
        futile; /* bytes that were given back for a request that failed all the same, see retry.h */
    dmi_heap *next, *prev; /* registry, oldest first */
    char name[48];
    char label[64]; /* of its mappings */
};

static inline dmi_heap *_dmi_heap_of_space(dmi_space *space) {
    return (dmi_heap *)(void *)((char *)space - offsetof(dmi_heap, space));
}
/* Do canaries stand behind its blocks? */
static inline bool _dmi_heap_is_hard(const dmi_heap *heap) { return heap->tail != 0; }
static inline dmi_heap *_dmi_heap_of_run(const dmi_run *run) {
    return _dmi_heap_of_space(run->segment->space);
}

/* The bucket that a free-list block counts for; aligned ones may be larger than any. */
static inline unsigned _dmi_list_key(const void *block) {
    size_t size = _dmi_freelist_usable(block) - 8;
    return size <= DMI_BUCKET_MAX ? _dmi_bucket(size) : DMI_BUCKETS - 1;
}

#endif
