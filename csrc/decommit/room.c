/* room.c - giving back what lets a refused request be served. */
#include "room.h"

/* The run that is the whole segment, free; NULL: something in it is used, or it is the one that stays. */
static dmi_run *free_whole(const dmi_space *space, dmi_segment *segment) {
    if (segment == space->segments) return NULL;
    dmi_run *run = _dmi_segment_run(segment, 0);
    return _dmi_run_is_free(run) && run->pages == segment->pages ? run : NULL;
}

uint64_t _dmi_room_gain(const dmi_engine *engine, bool pages) {
    const dmi_space *space = engine->space;
    uint64_t gain = space->kept_bytes;
    for (dmi_segment *s = space->segments; s; s = s->next)
        if (free_whole(space, s)) gain += s->reserved;
    if (pages) gain += space->free_committed + engine->list->free_bytes;
    return gain;
}

size_t _dmi_room_give_run(dmi_space *space, dmi_run *run, size_t bytes) {
    dmi_segment *segment = run->segment;
    size_t given = 0, first = run->first, end = first + run->pages;
    while (given < bytes && end > first) {
        size_t pages = 0;
        while (end > first && !_dmi_bits_get(segment->committed, end - 1)) end--;
        while (end - pages > first && (pages << _dmi_page_shift) < bytes - given &&
               _dmi_bits_get(segment->committed, end - pages - 1) &&
               !_dmi_bits_get(segment->refused, end - pages - 1))
            pages++;
        if (pages == 0 || _dmi_pages_decommit(segment, end - pages, pages)) break;
        end -= pages;
        space->free_committed -= (uint64_t)pages << _dmi_page_shift;
        given += pages << _dmi_page_shift;
    }
    _dmi_run_note_cold(space, run);
    return given;
}

void _dmi_room_make(const dmi_engine *engine, bool pages) {
    dmi_space *space = engine->space;
    if (pages) {
        dmi_sweep sweep;
        _dmi_sweep_init(&sweep, engine, DMI_PASS_ALL, 0);
        if (sweep.how == DMI_HOW_OFFER) sweep.how = DMI_HOW_DISCARD;
        _dmi_sweep_backend(&sweep);
        return;
    }
    while (space->kept) _dmi_virtual_drop(space, space->kept);
    for (dmi_segment *s = space->segments; s; s = s->next) {
        dmi_run *run = free_whole(space, s);
        if (run) (void)_dmi_room_give_run(space, run, SIZE_MAX);
    }
    (void)_dmi_segments_release(space, false);
}
