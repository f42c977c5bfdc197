/* huge.c - units of 2 MiB that a huge page may back: whole, or split into pages. */
#include "segment.h"

/* A STRICT space needs no advice for split units: as long as a page of one is uncommitted it is more than
 * one mapping, which no huge page spans, and then it is ready to be joined anyway. */
static bool may_be_huge(const dmi_segment *s, size_t unit) {
    return s->space->mode == DMI_OS_STRICT || !_dmi_bits_get(s->split, unit);
}

void _dmi_units_advise(dmi_segment *s) {
    /* One touched byte of the metadata must not cost 2 MiB; nor of the rest at the end, which could make
     * a unit with the mapping behind it. */
    char *end = s->base + s->units * DMI_HUGE;
    size_t rest = s->size - s->units * DMI_HUGE;
    _dmi_os_advise_huge(s->reservation, (size_t)(s->base - s->reservation), false);
    if (rest) _dmi_os_advise_huge(end, rest, false);
    for (size_t u = 0; u < s->units;) {
        bool huge = may_be_huge(s, u);
        size_t to = u + 1;
        while (to < s->units && may_be_huge(s, to) == huge) to++;
        _dmi_os_advise_huge(s->base + u * DMI_HUGE, (to - u) * DMI_HUGE, huge);
        u = to;
    }
}

bool _dmi_segment_split_unit(dmi_segment *s, size_t unit) {
    if (!_dmi_segment_cut_unit(s, unit)) return false;
    _dmi_bits_put(s->opening, unit, 1, true);
    _dmi_bits_put(s->split, unit, 1, true);
    return true;
}

void _dmi_unit_break(dmi_segment *s, size_t unit) {
    char *base = s->base + unit * DMI_HUGE;
    /* Or the kernel's khugepaged would fill the holes again. */
    if (!may_be_huge(s, unit)) _dmi_os_advise_huge(base, DMI_HUGE, false);
    _dmi_os_break_huge(base, DMI_HUGE);
}

void _dmi_unit_join(dmi_segment *s, size_t unit, bool empty) {
    if (!_dmi_segment_cut_unit(s, unit)) return;
    _dmi_bits_put(s->split, unit, 1, false);
    if (s->space->mode == DMI_OS_STRICT) return;
    /* A page table that was there once stays, and then no touch brings a huge page any more. A fresh
     * mapping has none; it also gets the advice of its reservation again. */
    if (!empty || _dmi_os_convert(s->base + unit * DMI_HUGE, DMI_HUGE, DMI_OS_LAZY))
        _dmi_os_advise_huge(s->base + unit * DMI_HUGE, DMI_HUGE, true);
}

uint64_t _dmi_units_decommit(dmi_segment *s, size_t unit, size_t count) {
    size_t first = unit << _dmi_unit_shift(), pages = count << _dmi_unit_shift();
    size_t end = first + pages, had = _dmi_bits_count(s->committed, first, pages);
    bool at_once = s->space->mode == DMI_OS_LAZY;
    if (at_once) {
        /* One call for the whole, or the kernel would split the huge pages first. */
        if (_dmi_os_decommit(s->base + unit * DMI_HUGE, count * DMI_HUGE, DMI_OS_LAZY)) {
            for (size_t i = first; i < end; i++)
                if (_dmi_bits_get(s->committed, i)) _dmi_bits_put(s->refused, i, 1, true);
            atomic_fetch_add_explicit(&s->space->ledger.refused_calls, 1, memory_order_relaxed);
            return 0;
        }
        /* It counted what was not committed, too. */
        _dmi_os_uncount((size_t)0 - ((pages - had) << _dmi_page_shift));
    }
    uint64_t calls = 1;
    for (size_t i = first; i < end;) {
        size_t from = _dmi_bits_find(s->committed, i, end, true);
        if (from == end) break;
        size_t to = _dmi_bits_find(s->committed, from, end, false);
        if (at_once) _dmi_pages_note_decommit(s, from, to - from, calls);
        else (void)_dmi_pages_decommit(s, from, to - from);
        calls = 0;
        i = to;
    }
    return (uint64_t)(had - _dmi_bits_count(s->committed, first, pages)) << _dmi_page_shift;
}

void _dmi_units_forget(dmi_segment *s, size_t first, size_t count) {
    size_t end = first + count;
    if (s->space->mode == DMI_OS_STRICT) return;
    while (first < end) {
        size_t unit = first >> _dmi_unit_shift(), stop = (unit + 1) << _dmi_unit_shift();
        if (stop > end) stop = end;
        if (unit < s->units && _dmi_bits_get(s->opening, unit)) {
            for (size_t i = first; i < stop;) {
                size_t from = _dmi_bits_find(s->committed, i, stop, false);
                if (from == stop) break;
                i = _dmi_bits_find(s->committed, from, stop, true);
                _dmi_os_forget(s->base + (from << _dmi_page_shift), (i - from) << _dmi_page_shift);
            }
        }
        first = stop;
    }
}
