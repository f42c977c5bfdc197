/* heap.h - floor 5: the one floor that knows the whole path of a request.
 *
 * Locks, in the order they may be taken: heap->pass, registry, thread->lock or heap->shared_lock (one of
 * them; another thread's only by trying), heap->lock, then the small locks below (page map, pools).
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
typedef struct dmi_thread dmi_thread;

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
};

typedef enum dmi_thread_state {
    DMI_THREAD_LIVE = 0,
    DMI_THREAD_TAKEN =
        1, /* its TLS word points to _dmi_no_thread; it repairs in its next slow path */
    DMI_THREAD_ABANDONED = 2 /* its thread ended; the next new thread adopts it */
} dmi_thread_state;

/* A memo of no heap. An address of our own: NULL and -1 are what careless callers pass. */
#define DMI_NO_HANDLE ((void *)&_dmi_no_thread)

/* A thread's record. Its address is the token that runs name as their owner. Never freed. */
struct dmi_thread {
    dmi_cache cache; /* of the default heap, first: the fast path indexes it */
    void *memo_heap; /* handle and cache of the last other heap used */
    dmi_cache *memo;
    dmi_lock lock;
    dmi_thread_state state;
    dmi_thread **tls;      /* that thread's _dmi_self */
    dmi_cache *caches;     /* every cache in use, through next_of_thread */
    dmi_thread *next;      /* all records, through the registry */
    dmi_thread *abandoned; /* those without a thread */
    uint64_t os_id;
    _Atomic uint32_t holding; /* how often its thread holds the segments now: see _dmi_hold */
};

struct dmi_heap {
    dmi_lock lock;        /* space, list, activation, caches */
    dmi_lock shared_lock; /* shared */
    dmi_lock pass;        /* one pass, walk, trim or policy change at a time */
    dmi_space space;
    dmi_freelist list;
    dmi_engine engine;
    void *handle;
    uint32_t flags; /* DMI_HEAP_* */
    uint32_t
        tail; /* bytes behind each block that are not the caller's: the canary of hardened heaps */
    bool live;
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
    dmi_heap *next, *prev; /* registry, oldest first */
    char name[48];
    char label[64]; /* of its mappings */
};

static inline dmi_heap *_dmi_heap_of_space(dmi_space *space) {
    return (dmi_heap *)(void *)((char *)space - offsetof(dmi_heap, space));
}
static inline dmi_heap *_dmi_heap_of_run(const dmi_run *run) {
    return _dmi_heap_of_space(run->segment->space);
}

/* The bucket that a free-list block counts for; aligned ones may be larger than any. */
static inline unsigned _dmi_list_key(const void *block) {
    size_t size = _dmi_freelist_usable(block) - 8;
    return size <= DMI_BUCKET_MAX ? _dmi_bucket(size) : DMI_BUCKETS - 1;
}

/* ---- registry.c ---- */
extern dmi_heap *_dmi_default; /* NULL before the first use */
extern dmi_heap *_dmi_heaps;   /* the registry: the oldest heap */
/* The heap of a handle, NULL (errno EINVAL) when it is stale. */
dmi_heap *_dmi_heap_resolve(void *handle);
/* Visit live heaps with the registry locked; visit returns non-zero to stop. */
int _dmi_heaps_each(int (*visit)(dmi_heap *, void *), void *argument);
uint64_t _dmi_heap_clock(dmi_heap *heap);
/* The registry of heaps, for fork and for hold.c, and visiting them while it is locked. */
void _dmi_heaps_lock(void);
void _dmi_heaps_unlock(void);
int _dmi_heaps_each_locked(int (*visit)(dmi_heap *, void *), void *argument);
/* A record for a heap; NULL (errno) when there is none. The registry is locked. */
dmi_heap *_dmi_heaps_new(void);
/* Give it its handle and list it; let its handle be stale and take it off the list. The registry is locked. */
void _dmi_heaps_enter(dmi_heap *heap);
void _dmi_heaps_leave(dmi_heap *heap);
/* Its record may serve another heap. The registry is not locked. */
void _dmi_heaps_recycle(dmi_heap *heap);
/* Committed bytes of the records. */
size_t _dmi_heaps_metadata(void);

/* ---- create.c ---- */
/* The default heap, made if need be; NULL: out of memory. */
dmi_heap *_dmi_default_heap(void);
/* Options for the default heap, before it is made (preload). */
void _dmi_default_options(const dmi_heap_options *options);

/* ---- hold.c ---- */
/* Does anybody hold it? The registry is locked. */
bool _dmi_heap_held(const dmi_heap *heap);

/* ---- records.c ---- */
/* This thread's record whatever _dmi_self says; NULL before its first slow path; &_dmi_no_thread when there is
 * none to have. */
