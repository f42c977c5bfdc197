/* segment.h - floor 2: segments, their runs, and which of their pages are committed.
 *
 * A space is the address-space side of one heap: its segments, its free runs, its virtual blocks. It
 * records and answers; it decides nothing about giving memory back. Its lock is the heap's: every
 * function here wants it held, except those that say otherwise.
 *
 * A segment is one reservation, cut in two: metadata first (this header, bitmaps, run descriptors),
 * then the pages that users get. Descriptors are handed out lowest first.
 */
#ifndef DMI_SEGMENT_H
#define DMI_SEGMENT_H

#include "../os/os.h"
#include "bits.h"
#include "pagemap.h"
#include "run.h"

#define DMI_SEGMENT_LARGEST ((size_t)64 << 20) /* bytes of user pages */
#define DMI_BINS 192 /* free runs by pages: 64 exact, then 8 for each doubling */

/* Free runs by what using them costs: the first page of the cold ones is not committed. */
typedef enum dmi_warmth { DMI_WARM = 0, DMI_COLD = 1, DMI_WARMTHS = 2 } dmi_warmth;

typedef struct dmi_segment dmi_segment;
typedef struct dmi_space dmi_space;

struct dmi_segment {
    dmi_space *space;
    dmi_segment *next, *prev;
    char *base;  /* first user page */
    size_t size; /* bytes from base */
    size_t pages;
    char *reservation; /* what was reserved: metadata, a fence in fenced spaces, then base */
    char *meta_end;    /* where metadata ends */
    size_t reserved;
    size_t meta_committed; /* bytes of metadata that are committed */
    dmi_bits *committed;   /* a bit a page */
    dmi_bits *offered;     /* subset of committed */
    dmi_bits *aged;        /* the page was found free by the last pass */
    dmi_bits *touched;     /* the page was committed at some time */
    dmi_bits *soft;        /* uncommitted by a discard although the space is strict (VMA limit) */
    dmi_bits *refused;     /* free, but the OS refused to take it; cleared when it is used again */
    dmi_bits *deferred;    /* due to go, but its huge page stays whole (NULL: no huge pages) */
    dmi_bits *split;       /* a bit a unit: broken, its pages come and go one by one */
    dmi_bits *opening;     /* a bit a unit: split by the pass that runs now */
    size_t units;          /* whole units of DMI_HUGE bytes from base; 0: no huge pages */
    uint32_t *given_at;    /* 1/16 s, 0 for never: when an uncommitted page was decommitted; when a
                              committed one was found free first, with no look since that did not */
    uint16_t *page_busy;   /* eager: busy blocks that overlap each page */
    _Atomic int64_t cuts;  /* pieces that strict decommits cut its mapping into, less one */
    _Atomic bool has_given_at; /* whoever owns a run of it may ask for the times */
    bool has_page_busy;
    dmi_run *runs;       /* descriptors */
    dmi_run *spare_runs; /* given-back descriptors, through next */
    size_t runs_used;
};

/* What a space did, for the ledger. Relaxed atomics: several locks protect the callers. */
typedef struct dmi_ledger {
    _Atomic uint64_t commit_calls, commit_bytes, decommit_calls, decommit_bytes, recommit_calls,
        recommit_bytes, recommit_churn_bytes, offer_calls, offer_bytes, unoffer_bytes,
        refused_calls;
} dmi_ledger;

struct dmi_space {
    dmi_os_mode mode;
    bool huge;
    bool
        fenced; /* a page that faults lies between metadata and user pages, and behind each virtual block;
                              set before the first of either */
    bool manual;           /* now is set by hand; else it is the OS's clock */
    double huge_split;     /* share of a unit that must be free before it is split */
    size_t huge_need;      /* the same in pages */
    const char *name;      /* label of the mappings */
    uint64_t max_reserved; /* 0: no bound */
    uint64_t reserved;     /* segments and virtual blocks */
    dmi_segment *segments; /* oldest first */
    dmi_segment *last_segment;
    size_t segment_count;
    size_t next_segment; /* bytes the next segment should have */
    dmi_run *bins[DMI_WARMTHS][DMI_BINS];
    uint64_t bin_map[DMI_WARMTHS][DMI_BINS / 64];
    int32_t pass; /* number of the pass over the free runs that is, or was the last one */
    uint64_t free_committed; /* bytes of committed pages in free runs */
    dmi_run *virtuals;       /* busy virtual blocks, through next */
    dmi_run *kept;           /* freed ones the policy keeps, by address */
    uint64_t virtual_meta;   /* metadata bytes of virtual blocks */
    unsigned visitors;       /* who walks over the segments and lets the lock go in between */
    bool release_due;        /* a release was put off for their sake */
    _Atomic uint64_t now;    /* the heap's clock, ns, when somebody asked for it last */
    dmi_ledger ledger;
    uint64_t kept_bytes; /* of the kept virtual blocks */
    uint64_t unseen;     /* bytes of the busy ones that were never seen resident */
    dmi_run *leaving;    /* released virtual blocks that are still mapped, through next */
};

