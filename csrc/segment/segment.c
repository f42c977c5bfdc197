/* segment.c - reserving and releasing segments; handing out and coalescing runs of pages. */
#include "segment.h"

#include <errno.h>
#include <string.h>

#define FIRST_SEGMENT ((size_t)2 << 20)

int _dmi_space_setup(void) {
    if (!_dmi_page) {
        size_t page = _dmi_os_page_size();
        _dmi_page_shift = (unsigned)__builtin_ctzll(page);
        _dmi_page = page;
    }
    return _dmi_pagemap_setup();
}

void _dmi_space_init(dmi_space *space, dmi_os_mode mode, bool huge, const char *name,
                     uint64_t max_reserved) {
    memset(space, 0, sizeof *space);
    space->mode = mode;
    space->huge = huge && _dmi_os_has_huge();
    _dmi_space_set_split(space, DMI_HUGE_SPLIT);
    space->name = name;
    space->max_reserved = max_reserved;
    space->next_segment = FIRST_SEGMENT;
}

void _dmi_space_set_split(dmi_space *space, double share) {
    double pages = share * (double)_dmi_unit_pages();
    space->huge_split = share;
    space->huge_need = (size_t)pages;
    if ((double)space->huge_need < pages) space->huge_need++;
}

/* ---- bins --------------------------------------------------------------------------------------- */

static size_t bin_of(size_t pages) {
    if (pages < 64) return pages;
    unsigned log = 63 - (unsigned)__builtin_clzll(pages);
    size_t bin = 64 + (log - 6) * 8 + ((pages >> (log - 3)) & 7);
    return bin < DMI_BINS ? bin : DMI_BINS - 1;
}

/* Runs are cut from the front, so that is where it matters. */
static dmi_warmth warmth(const dmi_run *run) {
    return _dmi_bits_get(run->segment->committed, run->first) ? DMI_WARM : DMI_COLD;
}

static void bin_insert(dmi_space *space, dmi_run *run) {
    size_t bin = bin_of(run->pages);
    run->place = (uint8_t)warmth(run);
    dmi_run **bins = space->bins[run->place];
    run->prev = NULL;
    run->next = bins[bin];
    if (run->next) run->next->prev = run;
    bins[bin] = run;
    space->bin_map[run->place][bin / 64] |= UINT64_C(1) << (bin % 64);
}

static void bin_remove(dmi_space *space, dmi_run *run) {
    size_t bin = bin_of(run->pages);
    dmi_run **bins = space->bins[run->place];
    if (run->prev) run->prev->next = run->next;
    else bins[bin] = run->next;
    if (run->next) run->next->prev = run->prev;
    if (!bins[bin]) space->bin_map[run->place][bin / 64] &= ~(UINT64_C(1) << (bin % 64));
}

void _dmi_run_note_cold(dmi_space *space, dmi_run *run) {
    if (run->place == DMI_COLD || warmth(run) == DMI_WARM) return;
    bin_remove(space, run);
    bin_insert(space, run);
}

/* Pages at the front of a free run that must be skipped for the alignment. */
static size_t skip_for(const dmi_run *run, size_t align_pages) {
    uintptr_t page = ((uintptr_t)run->segment->base >> _dmi_page_shift) + run->first;
    return (size_t)(-page & (align_pages - 1));
}

/* The smallest free run of a warmth that fits, of equals the one freed last: the processor's caches have it. */
static dmi_run *best_fit(dmi_space *space, dmi_warmth warm, size_t pages, size_t align_pages) {
    for (size_t bin = bin_of(pages); bin < DMI_BINS; bin++) {
        uint64_t word = space->bin_map[warm][bin / 64] >> (bin % 64);
        if (!word) {
            bin = bin / 64 * 64 + 63;
            continue;
        }
        bin += (size_t)__builtin_ctzll(word);
        dmi_run *best = NULL;
        int looked = 0;
        for (dmi_run *run = space->bins[warm][bin]; run && looked < 64; run = run->next, looked++) {
            if (run->pages < pages + skip_for(run, align_pages)) continue;
            if (!best || run->pages < best->pages) best = run;
            if (best->pages == pages) return best;
        }
        if (best) return best;
    }
    return NULL;
}

bool _dmi_space_has_warm(dmi_space *space, size_t pages) {
    return best_fit(space, DMI_WARM, pages, 1) != NULL;
}

/* Pages that are committed anyway come first, wherever they are: a smaller run that nobody touched yet would
 * raise the peak while others lie idle. */
