/* engine.c - what to give back, and giving it back in batches. */
#include "policies.h"

#include <errno.h>
#include <string.h>

void _dmi_engine_init(dmi_engine *engine, dmi_space *space, dmi_freelist *list,
                      const dmi_policy *policy) {
    memset(engine, 0, sizeof *engine);
    engine->space = space;
    engine->list = list;
    engine->policy = *policy;
    engine->how = _dmi_policy_how(policy);
}

void _dmi_sweep_init(dmi_sweep *sweep, const dmi_engine *engine, dmi_pass_kind kind,
                     uint64_t limit) {
    sweep->space = engine->space;
    sweep->engine = engine;
    sweep->kind = kind;
    sweep->how = engine->how;
    sweep->limit = limit;
    sweep->found = sweep->given = sweep->refused = 0;
    sweep->since = atomic_load_explicit(&engine->space->now, memory_order_relaxed);
    sweep->pause = NULL;
    sweep->pause_argument = NULL;
    sweep->waiting = false;
    sweep->count = 0;
}

/* Give back or offer one range of a back-end run. */
static bool give(dmi_sweep *sweep, dmi_segment *segment, size_t first, size_t pages) {
    int error = sweep->how == DMI_HOW_OFFER ? _dmi_pages_offer(segment, first, pages)
                                            : _dmi_pages_decommit(segment, first, pages);
    if (!error) sweep->given += (uint64_t)pages << _dmi_page_shift;
    return error == 0;
}

/* These pages are due, but their unit is whole. */
static void hold(dmi_sweep *sweep, dmi_segment *segment, size_t first, size_t pages) {
    uint64_t bytes = (uint64_t)pages << _dmi_page_shift;
    _dmi_bits_put(segment->held, first, pages, true);
    _dmi_bits_put(segment->aged, first, pages, true);
    _dmi_pages_found_free(segment, first, pages, sweep->since);
    sweep->found += bytes;
    sweep->refused += bytes;
}

/* The free pages [from, stop) of the back end: from the first on, how many are alike in that they wait for
 * something that no pass but a trim changes, or do not? */
static size_t alike(const dmi_segment *segment, size_t from, size_t stop, bool *stuck) {
    *stuck = _dmi_bits_get(segment->refused, from);
    stop = _dmi_bits_find(segment->refused, from, stop, !*stuck);
    if (*stuck || !segment->units) return stop;
    size_t unit_end = ((from >> _dmi_unit_shift()) + 1) << _dmi_unit_shift();
    if (stop > unit_end) stop = unit_end;
    if (!_dmi_unit_whole(segment, from)) return stop;
    *stuck = _dmi_bits_get(segment->held, from);
    return _dmi_bits_find(segment->held, from, stop, !*stuck);
}

/* Give back what lies in split units of a range, hold the rest. */
static void give_or_hold(dmi_sweep *sweep, dmi_segment *segment, size_t first, size_t pages) {
    size_t end = first + pages;
    while (segment->units && first < end) {
        bool whole = _dmi_unit_whole(segment, first);
        size_t to = first;
        do to = ((to >> _dmi_unit_shift()) + 1) << _dmi_unit_shift();
        while (to < end && _dmi_unit_whole(segment, to) == whole);
        if (to > end) to = end;
        if (whole) hold(sweep, segment, first, to - first);
        else (void)give(sweep, segment, first, to - first);
        first = to;
    }
    if (first < end) (void)give(sweep, segment, first, end - first);
}

/* Of a range of free pages, what was held and need not be any more. */
static void give_held(dmi_sweep *sweep, dmi_segment *segment, size_t first, size_t end) {
    while (segment->units && (first = _dmi_bits_find(segment->held, first, end, true)) < end) {
        size_t to = _dmi_bits_find(segment->held, first, end, false);
        size_t unit_end = ((first >> _dmi_unit_shift()) + 1) << _dmi_unit_shift();
        if (to > unit_end) to = unit_end;
        if (!_dmi_unit_whole(segment, first)) (void)give(sweep, segment, first, to - first);
        first = to;
    }
}

/* What was offered goes at once when the policy, or a trim, does not offer: it was free long enough then. */
static void give_offered(dmi_sweep *sweep, dmi_segment *segment, size_t first, size_t end) {
    if (sweep->how == DMI_HOW_OFFER || sweep->kind == DMI_PASS_COUNT) return;
    while ((first = _dmi_bits_find(segment->offered, first, end, true)) < end) {
        size_t stop = _dmi_bits_find(segment->offered, first, end, false);
        (void)give(sweep, segment, first, stop - first);
        first = stop;
    }
}

