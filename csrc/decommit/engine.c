/* engine.c - the back end of a heap: free runs, free blocks of the free list, freed virtual blocks. */
#include "judge.h"
#include "policies.h"

#include <string.h>

void _dmi_engine_init(dmi_engine *engine, dmi_space *space, dmi_freelist *list,
                      const dmi_policy *policy) {
    memset(engine, 0, sizeof *engine);
    engine->space = space;
    engine->list = list;
    engine->policy = *policy;
    engine->how = _dmi_policy_how(policy);
}

/* Deal with free pages that are committed and not offered: with as many of [from, *stop) as are alike. */
static void deal_range(dmi_sweep *sweep, dmi_segment *segment, size_t from, size_t *stop) {
    dmi_verdict verdict = _dmi_judge(sweep, segment, from, stop, false);
    size_t pages = *stop - from;
    switch (verdict) {
    case DMI_LEAVE:
        if (sweep->kind == DMI_PASS_AGE) _dmi_bits_put(segment->aged, from, pages, true);
        _dmi_pages_note_free(segment, from, pages, sweep->since);
        break;
    case DMI_DEFER: _dmi_defer(sweep, segment, from, pages); break;
    case DMI_GIVE: (void)_dmi_give(sweep, segment, from, pages); break;
    case DMI_WAIT:
    case DMI_SKIP: break;
    }
}

/* Deal with the free pages [first, first+count) of the back end. Returns the bytes that are no longer committed. */
static uint64_t deal(dmi_sweep *sweep, dmi_segment *segment, size_t first, size_t count) {
    size_t end = first + count;
    uint64_t before = sweep->given;
    for (size_t i = first; i < end;) {
        size_t from = _dmi_bits_find(segment->committed, i, end, true);
        if (from == end) break;
        size_t to = _dmi_bits_find(segment->committed, from, end, false);
        i = to;
        while (from < to) {
            bool offered = _dmi_bits_get(segment->offered, from);
            size_t stop = _dmi_bits_find(segment->offered, from, to, !offered);
            if (offered) _dmi_give_offered(sweep, segment, from, stop);
            else deal_range(sweep, segment, from, &stop);
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
        if (sweep->kind != DMI_PASS_AGE && _dmi_let_stay(sweep, run->pages)) continue;
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
        for (dmi_free_block *block = list->bins[bin]; block; block = _dmi_free_next(block)) {
            if (!_dmi_free_listed(list, block)) break; /* whoever needs the bin next says so */
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
    run->pass = space->pass;
    while (done < pages) {
        size_t count = sweep->pause && pages - done > DMI_SLICE ? DMI_SLICE : pages - done;
        sweep->since = run->freed_at;
        space->free_committed -= deal(sweep, run->segment, first + done, count);
        done += count;
        if (!sweep->pause || (sweep->given - before) >> _dmi_page_shift < DMI_SLICE) continue;
        sweep->pause(sweep->pause_argument);
        before = sweep->given;
        let_go = true;
        if (!_dmi_run_is_free(run) || run->first != first || run->pages != pages) return true;
    }
    _dmi_run_note_cold(space, run);
    return let_go;
}

/* The runs of one list. *given: what the sweep had given when the lock was let go last. */
static void deal_bin(dmi_sweep *sweep, dmi_run *const *first, uint64_t *given) {
    dmi_run *next;
    for (dmi_run *run = *first; run; run = next) {
        next = run->next;
        if (run->pass == sweep->space->pass) continue;
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
    if (sweep->kind == DMI_PASS_DEFERRED) return;
    deal_kept(sweep);
    if (sweep->kind != DMI_PASS_COUNT && sweep->how != DMI_HOW_OFFER)
        (void)_dmi_segments_release(space, false);
}

/* ---- inline policies -------------------------------------------------------------------------------- */

/* Does a block of that size go with the free that made it free? */
static bool goes_at_free(const dmi_engine *engine, uint64_t bytes) {
    const dmi_policy_row *row = _dmi_policy_row(&engine->policy);
    return row->at_free && row->at_free(engine, bytes);
}

void _dmi_engine_give_freed_run(const dmi_engine *engine, dmi_run *run) {
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
    _dmi_run_note_cold(engine->space, run);
    if (run->pages == segment->pages) (void)_dmi_segments_release(engine->space, false);
}

void _dmi_engine_give_freed_block(const dmi_engine *engine, dmi_run *run, dmi_tag *tag) {
    if (!goes_at_free(engine, _dmi_tag_bytes(tag))) return;
    size_t first, pages = _dmi_tag_free_pages(run, tag, &first);
    if (!pages) return;
    dmi_sweep sweep;
    _dmi_sweep_init(&sweep, engine, DMI_PASS_ALL, 0);
    (void)deal(&sweep, run->segment, first, pages);
}

void _dmi_engine_give_all_freed(const dmi_engine *engine) {
    dmi_space *space = engine->space;
    if (!_dmi_policy_row(&engine->policy)->at_free) return;
    dmi_run *next;
    for (size_t bin = DMI_LIST_BINS; bin-- > 0;)
        for (dmi_free_block *block = engine->list->bins[bin];
             block && _dmi_free_listed(engine->list, block); block = _dmi_free_next(block))
            _dmi_engine_give_freed_block(engine, _dmi_pagemap_get(block), &block->tag);
    for (size_t bin = DMI_WARMTHS * DMI_BINS; bin-- > 0;)
        for (dmi_run *run = space->bins[bin % DMI_WARMTHS][bin / DMI_WARMTHS]; run; run = next) {
            next = run->next;
            if (!goes_at_free(engine, _dmi_run_size(run))) continue;
            dmi_sweep sweep;
            _dmi_sweep_init(&sweep, engine, DMI_PASS_ALL, 0);
            space->free_committed -= deal(&sweep, run->segment, run->first, run->pages);
            _dmi_run_note_cold(space, run);
        }
    for (dmi_run *run = space->kept; run; run = next) {
        next = run->next;
        _dmi_engine_give_freed_run(engine, run);
    }
    if (engine->how != DMI_HOW_OFFER) (void)_dmi_segments_release(space, false);
}