extern size_t _dmi_page; /* the OS page size, set by _dmi_space_setup */
extern unsigned _dmi_page_shift;

/* Read the page size, make the page map. Idempotent; 0 or an errno. */
int _dmi_space_setup(void);
void _dmi_space_init(dmi_space *space, dmi_os_mode mode, bool huge, const char *name,
                     uint64_t max_reserved);
/* The share of a unit, above 0 and up to 1, that must be free before it is split; before the first segment. */
void _dmi_space_set_split(dmi_space *space, double share);
/* Release every segment and virtual block. */
void _dmi_space_release(dmi_space *space);

static inline size_t _dmi_fence_size(const dmi_space *space) {
    return space->fenced ? _dmi_page : 0;
}
static inline size_t _dmi_pages(size_t bytes) { return (bytes + _dmi_page - 1) >> _dmi_page_shift; }
static inline char *_dmi_run_base(const dmi_run *run) {
    return run->segment->base + ((size_t)run->first << _dmi_page_shift);
}
static inline size_t _dmi_run_size(const dmi_run *run) {
    return (size_t)run->pages << _dmi_page_shift;
}

/* The block of a GUARDED run. */
static inline char *_dmi_guarded_block(const dmi_run *run) {
    return _dmi_run_base(run) + (size_t)run->capacity * 16;
}

/* The heap's clock now, ns. No lock is needed. */
uint64_t _dmi_space_clock(dmi_space *space);

/* ---- runs -------------------------------------------------------------------------------------- */

/* A run of pages of the given kind, first page aligned to align_pages (a power of two), taken best-fit
 * from the warm free runs, from the cold ones, or from a new segment. commit: all its pages are committed before any list
 * changes. *zero (may be NULL) tells whether all of it reads as zeroes. NULL: nothing changed. */
dmi_run *_dmi_run_alloc(dmi_space *space, size_t pages, size_t align_pages, dmi_run_kind kind,
                        bool commit, bool *zero);
/* Cut the last page off a run of two pages or more: a run of its own of the same kind. NULL: nothing changed. */
dmi_run *_dmi_run_cut(dmi_run *run);
/* Undo that. */
void _dmi_run_uncut(dmi_run *run, dmi_run *last);
/* Is there a warm free run of so many pages? */
bool _dmi_space_has_warm(dmi_space *space, size_t pages);
/* Make the run free and coalesce it. Returns the free run it became part of. Cannot fail. */
dmi_run *_dmi_run_free(dmi_space *space, dmi_run *run);
/* Pages of a free run were given back: list it with the cold ones if its first page is gone. */
void _dmi_run_note_cold(dmi_space *space, dmi_run *run);
/* Grow a LARGE run in place to pages, or shrink it. False: nothing changed. */
bool _dmi_run_resize(dmi_space *space, dmi_run *run, size_t pages);
/* From here on to unguard no descriptor of any space goes away: for whoever follows what the page map says
 * without a lock. No lock is needed; keep it short. */
void _dmi_segments_guard(void);
void _dmi_segments_unguard(void);
/* Whoever has guards of its own, that cost less, answers for them: before a segment goes, and after it was taken off
 * the page map, guarded() is called, and must see every guard that began before. Once, before there are spaces. */
void _dmi_segments_ask_guards(bool (*guarded)(void));
/* Fork child: whoever guarded them is gone. */
void _dmi_segments_forget_guards(void);
/* Release segments that are one free run without a committed page; the first one stays unless all is
 * true. Those that somebody visits or guards wait for the next time. Returns how many. */
size_t _dmi_segments_release(dmi_space *space, bool all);
/* The run that begins at page p (every page of a segment lies in exactly one run). */
dmi_run *_dmi_segment_run(const dmi_segment *segment, size_t page);

/* ---- pages: safe for the owner of the run without the space's lock ------------------------------ */

/* Commit what is not committed in [first, first+count), and take back what is offered. 0 or ENOMEM, then
 * the range is as it was. */
int _dmi_pages_commit(dmi_segment *segment, size_t first, size_t count);
/* Let every access to these uncommitted pages fault. False: the OS refuses that, or it would cut too many mappings. */
bool _dmi_pages_fence(dmi_segment *segment, size_t first, size_t count);
/* Undo that, of pages that were fenced side by side. False: the OS refuses it. */
bool _dmi_pages_unfence(dmi_segment *segment, size_t first, size_t count);
/* The same for what lies between metadata and user pages, in a fenced space. */
void _dmi_segment_fence(dmi_segment *segment);
/* Note that [first, first+count) was decommitted by the OS layer (bits, ledger). */
void _dmi_pages_note_decommit(dmi_segment *segment, size_t first, size_t count, uint64_t calls);
/* Decommit one range of committed pages now, as the space's mode has it. 0 or an errno: then still
 * committed. */
