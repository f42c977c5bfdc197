/* units.c - huge pages: which units of 2 MiB go as a whole, which are split, which stay.
 *
 * The sweep defers what is due in whole units: so after it has visited everything, the deferred pages of a unit
 * and those that are uncommitted anyway are what is free of it.
 */
#include "engine.h"

static size_t committed_of(const dmi_segment *s, size_t unit) {
    return _dmi_bits_count(s->committed, unit << _dmi_unit_shift(), _dmi_unit_pages());
}
static size_t deferred_of(const dmi_segment *s, size_t unit) {
    return _dmi_bits_count(s->deferred, unit << _dmi_unit_shift(), _dmi_unit_pages());
}
static size_t offered_of(const dmi_segment *s, size_t unit) {
    return _dmi_bits_count(s->offered, unit << _dmi_unit_shift(), _dmi_unit_pages());
}

/* All that is committed of the unit is deferred: the policy wants none of it. */
static bool due(const dmi_segment *s, size_t unit) {
    size_t deferred = deferred_of(s, unit);
    return deferred && deferred == committed_of(s, unit) && !_dmi_bits_get(s->split, unit);
}

static void offer(dmi_sweep *sweep, dmi_segment *s, size_t unit) {
    size_t first = unit << _dmi_unit_shift(), end = first + _dmi_unit_pages();
    while ((first = _dmi_bits_find(s->deferred, first, end, true)) < end) {
        size_t to = _dmi_bits_find(s->deferred, first, end, false);
        if (_dmi_pages_offer(s, first, to - first) == 0)
            sweep->given += (uint64_t)(to - first) << _dmi_page_shift;
        first = to;
    }
}

void _dmi_units_drop(dmi_sweep *sweep, dmi_run *run) {
    dmi_segment *s = run->segment;
    size_t unit = (run->first + _dmi_unit_pages() - 1) >> _dmi_unit_shift();
    size_t end = (run->first + run->pages) >> _dmi_unit_shift();
    if (end > s->units) end = s->units;
    for (; unit < end; unit++) {
        if (_dmi_bits_get(s->split, unit)) {
            if (committed_of(s, unit) == 0) _dmi_unit_join(s, unit, true);
            continue;
        }
        if (!due(s, unit)) continue;
        if (sweep->how == DMI_HOW_OFFER) {
            offer(sweep, s, unit);
            continue;
        }
        size_t to = unit + 1;
        while (to < end && due(s, to)) to++;
        uint64_t gone = _dmi_units_decommit(s, unit, to - unit);
        sweep->space->free_committed -= gone;
        sweep->given += gone;
        unit = to - 1;
    }
}

/* Inside of one free run: sooner or later all of it will be due. */
static bool is_empty(const dmi_segment *s, size_t unit) {
    size_t first = unit << _dmi_unit_shift();
    for (size_t i = first; i < first + _dmi_unit_pages(); i++) {
        const dmi_run *run = _dmi_segment_run(s, i);
        if (run->kind != DMI_RUN_FREE && run->kind != DMI_RUN_NONE) return false;
    }
    return true;
}

static bool wants_split(const dmi_sweep *sweep, const dmi_segment *s, size_t unit) {
    size_t committed = committed_of(s, unit), deferred = deferred_of(s, unit),
           offered = offered_of(s, unit);
    /* Pages that were never used lie behind the same huge page; but unless something is due, it is
     * just the place where the heap grows. A trim wants those, too. */
    if (committed == offered || (deferred == 0 && sweep->kind != DMI_PASS_ALL)) return false;
    return _dmi_unit_pages() - committed + deferred + offered >= sweep->space->huge_need &&
           !is_empty(s, unit);
}

/* Every page of a split unit is in use again, and not about to go. */
static bool filled(const dmi_segment *s, size_t unit) {
    return committed_of(s, unit) == _dmi_unit_pages() && offered_of(s, unit) == 0 &&
           _dmi_bits_count(s->aged, unit << _dmi_unit_shift(), _dmi_unit_pages()) == 0;
}

size_t _dmi_units_judge(dmi_sweep *sweep) {
    dmi_space *space = sweep->space;
    size_t split = 0;
    /* Runs that hold no whole unit stand in lower bins only. */
    for (size_t bin = 0; bin < DMI_WARMTHS * DMI_BINS; bin++)
        for (dmi_run *run = space->bins[bin % DMI_WARMTHS][bin / DMI_WARMTHS]; run; run = run->next)
            if (run->pages >= _dmi_unit_pages() && run->segment->units) _dmi_units_drop(sweep, run);
    for (dmi_segment *s = space->segments; s; s = s->next)
        for (size_t unit = 0; unit < s->units; unit++) {
            if (!_dmi_bits_get(s->split, unit)) {
                if (wants_split(sweep, s, unit)) split += _dmi_segment_split_unit(s, unit);
            } else if (filled(s, unit)) {
                _dmi_unit_join(s, unit, false);
            }
        }
    if (sweep->how != DMI_HOW_OFFER) (void)_dmi_segments_release(space, false);
    return split;
}

void _dmi_units_settle(dmi_space *space) {
    for (dmi_segment *s = space->segments; s; s = s->next)
        if (s->units) _dmi_bits_put(s->opening, 0, s->units, false);
}
