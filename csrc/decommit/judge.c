/* judge.c - what becomes of a free page. */
#include "judge.h"

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

bool _dmi_give(dmi_sweep *sweep, dmi_segment *segment, size_t first, size_t pages) {
    int error = sweep->how == DMI_HOW_OFFER ? _dmi_pages_offer(segment, first, pages)
                                            : _dmi_pages_decommit(segment, first, pages);
    if (!error) sweep->given += (uint64_t)pages << _dmi_page_shift;
    return error == 0;
}

void _dmi_defer(dmi_sweep *sweep, dmi_segment *segment, size_t first, size_t pages) {
    uint64_t bytes = (uint64_t)pages << _dmi_page_shift;
    _dmi_bits_put(segment->deferred, first, pages, true);
    _dmi_bits_put(segment->aged, first, pages, true);
    _dmi_pages_note_free(segment, first, pages, sweep->since);
    sweep->found += bytes;
    sweep->refused += bytes;
}

void _dmi_give_offered(dmi_sweep *sweep, dmi_segment *segment, size_t first, size_t end) {
    if (sweep->how == DMI_HOW_OFFER || sweep->kind == DMI_PASS_COUNT) return;
    while ((first = _dmi_bits_find(segment->offered, first, end, true)) < end) {
        size_t stop = _dmi_bits_find(segment->offered, first, end, false);
        (void)_dmi_give(sweep, segment, first, stop - first);
        first = stop;
    }
}

/* Pages that stay because they cannot go count for no limit. */
static uint64_t left_standing(const dmi_sweep *sweep) { return sweep->found - sweep->refused; }

bool _dmi_let_stay(dmi_sweep *sweep, size_t pages) {
    uint64_t bytes = (uint64_t)pages << _dmi_page_shift;
    if (sweep->kind == DMI_PASS_ALL) return false;
    if (sweep->kind == DMI_PASS_LIMIT && left_standing(sweep) + bytes > sweep->limit) return false;
    sweep->found += bytes;
    return true;
}

/* Let as many of `pages` stay as may; one range may be all there is, and must not go at a stroke. */
static size_t let_some_stay(dmi_sweep *sweep, size_t pages) {
    uint64_t left = sweep->limit > left_standing(sweep) ? sweep->limit - left_standing(sweep) : 0;
    size_t keep = pages;
    if (sweep->kind == DMI_PASS_LIMIT && left >> _dmi_page_shift < pages)
        keep = (size_t)(left >> _dmi_page_shift);
    return _dmi_let_stay(sweep, keep) ? keep : 0;
}

/* Bring *stop down to where the bitmap changes behind `from`; returns what it says there. */
static bool alike(const dmi_bits *bits, size_t from, size_t *stop) {
    bool set = _dmi_bits_get(bits, from);
    *stop = _dmi_bits_find(bits, from, *stop, !set);
    return set;
}

dmi_verdict _dmi_judge(dmi_sweep *sweep, const dmi_segment *segment, size_t from, size_t *stop,
                       bool rested) {
    bool whole = _dmi_unit_whole(segment, from);
    if (segment->units) {
        size_t unit_end = ((from >> _dmi_unit_shift()) + 1) << _dmi_unit_shift();
        if (*stop > unit_end) *stop = unit_end;
    }
    if (sweep->kind == DMI_PASS_DEFERRED)
        return segment->units && alike(segment->deferred, from, stop) && !whole ? DMI_GIVE
                                                                                : DMI_SKIP;
    bool waits = alike(segment->refused, from, stop);
    if (!waits && whole) waits = alike(segment->deferred, from, stop);
    if (waits && sweep->kind != DMI_PASS_ALL) {
        sweep->found += (uint64_t)(*stop - from) << _dmi_page_shift;
        sweep->refused += (uint64_t)(*stop - from) << _dmi_page_shift;
        return DMI_WAIT;
    }
    if (sweep->kind == DMI_PASS_AGE) {
        if (!rested && !alike(segment->aged, from, stop)) {
            sweep->found += (uint64_t)(*stop - from) << _dmi_page_shift;
            return DMI_LEAVE;
        }
    } else {
        size_t keep = let_some_stay(sweep, *stop - from);
        if (keep) {
            *stop = from + keep;
            return DMI_LEAVE;
        }
    }
    return whole ? DMI_DEFER : DMI_GIVE;
}
