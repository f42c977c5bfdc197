/* subsegments.c - the free pages of LFH runs: finding them, parking their blocks, giving them back in batches. */
#include "judge.h"

#include <string.h>

/* ---- batches ------------------------------------------------------------------------------------------ */

/* Put the blocks of a run's refused ranges back on its list, once each, when it is known which ranges went.
 * Returns the last index of the run. */
static size_t relink(const dmi_sweep *sweep, const int *refused, size_t i, size_t count) {
    dmi_run *run = sweep->batch[i].run;
    uint64_t stay[2] = {0, 0};
    for (; i < count && sweep->batch[i].run == run; i++)
        for (size_t p = sweep->batch[i].first - run->first, n = sweep->batch[i].pages;
             n && refused[i]; n--, p++)
            stay[p / 64] |= UINT64_C(1) << (p % 64);
    _dmi_lfh_relink(run, stay);
    return i - 1;
}

/* Does batched range i begin where the one before it ends? Then one range of a call serves both. */
static bool follows(const dmi_sweep *sweep, size_t i) {
    return i > 0 && sweep->batch[i].run->segment == sweep->batch[i - 1].run->segment &&
           sweep->batch[i].first == sweep->batch[i - 1].first + sweep->batch[i - 1].pages;
}

/* Discard all that is batched with as few ranges as there are; refused[i] says how range i fared. */
static void discard(dmi_sweep *sweep, size_t count, int *refused) {
    dmi_os_range ranges[DMI_BATCH];
    int errors[DMI_BATCH];
    uint64_t calls = 0;
    size_t n = 0;
    for (size_t i = 0; i < count; i++) {
        const dmi_segment *segment = sweep->batch[i].run->segment;
        size_t size = (size_t)sweep->batch[i].pages << _dmi_page_shift;
        if (follows(sweep, i)) {
            ranges[n - 1].size += size;
        } else {
            ranges[n].address = segment->base + ((size_t)sweep->batch[i].first << _dmi_page_shift);
            ranges[n++].size = size;
        }
    }
    (void)_dmi_os_decommit_many(ranges, n, errors, &calls);
    n = 0;
    for (size_t i = 0; i < count; i++) {
        dmi_segment *segment = sweep->batch[i].run->segment;
        size_t first = sweep->batch[i].first, pages = sweep->batch[i].pages;
        if (!follows(sweep, i)) n++;
        if (errors[n - 1] && ranges[n - 1].size != pages << _dmi_page_shift) {
            /* A neighbour may be why. */
            refused[i] = !_dmi_give(sweep, segment, first, pages);
            continue;
        }
        refused[i] = errors[n - 1];
        if (refused[i]) {
            _dmi_bits_put(segment->refused, first, pages, true);
            atomic_fetch_add_explicit(&segment->space->ledger.refused_calls, 1,
                                      memory_order_relaxed);
            continue;
        }
        _dmi_pages_note_decommit(segment, first, pages, calls);
        calls = 0;
        sweep->given += (uint64_t)pages << _dmi_page_shift;
    }
}

void _dmi_sweep_flush(dmi_sweep *sweep) {
    int refused[DMI_BATCH];
    size_t count = sweep->count;
    if (count == 0) return;
    sweep->count = 0;
    if (sweep->space->mode == DMI_OS_LAZY && sweep->how != DMI_HOW_OFFER)
        discard(sweep, count, refused);
    else
        for (size_t i = 0; i < count; i++)
            refused[i] = !_dmi_give(sweep, sweep->batch[i].run->segment, sweep->batch[i].first,
                                    sweep->batch[i].pages);
    for (size_t i = 0; i < count; i++)
        if (refused[i]) i = relink(sweep, refused, i, count);
}

/* Park the pages and put them in the batch. */
static void give_pages(dmi_sweep *sweep, dmi_run *run, const dmi_blockmap *map, size_t pinned,
                       const uint64_t pages[2]) {
    _dmi_lfh_park(run, map, pinned, pages);
    /* All of a run's ranges go in one batch, see relink. */
    if (sweep->count + (run->pages + 1) / 2 > DMI_BATCH) _dmi_sweep_flush(sweep);
    for (size_t p = 0; p < run->pages;) {
        if (!((pages[p / 64] >> (p % 64)) & 1)) {
            p++;
            continue;
        }
        size_t end = p + 1;
        while (end < run->pages && ((pages[end / 64] >> (end % 64)) & 1)) end++;
        sweep->batch[sweep->count].run = run;
        sweep->batch[sweep->count].first = (uint32_t)(run->first + p);
        sweep->batch[sweep->count].pages = (uint32_t)(end - p);
        sweep->count++;
        p = end;
    }
}

