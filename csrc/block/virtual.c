/* virtual.c - virtual blocks: made, kept, joined, cut, grown, released. */
#include "virtual.h"

#include "../os/lock.h"
#include "../segment/pool.h"

/* A segment of one run. It has no bitmaps, because all its pages share one state. */
typedef struct virtual_block {
    dmi_segment segment;
    dmi_run run;
    size_t seen; /* bytes that were resident at the last look */
} virtual_block;

static dmi_lock pool_lock;
static dmi_pool pool = {.name = "dmi-virtual", .item = 512, .chunk = 4096};
_Static_assert(sizeof(virtual_block) <= 512, "a virtual block's descriptor fits its pool");

static virtual_block *of(dmi_run *run) {
    return (virtual_block *)(void *)((char *)run - offsetof(virtual_block, run));
}

static void add(_Atomic uint64_t *counter, uint64_t n) {
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* ---- lists ------------------------------------------------------------------------------------------- */

static void link_behind(dmi_run **list, dmi_run *before, dmi_run *run) {
    run->prev = before;
    run->next = before ? before->next : *list;
    if (run->next) run->next->prev = run;
    if (before) before->next = run;
    else *list = run;
}

static void unlink_from(dmi_run **list, dmi_run *run) {
    if (run->prev) run->prev->next = run->next;
    else *list = run->next;
    if (run->next) run->next->prev = run->prev;
}

static void link_kept(dmi_space *space, dmi_run *run) {
    dmi_run *before = NULL;
    for (dmi_run *at = space->kept; at && at->segment->base < run->segment->base; at = at->next)
        before = at;
    run->flags |= DMI_RUN_KEPT;
    space->kept_bytes += run->segment->size;
    link_behind(&space->kept, before, run);
}

static void unlink_kept(dmi_space *space, dmi_run *run) {
    run->flags &= (uint8_t)~DMI_RUN_KEPT;
    space->kept_bytes -= run->segment->size;
    unlink_from(&space->kept, run);
}

/* seen: bytes that count as resident without a look, such as those that were kept. */
static void link_busy(dmi_space *space, dmi_run *run, size_t seen) {
    of(run)->seen = seen;
    space->unseen += run->segment->size - seen;
    link_behind(&space->virtuals, NULL, run);
}

static void unlink_busy(dmi_space *space, dmi_run *run) {
    space->unseen -= run->segment->size - of(run)->seen;
    unlink_from(&space->virtuals, run);
}

/* ---- descriptors ------------------------------------------------------------------------------------- */

static virtual_block *new_block(dmi_space *space) {
    _dmi_lock(&pool_lock);
    virtual_block *block = _dmi_pool_alloc(&pool);
    _dmi_unlock(&pool_lock);
    if (block) space->virtual_meta += pool.item;
    return block;
}

static void recycle(virtual_block *block) {
    _dmi_lock(&pool_lock);
    _dmi_pool_free(&pool, block);
    _dmi_unlock(&pool_lock);
}

static void free_block(dmi_space *space, virtual_block *block) {
    space->virtual_meta -= pool.item;
    recycle(block);
}

static void set_size(dmi_run *run, size_t bytes) {
    dmi_segment *segment = run->segment;
    segment->size = bytes;
    segment->reserved = bytes + _dmi_fence_size(segment->space);
    segment->pages = bytes >> _dmi_page_shift;
    run->pages = (uint32_t)segment->pages;
}

/* Fill in the descriptor of a block. The caller has added its first page to the page map. */
static dmi_run *describe(dmi_space *space, virtual_block *block, char *base, size_t bytes) {
    dmi_run *run = &block->run;
    block->segment.space = space;
    block->segment.base = block->segment.reservation = base;
    run->segment = &block->segment;
    run->kind = DMI_RUN_VIRTUAL;
    set_size(run, bytes);
    atomic_store_explicit(&run->owner, DMI_OWNER_NONE, memory_order_relaxed);
    _dmi_pagemap_set(base, _dmi_page, run);
    return run;
}

/* ---- cutting and joining ----------------------------------------------------------------------------- */

/* Cut a block in two behind its first bytes. It is in no list, nor is the second part, which is returned. NULL:
 * nothing changed. */
static dmi_run *cut(dmi_space *space, dmi_run *run, size_t bytes) {
    char *base = run->segment->base;
    size_t size = run->segment->size;
    virtual_block *block = new_block(space);
    if (!block) return NULL;
    if (_dmi_pagemap_add(base + bytes, _dmi_page)) goto fail;
    if (!_dmi_os_split(base, size, bytes)) {
        _dmi_pagemap_count_out(base + bytes, _dmi_page);
        goto fail;
    }
    dmi_run *rest = describe(space, block, base + bytes, size - bytes);
    rest->freed_at = run->freed_at;
    rest->segment->has_given_at = run->segment->has_given_at;
    set_size(run, bytes);
    return rest;
fail:
    free_block(space, block);
    return NULL;
}

static bool beside(const dmi_run *left, const dmi_run *right) {
    return left->segment->base + left->segment->size == right->segment->base;
}

/* Join a block with the one right behind it; both are in no list. False: nothing changed. */
static bool join(dmi_space *space, dmi_run *left, dmi_run *right) {
    dmi_segment *a = left->segment, *b = right->segment;
    if (!_dmi_os_join(a->base, a->size, b->size)) return false;
    _dmi_pagemap_remove(b->base, _dmi_page);
    set_size(left, a->size + b->size);
    free_block(space, of(right));
    return true;
}

static bool unoffer(dmi_space *space, dmi_run *run) {
    if (!run->segment->has_given_at) return true;
    if (_dmi_os_unoffer(run->segment->base, run->segment->size)) return false;
    add(&space->ledger.unoffer_bytes, run->segment->size);
    run->segment->has_given_at = false;
    return true;
}

/* Cut off what a kept block has beyond bytes, if that is worth it. False: it would be, and cannot be cut. */
static bool cut_kept(dmi_space *space, dmi_run *run, size_t bytes) {
    if (run->segment->size < bytes + DMI_VIRTUAL_PIECE) return true;
    unlink_kept(space, run);
    dmi_run *rest = cut(space, run, bytes);
    link_kept(space, run);
    if (rest) link_kept(space, rest);
    return rest != NULL;
}

/* ---- reuse ------------------------------------------------------------------------------------------- */

/* Bytes of the kept blocks that lie side by side from first on. *last is the last of them. */
static size_t row(dmi_run *first, dmi_run **last) {
    size_t bytes = first->segment->size;
    for (*last = first; (*last)->next && beside(*last, (*last)->next); *last = (*last)->next)
        bytes += (*last)->next->segment->size;
    return bytes;
}

/* The first block of the shortest row of kept blocks that holds size bytes; NULL: none does. */
static dmi_run *best_row(const dmi_space *space, size_t size, size_t align) {
    dmi_run *best = NULL, *last;
    size_t best_size = SIZE_MAX;
    bool may_cut = _dmi_os_can_trim();
    for (dmi_run *run = space->kept; run; run = may_cut ? last->next : run->next) {
        size_t have = run->segment->size;
        last = run;
        if (may_cut) have = row(run, &last);
        else if (have > size && have - size > size / 8) continue; /* it cannot be cut: too large */
        if (have < size || have >= best_size) continue;
        if ((uintptr_t)run->segment->base & (align - 1)) continue;
        best = run;
        best_size = have;
    }
    return best;
}

static size_t rounded(const dmi_space *space, size_t size) {
    size_t to = space->huge ? DMI_HUGE : _dmi_page,
           bytes = (size + _dmi_page - 1) & ~(_dmi_page - 1);
    size_t wide = (bytes + to - 1) & ~(to - 1);
    return bytes < size || bytes >> _dmi_page_shift > UINT32_MAX ? 0 : wide < bytes ? bytes : wide;
}

static size_t alignment(const dmi_space *space, size_t align) {
    if (align < _dmi_os_granularity()) align = _dmi_os_granularity();
    return space->huge && align < DMI_HUGE ? DMI_HUGE : align;
}

/* Make the row of kept blocks that begins at run one kept block of bytes, or a little more. False: it cannot be done;
 * the row may be cut or joined at other places, and is kept as before. */
static bool gather(dmi_space *space, dmi_run *run, size_t bytes) {
    while (run->segment->size < bytes) {
        dmi_run *next = run->next;
        size_t missing = bytes - run->segment->size;
        if (!cut_kept(space, next, missing) && next->segment->size - missing > missing / 8)
            return false;
        if (!unoffer(space, run) || !unoffer(space, next)) return false;
        uint64_t freed_at = run->freed_at < next->freed_at ? next->freed_at : run->freed_at;
        unlink_kept(space, run);
        unlink_kept(space, next);
        bool joined = join(space, run, next);
        if (joined) run->freed_at = freed_at;
        link_kept(space, run);
        if (!joined) {
            link_kept(space, next);
            return false;
        }
    }
    size_t more = run->segment->size - bytes;
    if (!cut_kept(space, run, bytes) && more > bytes / 8) return false;
    return unoffer(space, run);
}

dmi_run *_dmi_virtual_reuse(dmi_space *space, size_t size, size_t align) {
    size_t bytes = rounded(space, size);
    dmi_run *run = bytes ? best_row(space, bytes, alignment(space, align)) : NULL;
    if (!run || !gather(space, run, bytes)) return NULL;
    unlink_kept(space, run);
    link_busy(space, run, run->segment->size);
    return run;
}

/* ---- making and releasing ---------------------------------------------------------------------------- */

dmi_run *_dmi_virtual_map(dmi_space *space, size_t size, size_t align) {
    size_t bytes = (size + _dmi_page - 1) & ~(_dmi_page - 1);
    if (bytes < size || bytes >> _dmi_page_shift > UINT32_MAX) return NULL;
    if (space->max_reserved && space->reserved + bytes > space->max_reserved) return NULL;
    virtual_block *block = new_block(space);
    if (!block) return NULL;
    size_t reserved = bytes + _dmi_fence_size(space);
    char *base =
        _dmi_os_reserve(reserved, alignment(space, align), space->mode, space->huge, space->name);
    if (!base) goto fail;
    if (_dmi_os_commit(base, bytes, space->mode)) goto fail_reserved;
    if (_dmi_pagemap_add(base, _dmi_page)) {
        _dmi_os_uncount(bytes);
        goto fail_reserved;
    }
    dmi_run *run = describe(space, block, base, bytes);
    if (space->fenced) (void)_dmi_pages_fence(&block->segment, block->segment.pages, 1);
    space->reserved += bytes;
    add(&space->ledger.commit_calls, 1);
    add(&space->ledger.commit_bytes, bytes);
    link_busy(space, run, 0);
    return run;
fail_reserved:
    (void)_dmi_os_release(base, reserved);
fail:
    free_block(space, block);
    return NULL;
}

/* Release a block that is in no list. Nobody finds it from here on; only the system still has it mapped. */
static void destroy(dmi_space *space, dmi_run *run) {
    size_t bytes = run->segment->size;
    if (space->fenced) _dmi_segment_recount_cuts(run->segment, false);
    _dmi_pagemap_remove(run->segment->base, _dmi_page);
    _dmi_os_uncount(bytes);
    space->reserved -= bytes;
    space->virtual_meta -= pool.item;
    add(&space->ledger.decommit_calls, 1);
    add(&space->ledger.decommit_bytes, bytes);
    run->next = space->leaving;
    space->leaving = run;
}

dmi_run *_dmi_virtual_take_leaving(dmi_space *space) {
    dmi_run *all = space->leaving;
    space->leaving = NULL;
    return all;
}

void _dmi_virtual_unmap(dmi_run *leaving) {
    while (leaving) {
        dmi_run *next = leaving->next;
        (void)_dmi_os_release(leaving->segment->base, leaving->segment->reserved);
        recycle(of(leaving));
        leaving = next;
    }
}

void _dmi_virtual_release(dmi_space *space, dmi_run *run) {
    unlink_busy(space, run);
    destroy(space, run);
}

bool _dmi_virtual_close(dmi_space *space, dmi_run *run, dmi_os_range *range) {
    char *base = run->segment->base;
    size_t bytes = run->segment->size;
    unlink_busy(space, run);
    if (_dmi_os_decommit(base, bytes, space->mode)) {
        destroy(space, run);
        return false;
    }
    if (space->mode == DMI_OS_LAZY) (void)_dmi_os_convert(base, bytes, DMI_OS_STRICT);
    if (space->fenced) _dmi_segment_recount_cuts(run->segment, false);
    _dmi_pagemap_remove(base, _dmi_page);
    space->reserved -= bytes;
    add(&space->ledger.decommit_calls, 1);
    add(&space->ledger.decommit_bytes, bytes);
    free_block(space, of(run));
    *range = (dmi_os_range){base, bytes + _dmi_fence_size(space)};
    return true;
}

void _dmi_virtual_drop(dmi_space *space, dmi_run *run) {
    unlink_kept(space, run);
    destroy(space, run);
}

/* Bytes of the longest row of kept blocks that is shorter than size. */
static size_t longest_row(const dmi_space *space, size_t size) {
    dmi_run *last;
    size_t best = 0;
    for (dmi_run *run = space->kept; run; run = last->next) {
        size_t have = row(run, &last);
        if (have > best && have < size) best = have;
    }
    return best;
}

dmi_run *_dmi_virtual_extend(dmi_space *space, size_t size, size_t align) {
    size_t bytes = rounded(space, size);
    if (!bytes || space->huge || !space->kept || !_dmi_os_can_trim()) return NULL;
    size_t there = longest_row(space, bytes);
    if (there < bytes / 4) return NULL;
    dmi_run *run = _dmi_virtual_map(space, bytes - there, align), *last;
    if (!run) return NULL;
    /* The OS tends to place a mapping right below the one before, or at the upper end of a hole. */
    dmi_run *right = space->kept;
    while (right && !beside(run, right)) right = right->next;
    if (right && row(right, &last) >= there && gather(space, right, there)) {
        size_t more = right->segment->size;
        unlink_kept(space, right);
        if (join(space, run, right)) {
            of(run)->seen += more;
            return run;
        }
        link_kept(space, right);
    }
    _dmi_virtual_release(space, run);
    return NULL;
}

size_t _dmi_virtual_drop_part(dmi_space *space, dmi_run *run, size_t bytes) {
    size_t size = run->segment->size;
    bytes = rounded(space, bytes);
    if (bytes && bytes < size && size - bytes >= DMI_VIRTUAL_PIECE) {
        unlink_kept(space, run);
        dmi_run *rest = cut(space, run, bytes);
        link_kept(space, rest ? rest : run);
        if (rest) {
            destroy(space, run);
            return bytes;
        }
    }
    _dmi_virtual_drop(space, run);
    return size;
}

void _dmi_virtual_keep(dmi_space *space, dmi_run *run) {
    unlink_busy(space, run);
    run->freed_at = _dmi_space_clock(space);
    link_kept(space, run);
}

int _dmi_virtual_offer(dmi_space *space, dmi_run *run) {
    if (run->segment->has_given_at) return 0;
    int error = _dmi_os_offer(run->segment->base, run->segment->size);
    if (error) {
        add(&space->ledger.refused_calls, 1);
        return error;
    }
    run->segment->has_given_at = true;
    add(&space->ledger.offer_calls, 1);
    add(&space->ledger.offer_bytes, run->segment->size);
    return 0;
}

/* ---- growing ----------------------------------------------------------------------------------------- */

/* Move to a larger mapping. All that can fail is done before the pages move. */
static bool move(dmi_space *space, dmi_run *run, size_t bytes) {
    dmi_segment *segment = run->segment;
    char *from = segment->base;
    size_t old = segment->size, more = bytes - old;
    char *to = _dmi_os_reserve(bytes, alignment(space, 1), space->mode, space->huge, space->name);
    if (!to) return false;
    if (_dmi_os_commit(to + old, more, space->mode)) {
        (void)_dmi_os_release(to, bytes);
        return false;
    }
    if (_dmi_pagemap_add(to, _dmi_page)) {
        _dmi_os_uncount(more);
        (void)_dmi_os_release(to, bytes);
        return false;
    }
    /* As soon as the pages have moved, the old addresses may belong to another heap. */
    _dmi_pagemap_set(from, _dmi_page, &_dmi_no_run);
    if (_dmi_os_move(from, old, to, bytes)) {
        _dmi_os_uncount(more);
        _dmi_pagemap_count_out(to, _dmi_page);
        _dmi_pagemap_set(from, _dmi_page, run);
        return false;
    }
    _dmi_pagemap_count_out(from, _dmi_page);
    segment->base = segment->reservation = to;
    _dmi_pagemap_set(to, _dmi_page, run);
    return true;
}

/* Grow into the kept blocks right behind. */
static bool take_in(dmi_space *space, dmi_run *run, size_t bytes) {
    dmi_run *right = space->kept, *last;
    size_t missing = bytes - run->segment->size;
    if (space->huge) return false; /* the rest would not begin at a huge page */
    while (right && !beside(run, right)) right = right->next;
    if (!right || row(right, &last) < missing || !gather(space, right, missing)) return false;
    size_t more = right->segment->size;
    unlink_kept(space, right);
    if (!join(space, run, right)) {
        link_kept(space, right);
        return false;
    }
    of(run)->seen += more;
    return true;
}

static void note_growth(dmi_space *space, size_t more) {
    space->reserved += more;
    space->unseen += more;
    add(&space->ledger.commit_calls, 1);
    add(&space->ledger.commit_bytes, more);
}

static bool shrink(dmi_space *space, dmi_run *run, size_t bytes) {
    size_t less = run->segment->size - bytes;
    if (!_dmi_os_remap(run->segment->base, run->segment->size, bytes, false)) return false;
    _dmi_os_uncount(less);
    space->unseen -= run->segment->size - of(run)->seen;
    set_size(run, bytes);
    if (of(run)->seen > bytes) of(run)->seen = bytes;
    space->unseen += bytes - of(run)->seen;
    space->reserved -= less;
    add(&space->ledger.decommit_calls, 1);
    add(&space->ledger.decommit_bytes, less);
    return true;
}

bool _dmi_virtual_resize(dmi_space *space, dmi_run *run, size_t size, bool may_move) {
    dmi_segment *segment = run->segment;
    size_t old = segment->size, bytes = (size + _dmi_page - 1) & ~(_dmi_page - 1);
    if (bytes == old) return true;
    if (space->fenced) return false;
    if (bytes < size || bytes >> _dmi_page_shift > UINT32_MAX || space->mode != DMI_OS_LAZY)
        return false;
    if (bytes < old) return shrink(space, run, bytes);
    if (take_in(space, run, bytes)) return true;
    if (space->max_reserved && space->reserved + (bytes - old) > space->max_reserved) return false;
    if (_dmi_os_remap(segment->base, old, bytes, false)) {
        if (_dmi_os_commit(segment->base + old, bytes - old, space->mode)) {
            (void)_dmi_os_remap(segment->base, bytes, old, false);
            return false;
        }
    } else if (!may_move || !move(space, run, bytes)) {
        return false;
    }
    set_size(run, bytes);
    note_growth(space, bytes - old);
    return true;
}

/* ---- looking ----------------------------------------------------------------------------------------- */

#define LOOKS 8                   /* blocks of which one look asks */
#define PROBES 64                 /* places at which a large one is asked */
#define PROBE ((size_t)256 << 10) /* bytes asked at each place */

/* About how many bytes of a block are resident. Where the OS does not tell, all of them count. */
static size_t resident(const dmi_segment *segment) {
    size_t size = segment->size, step = size / PROBES & ~(_dmi_page - 1), sum = 0;
    if (size <= PROBES * PROBE) {
        int64_t told = _dmi_os_resident(segment->base, size);
        return told < 0 ? size : (size_t)told;
    }
    for (size_t i = 0; i < PROBES; i++) {
        int64_t told = _dmi_os_resident(segment->base + i * step, PROBE);
        if (told < 0) return size;
        sum += (size_t)told;
    }
    return (size_t)((double)sum / (double)(PROBES * PROBE) * (double)size);
}

void _dmi_virtual_look(dmi_space *space) {
    int looks = 0;
    for (dmi_run *run = space->virtuals; run && looks < LOOKS; run = run->next) {
        virtual_block *block = of(run);
        if (block->seen >= run->segment->size) continue;
        looks++;
        size_t now = resident(run->segment);
        if (now <= block->seen) continue;
        space->unseen -= now - block->seen;
        block->seen = now;
    }
}

void _dmi_virtual_release_all(dmi_space *space) {
    while (space->virtuals) _dmi_virtual_release(space, space->virtuals);
    while (space->kept) _dmi_virtual_drop(space, space->kept);
    _dmi_virtual_unmap(_dmi_virtual_take_leaving(space));
}

size_t _dmi_virtual_metadata(void) { return pool.live_bytes; }
void _dmi_virtual_lock(void) { _dmi_lock(&pool_lock); }
void _dmi_virtual_unlock(void) { _dmi_unlock(&pool_lock); }