static dmi_run *bin_search(dmi_space *space, size_t pages, size_t align_pages) {
    dmi_run *run = best_fit(space, DMI_WARM, pages, align_pages);
    return run ? run : best_fit(space, DMI_COLD, pages, align_pages);
}

/* ---- descriptors ---------------------------------------------------------------------------------- */

static int commit_meta(dmi_segment *segment, size_t end) {
    size_t want = (end + _dmi_page - 1) & ~(_dmi_page - 1);
    if (want <= segment->meta_committed) return 0;
    int error = _dmi_os_commit(segment->reservation + segment->meta_committed,
                               want - segment->meta_committed, segment->space->mode);
    if (!error) segment->meta_committed = want;
    return error;
}

static dmi_run *descriptor_alloc(dmi_segment *segment) {
    dmi_run *run = segment->spare_runs;
    if (run) {
        segment->spare_runs = run->next;
    } else {
        run = segment->runs + segment->runs_used;
        if (commit_meta(segment, (size_t)((char *)(run + 1) - segment->reservation))) return NULL;
        segment->runs_used++;
    }
    /* The segment never changes, so that a stale pointer to a descriptor can be followed that far. */
    memset((void *)run, 0, offsetof(dmi_run, segment));
    __atomic_store_n(&run->segment, segment, __ATOMIC_RELAXED);
    run->freed_at = 0;
    atomic_store_explicit(&run->remote, 0, memory_order_relaxed);
    atomic_store_explicit(&run->pending_next, NULL, memory_order_relaxed);
    atomic_store_explicit(&run->cache, NULL, memory_order_relaxed);
    run->next = run->prev = run->taken_next = NULL;
    atomic_store_explicit(&run->owner, DMI_OWNER_NONE, memory_order_relaxed);
    return run;
}

static void descriptor_free(dmi_run *run) {
    run->kind = DMI_RUN_NONE;
    run->next = run->segment->spare_runs;
    run->segment->spare_runs = run;
}

/* Let the page map know where a free run begins and ends; its inside belongs to nobody. */
static void map_free(dmi_run *run) {
    char *base = _dmi_run_base(run);
    _dmi_pagemap_set(base, _dmi_page, run);
    _dmi_pagemap_set(base + _dmi_run_size(run) - _dmi_page, _dmi_page, run);
}

dmi_run *_dmi_segment_run(const dmi_segment *segment, size_t page) {
    return _dmi_pagemap_find(segment->base + (page << _dmi_page_shift));
}

/* ---- segments --------------------------------------------------------------------------------------- */

static size_t align_up(size_t n, size_t to) { return (n + to - 1) & ~(to - 1); }

#define BITMAPS 6

static size_t whole_units(const dmi_space *space, size_t pages) {
    return space->huge ? pages >> _dmi_unit_shift() : 0;
}

/* Bytes of metadata for a segment of that many pages, with the fence behind it; *runs_at: where descriptors begin. */
static size_t meta_size(const dmi_space *space, size_t pages, size_t *runs_at) {
    size_t words = BITMAPS * _dmi_bits_words(pages), units = whole_units(space, pages);
    if (units) words += _dmi_bits_words(pages) + 2 * _dmi_bits_words(units);
    size_t bitmaps = words * sizeof(uint64_t);
    *runs_at = align_up(sizeof(dmi_segment) + bitmaps, 128);
    size_t counters = align_up(pages * sizeof(uint16_t), _dmi_page) +
                      align_up(pages * sizeof(uint32_t), _dmi_page);
    return align_up(*runs_at + (pages + 1) * sizeof(dmi_run), _dmi_page) + counters +
           _dmi_fence_size(space);
}