/* ---- one run of a pass ----------------------------------------------------------------------------------- */

static void forget_age(dmi_run *run) { _dmi_pages_forget(run->segment, run->first, run->pages); }

/* Note what the run is like. True: nothing happened to it since that was noted last. A digest, so an answer that now
 * and then is wrong: it only decides how old a free page is taken to be, never whether it is free. */
static bool note_rest(dmi_run *run) {
    uint64_t digest = (uintptr_t)atomic_load_explicit(&run->head, memory_order_relaxed) ^
                      (uint64_t)(uint32_t)(_dmi_lfh_busy(run) - run->taken_count) << 40;
    digest *= UINT64_C(0x9e3779b97f4a7c15);
    uint16_t now = (uint16_t)(digest >> 48 | 1);
    bool same = run->seen == now;
    run->seen = now;
    return same;
}

static bool has(const uint64_t pages[2], size_t p) { return (pages[p / 64] >> (p % 64)) & 1; }
static void add(uint64_t pages[2], size_t p) { pages[p / 64] |= UINT64_C(1) << (p % 64); }

/* Of the run's free pages, those that were deferred for units that are split by now. */
static void sweep_deferred(dmi_sweep *sweep, dmi_run *run) {
    dmi_segment *segment = run->segment;
    dmi_blockmap map;
    size_t pinned, end = run->first + (size_t)run->pages;
    uint64_t pages[2], chosen[2] = {0, 0};
    if (_dmi_bits_find(segment->deferred, run->first, end, true) == end) return;
    if (!_dmi_lfh_free_map(run, false, &map, &pinned, NULL)) return;
    if (_dmi_lfh_free_pages(run, &map, pinned, pages) == 0) return;
    for (size_t p = 0; p < run->pages; p++) {
        size_t page = run->first + p, stop = page + 1;
        if (has(pages, p) && _dmi_judge(sweep, segment, page, &stop, false) == DMI_GIVE)
            add(chosen, p);
    }
    if (!(chosen[0] | chosen[1])) return;
    bool rested = note_rest(run);
    give_pages(sweep, run, &map, pinned, chosen);
    if (rested) (void)note_rest(run); /* parking moved the head: that was no event */
}

/* Judge the free pages of a run, and give back what goes. True: none was left. */
static bool judge_pages(dmi_sweep *sweep, dmi_run *run, const dmi_blockmap *map, size_t pinned,
                        const uint64_t pages[2], bool rested) {
    dmi_segment *segment = run->segment;
    bool aged = _dmi_bits_count(segment->aged, run->first, run->pages) != 0, left = false;
    uint64_t chosen[2] = {0, 0};
    for (size_t p = 0; p < run->pages; p++) {
        size_t page = run->first + p, stop = page + 1;
        if (!has(pages, p)) {
            if (aged || _dmi_page_free_since(segment, page)) _dmi_pages_forget(segment, page, 1);
            continue;
        }
        dmi_verdict verdict = _dmi_judge(sweep, segment, page, &stop, rested);
        if (verdict == DMI_GIVE) {
            add(chosen, p);
        } else if (verdict == DMI_DEFER) {
            _dmi_defer(sweep, segment, page, 1);
        } else {
            if (verdict == DMI_LEAVE) _dmi_bits_put(segment->aged, page, 1, true);
            _dmi_pages_note_free(segment, page, 1, sweep->since);
            left = true;
        }
    }
    if (chosen[0] | chosen[1]) {
        give_pages(sweep, run, map, pinned, chosen);
        (void)note_rest(run); /* parking moved the head: that was no event */
    }
    return !left;
}