/* Pages that stay because they cannot go count for no limit. */
static uint64_t left_standing(const dmi_sweep *sweep) { return sweep->found - sweep->refused; }

/* May `pages` more stay under the limit? */
static bool stays(dmi_sweep *sweep, size_t pages) {
    uint64_t bytes = (uint64_t)pages << _dmi_page_shift;
    if (sweep->kind == DMI_PASS_ALL) return false;
    if (sweep->kind == DMI_PASS_LIMIT && left_standing(sweep) + bytes > sweep->limit) return false;
    sweep->found += bytes;
    return true;
}

/* How many of `pages` may stay under the limit; one range may be all there is, and must not go at a stroke. */
static size_t room(dmi_sweep *sweep, size_t pages) {
    uint64_t left = sweep->limit > left_standing(sweep) ? sweep->limit - left_standing(sweep) : 0;
    size_t keep = pages;
    if (sweep->kind == DMI_PASS_LIMIT && left >> _dmi_page_shift < pages)
        keep = (size_t)(left >> _dmi_page_shift);
    return stays(sweep, keep) ? keep : 0;
}

/* Deal with the free pages [first, first+count) of the back end: those that are committed, not offered
 * and not refused before. Returns the bytes that are no longer committed. */
static uint64_t deal(dmi_sweep *sweep, dmi_segment *segment, size_t first, size_t count) {
    size_t end = first + count;
    uint64_t before = sweep->given;
    for (size_t i = first; i < end;) {
        size_t from = _dmi_bits_find(segment->committed, i, end, true);
        if (from == end) break;
        size_t to = _dmi_bits_find(segment->committed, from, end, false);
        i = to;
        while (from < to) {
            if (_dmi_bits_get(segment->offered, from)) {
                size_t rest = _dmi_bits_find(segment->offered, from, to, false);
                give_offered(sweep, segment, from, rest);
                from = rest;
                continue;
            }
            size_t stop = _dmi_bits_find(segment->offered, from, to, true);
            if (sweep->kind == DMI_PASS_HELD) {
                give_held(sweep, segment, from, stop);
                from = stop;
                continue;
            }
            bool stuck;
            stop = alike(segment, from, stop, &stuck);
            if (stuck && sweep->kind != DMI_PASS_ALL) {
                sweep->found += (uint64_t)(stop - from) << _dmi_page_shift;
                sweep->refused += (uint64_t)(stop - from) << _dmi_page_shift;
                from = stop;
                continue;
            }
            if (sweep->kind == DMI_PASS_AGE) {
                bool aged = _dmi_bits_get(segment->aged, from);
                stop = _dmi_bits_find(segment->aged, from, stop, !aged);
                if (!aged) {
                    _dmi_bits_put(segment->aged, from, stop - from, true);
                    _dmi_pages_found_free(segment, from, stop - from, sweep->since);
                    sweep->found += (uint64_t)(stop - from) << _dmi_page_shift;
                } else {
                    give_or_hold(sweep, segment, from, stop - from);
                }
            } else {
                size_t keep = room(sweep, stop - from);
                _dmi_pages_found_free(segment, from, keep, sweep->since);
                if (keep < stop - from)
                    give_or_hold(sweep, segment, from + keep, stop - from - keep);
            }
            from = stop;
        }
    }
    return sweep->how == DMI_HOW_OFFER ? 0 : sweep->given - before;
}

static void deal_kept(dmi_sweep *sweep) {
    dmi_run *next;
    uint64_t now = atomic_load_explicit(&sweep->space->now, memory_order_relaxed);
    uint64_t delay = (uint64_t)(sweep->engine->policy.delay * 1e9);
    for (dmi_run *run = sweep->space->kept; run; run = next) {
        next = run->next;
        if (sweep->kind == DMI_PASS_AGE && now - run->freed_at < delay) {
            sweep->found += run->segment->size;
            continue;
        }
        if (sweep->kind != DMI_PASS_AGE && stays(sweep, run->pages)) continue;
        size_t size = run->segment->size;
        if (sweep->how == DMI_HOW_OFFER) {
            if (_dmi_virtual_offer(sweep->space, run)) continue;
        } else {
            _dmi_virtual_drop(sweep->space, run);
        }
        sweep->given += size;
    }
}