static dmi_segment *segment_create(dmi_space *space, size_t pages) {
    size_t runs_at, meta = meta_size(space, pages, &runs_at), size = pages << _dmi_page_shift;
    size_t units = whole_units(space, pages), align = _dmi_os_granularity();
    if (space->max_reserved && space->reserved + size > space->max_reserved) return NULL;
    if (units) {
        align = align > DMI_HUGE ? align : DMI_HUGE;
        meta = align_up(meta, align);
    }
    char *reservation =
        _dmi_os_reserve_in_order(meta + size, align, space->mode, units != 0, space->name);
    if (!reservation) return NULL;
    /* Not worth failing for. */
    if (space->mode == DMI_OS_LAZY) (void)_dmi_os_convert(reservation, meta, DMI_OS_SPARSE);
    /* Before the first touch, which would bring 2 MiB. */
    if (units) _dmi_os_advise_huge(reservation, meta, false);
    size_t head = align_up(runs_at + sizeof(dmi_run), _dmi_page);
    if (_dmi_os_commit(reservation, head, space->mode)) goto fail;
    if (_dmi_pagemap_add(reservation + meta, size)) {
        _dmi_os_uncount(head);
        goto fail;
    }
    dmi_segment *segment = (dmi_segment *)(void *)reservation;
    size_t words = _dmi_bits_words(pages);
    dmi_bits *bits = (dmi_bits *)(void *)(segment + 1);
    segment->space = space;
    segment->base = reservation + meta;
    segment->size = size;
    segment->pages = pages;
    segment->reservation = reservation;
    segment->reserved = meta + size;
    segment->meta_committed = head;
    segment->committed = bits;
    segment->offered = bits + words;
    segment->aged = bits + 2 * words;
    segment->touched = bits + 3 * words;
    segment->soft = bits + 4 * words;
    segment->refused = bits + 5 * words;
    segment->units = units;
    if (units) {
        segment->deferred = bits + 6 * words;
        segment->split = bits + 7 * words;
        segment->opening = segment->split + _dmi_bits_words(units);
        _dmi_units_advise(segment);
    }
    segment->meta_end = segment->base - _dmi_fence_size(space);
    _dmi_segment_fence(segment);
    segment->page_busy = (uint16_t *)(void *)(segment->meta_end - align_up(pages * 2, _dmi_page));
    segment->given_at =
        (uint32_t *)(void *)((char *)segment->page_busy - align_up(pages * 4, _dmi_page));
    segment->runs = (dmi_run *)(void *)(reservation + runs_at);
    dmi_run *run = descriptor_alloc(segment); /* its page is committed: cannot fail */
    run->kind = DMI_RUN_FREE;
    run->pages = (uint32_t)pages;
    map_free(run);
    bin_insert(space, run);
    segment->prev = space->last_segment;
    if (segment->prev) segment->prev->next = segment;
    else space->segments = segment;
    space->last_segment = segment;
    space->segment_count++;
    space->reserved += size;
    return segment;
fail:
    (void)_dmi_os_release(reservation, meta + size);
    return NULL;
}

/* A segment with room for pages + align_pages; smaller than usual where the OS or max_reserved
 * leaves less. */
static bool segment_grow(dmi_space *space, size_t pages, size_t align_pages) {
    size_t need = (pages + align_pages - 1) << _dmi_page_shift;
    size_t want = space->next_segment > need ? space->next_segment : need;
    if (space->huge) want = align_up(want, DMI_HUGE);
    if (space->max_reserved && space->reserved + want > space->max_reserved)
        want = (space->max_reserved - space->reserved) & ~(_dmi_page - 1);
    for (; want >= need && want; want = want / 2 & ~(_dmi_page - 1)) {
        if (segment_create(space, want >> _dmi_page_shift)) {
            if (space->next_segment < DMI_SEGMENT_LARGEST) space->next_segment *= 2;
            return true;
        }
        if (want == need) break;
        if (want / 2 < need) want = need * 2;
    }
    return false;
}

static void segment_release(dmi_space *space, dmi_segment *segment) {
    if (segment->prev) segment->prev->next = segment->next;
    else space->segments = segment->next;
    if (segment->next) segment->next->prev = segment->prev;
    else space->last_segment = segment->prev;
    space->segment_count--;
    space->reserved -= segment->size;
    _dmi_pagemap_remove(segment->base, segment->size);
    if (segment->units) _dmi_bits_put(segment->split, 0, segment->units, false);
    _dmi_segment_recount_cuts(segment, false);
    size_t counts = (size_t)(segment->meta_end - (char *)segment->page_busy);
    size_t times = (size_t)((char *)segment->page_busy - (char *)segment->given_at);
    size_t user = _dmi_bits_count(segment->committed, 0, segment->pages) << _dmi_page_shift;
    _dmi_os_uncount(segment->meta_committed + user + (segment->has_given_at ? times : 0) +
                    (segment->has_page_busy ? counts : 0));
    (void)_dmi_os_release(segment->reservation, segment->reserved);
}