extern DMI_TLS dmi_thread *_dmi_record;
/* Can other threads be made to pass a memory barrier? Set before the first heap. */
extern bool _dmi_have_barrier;
/* All records, newest first. */
dmi_thread *_dmi_threads(void);
/* A record without a thread: *adopted tells whether one left it behind, or it is new. NULL: no memory. */
dmi_thread *_dmi_record_get(bool *adopted);
/* It has no thread any more; and the same where the records are locked. */
void _dmi_record_put(dmi_thread *record);
void _dmi_record_put_locked(dmi_thread *record);
/* No record is handed out or made meanwhile. */
void _dmi_records_lock(void);
void _dmi_records_unlock(void);
/* Fork child: which records have no thread is told afresh. The records are locked. */
void _dmi_records_forget_abandoned(void);
/* Committed bytes of the records. */
size_t _dmi_threads_metadata(void);

/* ---- thread.c ---- */
/* The record of this thread; NULL: it has none and gets none (too early, too late, no memory). */
dmi_thread *_dmi_thread_self(void);
int _dmi_threads_setup(void);

/* ---- fork.c ---- */
/* Have the process call us at every fork. 0 or an errno. */
int _dmi_fork_setup(void);

/* ---- take.c ---- */
/* Bring a record that its owner has locked in order. True: runs went to a shared cache. */
bool _dmi_thread_repair_taken(dmi_thread *self);
static inline bool _dmi_thread_repair(dmi_thread *self) {
    return __builtin_expect(self->state == DMI_THREAD_TAKEN, 0) && _dmi_thread_repair_taken(self);
}
/* Lock a record as its owner: brings it in order when it was taken. */
static inline void _dmi_thread_lock(dmi_thread *self) {
    _dmi_lock(&self->lock);
    (void)_dmi_thread_repair(self);
}
/* Lock a record from outside so that its caches may be read and its lists swept: a live thread other
 * than the caller is taken. False: it cannot be had now (no barrier on this OS); nothing is locked. */
bool _dmi_thread_take(dmi_thread *thread);
/* Bring the runs that were taken in order. Locked by the owner, or the owner is gone.
 * True: they went to the heap's shared cache, which is eager. */
bool _dmi_cache_repair(dmi_cache *cache);
/* Lock the cache that owns an LFH run, whoever that is; take: its thread is taken too. NULL: it cannot be
 * taken, or the run has no owner. */
dmi_cache *_dmi_cache_lock_of(dmi_run *run, bool take);
/* Hold every lock of the heap, with all its threads taken; and let go. heap->pass is held. False: some
 * thread cannot be taken on this OS; nothing is held. */
bool _dmi_heap_freeze(dmi_heap *heap);
void _dmi_heap_thaw(dmi_heap *heap);

/* ---- cache.c ---- */
/* Let nothing be handed out: every slot of the fast path becomes _dmi_no_run. */
void _dmi_cache_clear(dmi_cache *cache);
void _dmi_cache_init(dmi_cache *cache, dmi_heap *heap, dmi_thread *thread, dmi_lock *lock);
/* The cache of this thread for that heap; made if need be. NULL: no memory. Self is locked. */
dmi_cache *_dmi_cache_get(dmi_thread *self, dmi_heap *heap);
/* Hand out a block. NULL with *error 0 never happens. The cache is locked. */
void *_dmi_cache_alloc(dmi_cache *cache, unsigned bucket);
/* Free a block of one of its runs. The cache is locked, the run not taken. */
void _dmi_cache_free(dmi_cache *cache, dmi_run *run, void *block);
/* used became 0: release the run or list it. Locked. */
void _dmi_cache_settle(dmi_cache *cache, dmi_run *run);
/* A full run's count is new: list it, whatever it was waiting for. Locked. */
void _dmi_cache_list(dmi_cache *cache, dmi_run *run);
/* Take in all runs with remote frees. Locked. */
void _dmi_cache_drain(dmi_cache *cache);
/* Is there anything to take in? A hint. */
static inline bool _dmi_cache_waits(const dmi_cache *cache) {
    return atomic_load_explicit(&cache->any_pending, memory_order_relaxed);
}
/* Enter a run in the pending list of the cache that owns it. No lock. */
void _dmi_cache_pend(dmi_run *run);
/* Settle a run whose count changed by more than one at once, if it is time. Locked. */
void _dmi_cache_review(dmi_cache *cache, dmi_run *run);
/* Mark the run as taken if its cache's thread is. The cache is locked. */
void _dmi_cache_take_run(dmi_cache *cache, dmi_run *run);
/* Give its empty subsegments back to their segments, the ones it allocates from too; true when there were any.
 * Cache locked; it is nobody's or the caller's own. */
bool _dmi_cache_shed(dmi_cache *cache);
/* Move every run of a thread's cache to the heap's shared one: the heap became eager. The thread's lock
 * is held and it is at rest. */