static void deal_lists(dmi_sweep *sweep) {
    dmi_freelist *list = sweep->engine->list;
    for (size_t bin = 0; bin < DMI_LIST_BINS; bin++) {
        for (dmi_free_block *block = list->bins[bin]; block; block = block->next) {
            if (_dmi_tag_bytes(&block->tag) < _dmi_page) break;
            dmi_run *run = _dmi_pagemap_get(block);
            size_t first, pages = _dmi_tag_free_pages(run, &block->tag, &first);
            if (pages) (void)deal(sweep, run->segment, first, pages);
        }
    }
}

/* A free run, a slice at a time. True: the lock was let go, and whoever walks a list must begin again. What
 * was formed while it was free to all is of this pass already (segment.c), and waits for the next. */
static bool deal_run(dmi_sweep *sweep, dmi_run *run) {
    dmi_space *space = sweep->space;
    size_t first = run->first, pages = run->pages, done = 0;
    uint64_t before = sweep->given;
    bool let_go = false;
    run->bias = space->pass;
    while (done < pages) {
        size_t count = sweep->pause && pages - done > DMI_SLICE ? DMI_SLICE : pages - done;
        sweep->since = run->freed_at;
        space->free_committed -= deal(sweep, run->segment, first + done, count);
        done += count;
        if (!sweep->pause || (sweep->given - before) >> _dmi_page_shift < DMI_SLICE) continue;
        sweep->pause(sweep->pause_argument);
        before = sweep->given;
        let_go = true;
        if (run->kind != DMI_RUN_FREE || run->first != first || run->pages != pages) return true;
    }
    _dmi_run_cooled(space, run);
    return let_go;
}

/* The runs of one list. *given: what the sweep had given when the lock was let go last. */
static void deal_bin(dmi_sweep *sweep, dmi_run *const *first, uint64_t *given) {
    dmi_run *next;
    for (dmi_run *run = *first; run; run = next) {
        next = run->next;
        if (run->bias == sweep->space->pass) continue;
        bool let_go = deal_run(sweep, run);
        if (!let_go && sweep->pause && (sweep->given - *given) >> _dmi_page_shift >= DMI_SLICE) {
            sweep->pause(sweep->pause_argument);
            let_go = true;
        }
        if (!let_go) continue;
        *given = sweep->given;
        next = *first;
    }
}

static void deal_runs(dmi_sweep *sweep) {
    dmi_space *space = sweep->space;
    uint64_t given = sweep->given;
    space->pass++;
    /* Smallest first: where only a part may stay, the large ranges go, which takes the fewest calls. */
    for (size_t bin = 0; bin < DMI_BINS; bin++)
        for (int warm = 0; warm < DMI_WARMTHS; warm++)
            deal_bin(sweep, &space->bins[warm][bin], &given);
}

void _dmi_sweep_backend(dmi_sweep *sweep) {
    dmi_space *space = sweep->space;
    deal_lists(sweep);
    deal_runs(sweep);
    if (sweep->kind == DMI_PASS_HELD) return;
    deal_kept(sweep);
    if (sweep->kind != DMI_PASS_COUNT && sweep->how != DMI_HOW_OFFER)
        (void)_dmi_segments_release(space, false);
}