/* Deal with the run without a walk over its list. False: it needs one. */
static bool pass_by(dmi_sweep *sweep, dmi_run *run, bool rested) {
    dmi_segment *segment = run->segment;
    bool all = sweep->kind == DMI_PASS_ALL;
    /* Most runs of most passes: nothing happened, and nothing was left to do. */
    if (rested && run->flags & DMI_RUN_DONE && !all && !segment->units) return true;
    int64_t busy = (int64_t)_dmi_lfh_busy(run) - run->taken_count;
    int64_t unused = (int64_t)_dmi_run_committed(run) - busy * run->block_size;
    run->flags &= (uint8_t) ~(rested ? DMI_RUN_HOT : DMI_RUN_DONE);
    if (unused < (int64_t)_dmi_page) {
        forget_age(run);
        run->flags |= DMI_RUN_DONE;
        return true;
    }
    if (all) return false;
    if (!rested && !(run->flags & DMI_RUN_HOT)) {
        run->flags |= DMI_RUN_HOT;
        forget_age(run);
        sweep->waiting = true;
        return true;
    }
    if (run->flags & DMI_RUN_DONE) {
        if (segment->units) {
            uint64_t deferred = _dmi_bits_count(segment->deferred, run->first, run->pages);
            sweep->found += deferred << _dmi_page_shift;
            sweep->refused += deferred << _dmi_page_shift;
        }
        return true;
    }
    if (sweep->kind == DMI_PASS_AGE || !rested) return false;
    size_t known = _dmi_bits_count(segment->aged, run->first, run->pages);
    return known && _dmi_let_stay(sweep, known);
}

/* Finding the free pages means walking the free list, which costs a cache miss a block. So a run is
 * walked once it rests: what is free in a run that nothing happened to for a whole interval has been
 * free for that long. One that is never at rest is walked at every second pass, and its pages age by the
 * aged bits, which hold what was free at the last walk. */
void _dmi_sweep_run(dmi_sweep *sweep, dmi_run *run) {
    if (sweep->kind == DMI_PASS_DEFERRED) {
        sweep_deferred(sweep, run);
        return;
    }
    bool rested = note_rest(run);
    if (atomic_load_explicit(&sweep->space->ledger.offer_calls, memory_order_relaxed))
        _dmi_give_offered(sweep, run->segment, run->first, run->first + run->pages);
    if (pass_by(sweep, run, rested)) return;
    dmi_blockmap map;
    size_t pinned;
    uint64_t pages[2];
    bool may = _dmi_lfh_may_free(run);
    if (may && !_dmi_lfh_free_map(run, false, &map, &pinned, NULL))
        return; /* validate names the fault */
    if (!may || _dmi_lfh_free_pages(run, &map, pinned, pages) == 0) {
        forget_age(run);
        run->flags |= DMI_RUN_DONE;
        return;
    }
    if (judge_pages(sweep, run, &map, pinned, pages, rested)) run->flags |= DMI_RUN_DONE;
}

/* ---- eager: busy blocks of each page ------------------------------------------------------------------- */

static void pages_of(const dmi_run *run, size_t i, size_t *first, size_t *last) {
    *first = i * run->block_size >> _dmi_page_shift;
    *last = ((i + 1) * run->block_size - 1) >> _dmi_page_shift;
}

void _dmi_engine_count_block(const dmi_engine *engine, dmi_run *run, const void *block, int n) {
    uint16_t *busy = run->segment->page_busy + run->first;
    size_t first, last;
    uint64_t pages[2] = {0, 0};
    bool any = false;
    pages_of(run, _dmi_lfh_index(run, block), &first, &last);
    for (size_t p = first; p <= last; p++) {
        busy[p] = (uint16_t)(busy[p] + n);
        if (n > 0 && run->segment->units)
            _dmi_bits_put(run->segment->deferred, run->first + p, 1, false);
        if (n < 0 && busy[p] == 0) {
            if (_dmi_unit_whole(run->segment, run->first + p)) {
                _dmi_bits_put(run->segment->deferred, run->first + p, 1, true);
                continue;
            }
            pages[p / 64] |= UINT64_C(1) << (p % 64);
            any = true;
        }
    }
    if (!any) return;
    dmi_blockmap map;
    size_t pinned;
    if (!_dmi_lfh_free_map(run, false, &map, &pinned, NULL)) return;
    dmi_sweep sweep;
    _dmi_sweep_init(&sweep, engine, DMI_PASS_ALL, 0);
    give_pages(&sweep, run, &map, pinned, pages);
    _dmi_sweep_flush(&sweep);
}

int _dmi_engine_count_run(dmi_run *run) {
    int error = _dmi_segment_need_page_busy(run->segment);
    if (error) return error;
    uint16_t *busy = run->segment->page_busy + run->first;
    memset(busy, 0, run->pages * sizeof *busy);
    dmi_blockmap map;
    size_t pinned, first, last;
    if (!_dmi_lfh_free_map(run, false, &map, &pinned, NULL)) return 0;
    for (size_t i = 0; i < run->carved; i++) {
        if (_dmi_map_get(&map, i)) continue;
        pages_of(run, i, &first, &last);
        for (size_t p = first; p <= last; p++) busy[p]++;
    }
    run->flags |= DMI_RUN_COUNTED;
    return 0;
}