void _dmi_space_release(dmi_space *space) {
    while (space->segments) segment_release(space, space->segments);
    memset(space->bins, 0, sizeof space->bins);
    memset(space->bin_map, 0, sizeof space->bin_map);
}

static _Atomic uint32_t guards;
static bool (*others_guard)(void);

void _dmi_segments_ask_guards(bool (*guarded)(void)) { others_guard = guarded; }

void _dmi_segments_guard(void) {
    atomic_fetch_add_explicit(&guards, 1, memory_order_seq_cst);
    atomic_thread_fence(memory_order_seq_cst);
}
void _dmi_segments_forget_guards(void) { atomic_store_explicit(&guards, 0, memory_order_relaxed); }
void _dmi_segments_unguard(void) { atomic_fetch_sub_explicit(&guards, 1, memory_order_release); }

/* Take a free segment off the page map, unless somebody may have read it there already: whoever guards from
 * now on reads that nobody owns these addresses. */
static bool unmap_free(dmi_run *run) {
    _dmi_pagemap_set(_dmi_run_base(run), _dmi_page, &_dmi_no_run);
    _dmi_pagemap_set(_dmi_run_base(run) + _dmi_run_size(run) - _dmi_page, _dmi_page, &_dmi_no_run);
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&guards, memory_order_seq_cst) == 0 &&
        !(others_guard && others_guard()))
        return true;
    map_free(run);
    return false;
}

size_t _dmi_segments_release(dmi_space *space, bool all) {
    size_t released = 0;
    dmi_segment *next;
    if (space->visitors && !all) {
        space->release_due = true;
        return 0;
    }
    for (dmi_segment *segment = space->segments; segment; segment = next) {
        next = segment->next;
        if (segment == space->segments && !all) continue;
        dmi_run *run = _dmi_segment_run(segment, 0);
        if (!_dmi_run_is_free(run) || run->pages != segment->pages) continue;
        if (_dmi_bits_find(segment->committed, 0, segment->pages, true) < segment->pages) continue;
        if (!unmap_free(run) && !all) continue;
        bin_remove(space, run);
        segment_release(space, segment);
        released++;
    }
    if (released && space->next_segment > FIRST_SEGMENT) space->next_segment /= 2;
    return released;
}

/* ---- runs ------------------------------------------------------------------------------------------- */

static dmi_run *free_piece(dmi_run *piece, size_t first, size_t pages, int32_t pass,
                           uint64_t freed_at) {
    piece->kind = DMI_RUN_FREE;
    piece->first = (uint32_t)first;
    piece->pages = (uint32_t)pages;
    piece->pass = pass;
    piece->freed_at = freed_at;
    return piece;
}

/* Commit pages of a free run, of which had were committed. What a failure could not undo, because the
 * OS refused that too, stays committed and free; stays: so does its segment. */
static bool commit_free(dmi_segment *segment, size_t first, size_t pages, size_t had, bool stays) {
    if (_dmi_pages_commit(segment, first, pages) == 0) return true;
    size_t have = _dmi_bits_count(segment->committed, first, pages);
    if (stays) segment->space->free_committed += (have - had) << _dmi_page_shift;
    return false;
}

dmi_run *_dmi_run_alloc(dmi_space *space, size_t pages, size_t align_pages, dmi_run_kind kind,
                        bool commit, bool *zero) {
    dmi_run *run = bin_search(space, pages, align_pages);
    size_t next_segment = space->next_segment;
    bool grown = !run;
    if (grown) {
        if (!segment_grow(space, pages, align_pages)) return NULL;
        run = bin_search(space, pages, align_pages);
        if (!run) return NULL;
    }
    dmi_segment *segment = run->segment;
    size_t skip = skip_for(run, align_pages), rest = run->pages - skip - pages;
    /* Everything that can fail comes first. */
    dmi_run *before = skip ? descriptor_alloc(segment) : NULL;
    dmi_run *after = rest ? descriptor_alloc(segment) : NULL;
    if ((skip && !before) || (rest && !after)) goto fail;
    size_t had = _dmi_bits_count(segment->committed, run->first + skip, pages);
    if (zero) *zero = had == 0; /* pages that were given back come back as zeroes */
    if (commit && !commit_free(segment, run->first + skip, pages, had, !grown)) goto fail;
    bin_remove(space, run);
    space->free_committed -= had << _dmi_page_shift;
    if (before) {
        free_piece(before, run->first, skip, run->pass, run->freed_at);
        map_free(before);
        bin_insert(space, before);
    }
    if (after) {
        free_piece(after, run->first + skip + pages, rest, run->pass, run->freed_at);
        map_free(after);
        bin_insert(space, after);
    }
    run->first += (uint32_t)skip;
    run->pages = (uint32_t)pages;
    run->kind = (uint8_t)kind;
    run->flags = 0;
    run->next = run->prev = NULL;
    _dmi_bits_put(segment->refused, run->first, pages, false);
    _dmi_pages_forget(segment, run->first, pages);
    _dmi_pagemap_set(_dmi_run_base(run), _dmi_run_size(run), run);
    return run;
fail:
    if (before) descriptor_free(before);
    if (after) descriptor_free(after);
    if (grown) { /* a segment that serves nobody would count as reserved */
        bin_remove(space, run);
        segment_release(space, segment);
        space->next_segment = next_segment;
    }
    return NULL;
}