int _dmi_pages_decommit(dmi_segment *segment, size_t first, size_t count);
/* At most this many pieces of mappings in the process (0: half of what the OS allows); beyond that, and where
 * the OS says ENOMEM, a decommit discards and marks the pages soft, and a fence is not made. */
void _dmi_set_map_limit(uint64_t most);
/* The segment's pages or units changed their kind otherwise (a change of mode, release): count afresh. */
void _dmi_segment_recount_cuts(dmi_segment *segment, bool strict);
/* Count the mappings that a unit's change between whole and split makes; false: too many. */
bool _dmi_segment_cut_unit(dmi_segment *segment, size_t unit);
/* Offer one range of committed pages. */
int _dmi_pages_offer(dmi_segment *segment, size_t first, size_t count);
/* A look (a pass, a walk for statistics) found these pages free: those of them that are committed and were
 * not found free before are taken to be free since then (ns of the heap's clock). */
void _dmi_pages_note_free(dmi_segment *segment, size_t first, size_t count, uint64_t since);
/* They are in use, or may have been since the last look: what is known about their age is void. */
void _dmi_pages_forget(dmi_segment *segment, size_t first, size_t count);
/* Give a page of the segment's busy counters a home. 0 or ENOMEM. */
int _dmi_segment_need_page_busy(dmi_segment *segment);

/* The space is to become LAZY: let the metadata that was never committed be writable. 0 or an errno. */
int _dmi_segment_open_metadata(dmi_segment *segment);

/* ---- huge pages: huge.c ---------------------------------------------------------------------------
 * With the option the user pages begin at a multiple of DMI_HUGE, and each such unit is either whole, backed
 * by one huge page if the system has one to spare, or split. Pages of a whole unit never go alone. */

#define DMI_HUGE ((size_t)2 << 20)

/* At least this share of a unit must be free before it is split. */
#define DMI_HUGE_SPLIT 0.25
static inline unsigned _dmi_unit_shift(void) { return 21 - _dmi_page_shift; }
static inline size_t _dmi_unit_pages(void) { return (size_t)1 << _dmi_unit_shift(); }
/* May this page not go alone? */
static inline bool _dmi_unit_whole(const dmi_segment *s, size_t page) {
    size_t unit = page >> _dmi_unit_shift();
    return unit < s->units && !_dmi_bits_get(s->split, unit);
}
/* Is it due, and stays because its unit is whole? */
static inline bool _dmi_page_deferred(const dmi_segment *s, size_t page) {
    return s->units && _dmi_bits_get(s->deferred, page);
}
/* Tell the OS which units may be backed by huge pages. */
void _dmi_units_advise(dmi_segment *segment);
/* Mark a whole unit split and opening. False: no mappings are left for it. Heap locked. */
bool _dmi_segment_split_unit(dmi_segment *segment, size_t unit);
/* Let the system know that a unit was split: afterwards its pages can go one by one. No lock, but the
 * segment must stay. */
void _dmi_unit_break(dmi_segment *segment, size_t unit);
/* Let a split unit be whole again. empty: nothing in it is committed, and nobody can commit meanwhile. Heap
 * locked. */
void _dmi_unit_join(dmi_segment *segment, size_t unit, bool empty);
/* Decommit units in which nothing is busy, and nobody can commit meanwhile. Returns the bytes that are no
 * longer committed. Heap locked. */
uint64_t _dmi_units_decommit(dmi_segment *segment, size_t unit, size_t count);
/* A huge page may lie behind uncommitted pages too: forget what is behind those of [first, first+count) that
 * lie in units which are opening. Whoever could commit them is locked out. */
void _dmi_units_forget(dmi_segment *segment, size_t first, size_t count);

static inline bool _dmi_page_usable(const dmi_segment *s, size_t page) {
    return _dmi_bits_get(s->committed, page) && !_dmi_bits_get(s->offered, page);
}
/* Since when looks have found a committed page free, 1/16 s; 0: the last one did not, or there was none. */
static inline uint32_t _dmi_page_free_since(const dmi_segment *s, size_t page) {
    return s->has_given_at && _dmi_bits_get(s->committed, page) ? s->given_at[page] : 0;
}
static inline size_t _dmi_run_committed(const dmi_run *run) {
    return _dmi_bits_count(run->segment->committed, run->first, run->pages) << _dmi_page_shift;
}
#endif