void _dmi_cache_hand_over(dmi_cache *cache);
/* Forget a cache: its heap goes. Its thread's lock is held and it is taken or the caller's. */
void _dmi_cache_drop(dmi_cache *cache);
/* Committed bytes of the caches. */
size_t _dmi_caches_metadata(void);

/* ---- alloc.c ---- */
void *_dmi_malloc_slow(size_t size);
void *_dmi_heap_malloc_slow(void *handle, size_t size);
void *_dmi_heap_alloc(dmi_heap *heap, size_t size, size_t align, bool *zero);

/* Hardened heaps: write, check the word behind a block's usable bytes (tail included in usable). */
void _dmi_canary_set(const dmi_heap *heap, void *block, size_t usable);
bool _dmi_canary_sound(const dmi_heap *heap, const void *block, size_t usable);

/* ---- free.c ---- */
void _dmi_free_slow(void *block, dmi_run *run);
/* A local free made used 0. */
void _dmi_free_settle(dmi_run *run);
/* The same two for callers that hold locks of the C library: no pass is run, no thread is started. */
void _dmi_free_quietly(void *block, dmi_run *run);
void _dmi_free_settle_quietly(dmi_run *run);

/* ---- pass.c ---- */
/* Do what became due. heap->pass is held. */
void _dmi_heap_due(dmi_heap *heap);
/* A full pass; *sweep was initialised with its kind and tells what came of it. heap->pass is held. */
void _dmi_heap_pass(dmi_heap *heap, dmi_sweep *sweep);
/* Do what the policy wants done at a pass; true when it wants another one though nothing happens. heap->pass is
 * held. */
bool _dmi_heap_run_policy(dmi_heap *heap);
/* The policy is new: decide when its first pass is due. */
void _dmi_heap_schedule(dmi_heap *heap, uint64_t now);
/* Give back everything; returns the bytes. */
uint64_t _dmi_heap_trim(dmi_heap *heap);

/* ---- tick.c ---- */
/* A slow path was taken: see to it that a pass follows. Call without locks; cheap when one is on its way. */
void _dmi_heap_tick(dmi_heap *heap);
/* The same where a pass must not run: the thread gave its record away. */
void _dmi_heap_arm(dmi_heap *heap);

/* ---- visit.c ---- */
typedef enum dmi_visit_lock {
    DMI_VISIT_LOCK = 0, /* lock the cache of an LFH run: counts may move, lists may not be read */
    DMI_VISIT_TAKE = 1  /* take its thread as well: lists are at rest */
} dmi_visit_lock;
/* Visit every run of every segment, by address. heap->pass is held. An LFH run is visited with its
 * cache locked (cache), any other with the heap's lock held (cache NULL). A run that cannot be taken is
 * visited with DMI_VISIT_LOCK's guarantee and *taken false. Locks are let go in between. Who asks for gaps is
 * shown every page of every segment exactly once: as part of a run, or of a gap, which was free at some
 * moment since the visit came to its segment and is something else by now. */
typedef struct dmi_visitor {
    void (*run)(struct dmi_visitor *self, dmi_heap *heap, dmi_cache *cache, dmi_run *run);
    void (*segment)(struct dmi_visitor *self, dmi_segment *segment); /* before its runs; or NULL */
    void (*gap)(struct dmi_visitor *self, dmi_segment *segment, size_t first,
                size_t pages); /* or NULL */
    dmi_visit_lock lock;
    dmi_sweep *sweep; /* flushed before a cache's lock is let go; may be NULL */
    bool taken;       /* set for each LFH run: its lists are at rest */
} dmi_visitor;
void _dmi_heap_visit(dmi_heap *heap, dmi_visitor *visitor);
/* Busy bytes now. heap->pass is held. */
uint64_t _dmi_heap_busy(dmi_heap *heap);

/* ---- scavenger.c ---- */
/* Have the scavenger look after a pass that is due then. False: there is none, slow paths must do it. */
bool _dmi_scavenger_want(uint64_t when);
#define DMI_SCAVENGER_RUNNING 1
extern _Atomic uint32_t _dmi_scavenger_life;
/* Is there one? A hint. */
static inline bool _dmi_scavenger_running(void) {
    return atomic_load_explicit(&_dmi_scavenger_life, memory_order_relaxed) ==
           DMI_SCAVENGER_RUNNING;
}
/* Before a fork: stop and join it, and turn away whoever wants it. */
void _dmi_scavenger_stop(void);
/* After the fork, in both processes: it starts again when wanted. */
void _dmi_scavenger_resume(void);
/* Do not start it for a moment: somebody is about to count threads. */
void _dmi_scavenger_rest(void);
/* Never start it. */
void _dmi_scavenger_forbid(void);

#endif