dmi_run *_dmi_run_free(dmi_space *space, dmi_run *run) {
    dmi_segment *segment = run->segment;
    size_t first = run->first, end = first + run->pages;
    _dmi_pagemap_set(_dmi_run_base(run), _dmi_run_size(run), &_dmi_no_run);
    space->free_committed += _dmi_run_committed(run);
    atomic_store_explicit(&run->owner, DMI_OWNER_NONE, memory_order_relaxed);
    _dmi_pages_forget(segment, first, run->pages);
    if (first > 0) {
        dmi_run *left = _dmi_segment_run(segment, first - 1);
        if (_dmi_run_is_free(left)) {
            bin_remove(space, left);
            _dmi_pagemap_set(_dmi_run_base(left) + _dmi_run_size(left) - _dmi_page, _dmi_page,
                             &_dmi_no_run);
            first = left->first;
            descriptor_free(left);
        }
    }
    if (end < segment->pages) {
        dmi_run *right = _dmi_segment_run(segment, end);
        if (_dmi_run_is_free(right)) {
            bin_remove(space, right);
            _dmi_pagemap_set(_dmi_run_base(right), _dmi_page, &_dmi_no_run);
            end = right->first + right->pages;
            descriptor_free(right);
        }
    }
    free_piece(run, first, end - first, space->pass, _dmi_space_clock(space));
    run->flags = 0;
    run->head = (void *)(uintptr_t)_dmi_end;
    map_free(run);
    bin_insert(space, run);
    return run;
}

dmi_run *_dmi_run_cut(dmi_run *run) {
    dmi_run *last = descriptor_alloc(run->segment);
    if (!last) return NULL;
    last->kind = run->kind;
    last->first = run->first + --run->pages;
    last->pages = 1;
    _dmi_pagemap_set(_dmi_run_base(last), _dmi_page, last);
    return last;
}

void _dmi_run_uncut(dmi_run *run, dmi_run *last) {
    _dmi_pagemap_set(_dmi_run_base(last), _dmi_page, run);
    run->pages++;
    descriptor_free(last);
}

bool _dmi_run_resize(dmi_space *space, dmi_run *run, size_t pages) {
    dmi_segment *segment = run->segment;
    size_t end = run->first + run->pages;
    if (pages < run->pages) {
        dmi_run *tail = descriptor_alloc(segment);
        if (!tail) return false;
        tail->kind = run->kind;
        tail->first = (uint32_t)(run->first + pages);
        tail->pages = (uint32_t)(run->pages - pages);
        run->pages = (uint32_t)pages;
        (void)_dmi_run_free(space, tail);
        return true;
    }
    size_t more = pages - run->pages;
    if (more == 0) return true;
    if (end >= segment->pages) return false;
    dmi_run *right = _dmi_segment_run(segment, end);
    if (!_dmi_run_is_free(right) || right->pages < more) return false;
    size_t had = _dmi_bits_count(segment->committed, end, more);
    if (!commit_free(segment, end, more, had, true)) return false;
    space->free_committed -= had << _dmi_page_shift;
    bin_remove(space, right);
    if (right->pages == more) {
        descriptor_free(right);
    } else {
        right->first += (uint32_t)more;
        right->pages -= (uint32_t)more;
        map_free(right);
        bin_insert(space, right);
    }
    run->pages = (uint32_t)pages;
    _dmi_bits_put(segment->refused, end, more, false);
    _dmi_pages_forget(segment, end, more);
    _dmi_pagemap_set(segment->base + (end << _dmi_page_shift), more << _dmi_page_shift, run);
    return true;
}