/* ---- LFH runs ----------------------------------------------------------------------------------- */

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
            refused[i] = !give(sweep, segment, first, pages);
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
            refused[i] = !give(sweep, sweep->batch[i].run->segment, sweep->batch[i].first,
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

static void forget_age(dmi_run *run) { _dmi_pages_forget(run->segment, run->first, run->pages); }

/* Did anything happen to the run since the last pass? A digest, so an answer that now and then is wrong:
 * it only decides how old a free page is taken to be, never whether it is free. */
static bool cold(dmi_run *run) {
    uint64_t digest = (uintptr_t)atomic_load_explicit(&run->head, memory_order_relaxed) ^
                      (uint64_t)(uint32_t)(_dmi_lfh_busy(run) - run->taken_count) << 40;
    digest *= UINT64_C(0x9e3779b97f4a7c15);
    uint16_t now = (uint16_t)(digest >> 48 | 1);
    bool same = run->seen == now;
    run->seen = now;
    return same;
}

/* Of the run's free pages, those that were held for units that are split by now. */
static void sweep_held(dmi_sweep *sweep, dmi_run *run) {
    dmi_segment *segment = run->segment;
    dmi_blockmap map;
    size_t pinned;
    uint64_t pages[2], chosen[2] = {0, 0};
    if (_dmi_bits_find(segment->held, run->first, run->first + run->pages, true) ==
        run->first + run->pages)
        return;
    if (!_dmi_lfh_free_map(run, false, &map, &pinned, NULL)) return;
    if (_dmi_lfh_free_pages(run, &map, pinned, pages) == 0) return;
    for (size_t p = 0; p < run->pages; p++)
        if ((pages[p / 64] >> (p % 64)) & 1 && _dmi_bits_get(segment->held, run->first + p) &&
            !_dmi_unit_whole(segment, run->first + p))
            chosen[p / 64] |= UINT64_C(1) << (p % 64);
    if (!(chosen[0] | chosen[1])) return;
    bool rested = cold(run);
    give_pages(sweep, run, &map, pinned, chosen);
    if (rested) (void)cold(run); /* parking moved the head: that was no event */
}

/* Finding the free pages means walking the free list, which costs a cache miss a block. So a run is
 * walked once it rests: what is free in a run that nothing happened to for a whole interval has been
 * free for that long. One that is never at rest is walked at every second pass, and its pages age by the
 * aged bits, which hold what was free at the last walk. */
void _dmi_sweep_run(dmi_sweep *sweep, dmi_run *run) {
    dmi_segment *segment = run->segment;
    if (sweep->kind == DMI_PASS_HELD) {
        sweep_held(sweep, run);
        return;
    }
    bool rests = cold(run), hot = run->flags & DMI_RUN_HOT;
    if (atomic_load_explicit(&sweep->space->ledger.offer_calls, memory_order_relaxed))
        give_offered(sweep, segment, run->first, run->first + run->pages);
    /* Most runs of most passes: nothing happened, and nothing was left to do. */
    if (rests && run->flags & DMI_RUN_DONE && sweep->kind != DMI_PASS_ALL && !segment->units)
        return;
    int64_t busy = (int64_t)_dmi_lfh_busy(run) - run->taken_count;
    int64_t committed = (int64_t)_dmi_run_committed(run);
    int64_t unused = committed - busy * run->block_size;
    run->flags &= (uint8_t) ~(rests ? DMI_RUN_HOT : DMI_RUN_DONE);
    if (unused < (int64_t)_dmi_page) {
        forget_age(run);
        run->flags |= DMI_RUN_DONE;
        return;
    }
    if (sweep->kind != DMI_PASS_ALL && !rests && !hot) {
        run->flags |= DMI_RUN_HOT;
        forget_age(run);
        sweep->waiting = true;
        return;
    }
    if (run->flags & DMI_RUN_DONE && sweep->kind != DMI_PASS_ALL) {
        if (segment->units) {
            uint64_t held = _dmi_bits_count(segment->held, run->first, run->pages);
            sweep->found += held << _dmi_page_shift;
            sweep->refused += held << _dmi_page_shift;
        }
        return;
    }
    size_t known = _dmi_bits_count(segment->aged, run->first, run->pages);
    bool leave = sweep->kind == DMI_PASS_COUNT || sweep->kind == DMI_PASS_LIMIT;
    if (leave && rests && known && stays(sweep, known)) return;
    dmi_blockmap map;
    size_t pinned;
    uint64_t pages[2], chosen[2] = {0, 0};
    bool may = _dmi_lfh_may_free(run);
    if (may && !_dmi_lfh_free_map(run, false, &map, &pinned, NULL))
        return; /* validate names the fault */
    if (!may || _dmi_lfh_free_pages(run, &map, pinned, pages) == 0) {
        forget_age(run);
        run->flags |= DMI_RUN_DONE;
        return;
    }
    bool any = false, left = false;
    for (size_t p = 0; p < run->pages; p++) {
        size_t page = run->first + p;
        bool is_free = (pages[p / 64] >> (p % 64)) & 1, go = false;
        bool aged = is_free && (rests || _dmi_bits_get(segment->aged, page));
        if (!is_free) {
            if (known || _dmi_page_free_since(segment, page)) _dmi_pages_forget(segment, page, 1);
            continue;
        }
        if (sweep->kind != DMI_PASS_ALL &&
            (_dmi_bits_get(segment->refused, page) ||
             (_dmi_unit_whole(segment, page) && _dmi_bits_get(segment->held, page)))) {
            sweep->found += _dmi_page;
            sweep->refused += _dmi_page;
        } else if (sweep->kind == DMI_PASS_AGE || sweep->kind == DMI_PASS_COUNT) {
            go = aged && sweep->kind == DMI_PASS_AGE;
            if (!go) {
                _dmi_bits_put(segment->aged, page, 1, true);
                sweep->found += _dmi_page;
            }
        } else {
            go = !stays(sweep, 1);
            if (!go) _dmi_bits_put(segment->aged, page, 1, true);
        }
        left |= !go;
        if (!go) {
            _dmi_pages_found_free(segment, page, 1, sweep->since);
            continue;
        }
        if (_dmi_unit_whole(segment, page)) {
            hold(sweep, segment, page, 1);
            continue;
        }
        chosen[p / 64] |= UINT64_C(1) << (p % 64);
        any = true;
    }
    if (any) {
        give_pages(sweep, run, &map, pinned, chosen);
        (void)cold(run); /* parking moved the head: that was no event */
    }
    if (!left) run->flags |= DMI_RUN_DONE;
}

/* ---- inline policies -------------------------------------------------------------------------------- */

/* Does a block of that size go with the free that made it free? */
static bool goes_at_free(const dmi_engine *engine, uint64_t bytes) {
    const dmi_policy_row *row = _dmi_policy_row(&engine->policy);
    return row->at_free && row->at_free(engine, bytes);
}

void _dmi_engine_freed_run(const dmi_engine *engine, dmi_run *run) {
    dmi_segment *segment = run->segment;
    if (run->kind == DMI_RUN_VIRTUAL) {
        if (goes_at_free(engine, segment->size)) {
            if (engine->how == DMI_HOW_OFFER) (void)_dmi_virtual_offer(engine->space, run);
            else _dmi_virtual_drop(engine->space, run);
        }
        return;
    }
    if (!goes_at_free(engine, _dmi_run_size(run))) return;
    dmi_sweep sweep;
    _dmi_sweep_init(&sweep, engine, DMI_PASS_ALL, 0);
    engine->space->free_committed -= deal(&sweep, segment, run->first, run->pages);
    if (segment->units) _dmi_units_drop(&sweep, run);
    _dmi_run_cooled(engine->space, run);
    if (run->pages == segment->pages) (void)_dmi_segments_release(engine->space, false);
}

void _dmi_engine_freed_block(const dmi_engine *engine, dmi_run *run, dmi_tag *tag) {
    if (!goes_at_free(engine, _dmi_tag_bytes(tag))) return;
    size_t first, pages = _dmi_tag_free_pages(run, tag, &first);
    if (!pages) return;
    dmi_sweep sweep;
    _dmi_sweep_init(&sweep, engine, DMI_PASS_ALL, 0);
    (void)deal(&sweep, run->segment, first, pages);
}

void _dmi_engine_inline(const dmi_engine *engine) {
    dmi_space *space = engine->space;
    if (!_dmi_policy_row(&engine->policy)->at_free) return;
    dmi_run *next;
    for (size_t bin = DMI_LIST_BINS; bin-- > 0;)
        for (dmi_free_block *block = engine->list->bins[bin]; block; block = block->next)
            _dmi_engine_freed_block(engine, _dmi_pagemap_get(block), &block->tag);
    for (size_t bin = DMI_WARMTHS * DMI_BINS; bin-- > 0;)
        for (dmi_run *run = space->bins[bin % DMI_WARMTHS][bin / DMI_WARMTHS]; run; run = next) {
            next = run->next;
            if (!goes_at_free(engine, _dmi_run_size(run))) continue;
            dmi_sweep sweep;
            _dmi_sweep_init(&sweep, engine, DMI_PASS_ALL, 0);
            space->free_committed -= deal(&sweep, run->segment, run->first, run->pages);
            _dmi_run_cooled(space, run);
        }
    for (dmi_run *run = space->kept; run; run = next) {
        next = run->next;
        _dmi_engine_freed_run(engine, run);
    }
    if (engine->how != DMI_HOW_OFFER) (void)_dmi_segments_release(space, false);
}

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
            _dmi_bits_put(run->segment->held, run->first + p, 1, false);
        if (n < 0 && busy[p] == 0) {
            if (_dmi_unit_whole(run->segment, run->first + p)) {
                _dmi_bits_put(run->segment->held, run->first + p, 1, true);
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
