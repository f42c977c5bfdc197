/* draw.c - pages that are carved already are drawn to be watched, run by run, with the run's lists at rest. */
#include "draw.h"

#include "../block/watch.h"
#include "registry.h"
#include "visit.h"

static void draw_run(dmi_visitor *visitor, dmi_heap *heap, dmi_cache *cache, dmi_run *run) {
    dmi_blockmap map;
    size_t in_flight;
    (void)heap;
    /* Where lists cannot be read the run stays as it is. */
    if (!cache || !visitor->taken || run->kind != DMI_RUN_LFH || _dmi_run_is_hard(run)) return;
    if (_dmi_lfh_free_map(run, true, &map, &in_flight, NULL))
        _dmi_watch_carved(run, &map, in_flight);
}

static int draw_heap(dmi_heap *heap, void *unused) {
    dmi_visitor visitor = {.run = draw_run, .lock = DMI_VISIT_TAKE};
    (void)unused;
    if (heap->flags & DMI_HEAP_NO_SERIALIZE) return 0; /* its owner alone may look */
    _dmi_lock(&heap->pass);
    _dmi_heap_visit(heap, &visitor);
    _dmi_unlock(&heap->pass);
    return 0;
}

void _dmi_draw_carved_pages(void) { (void)_dmi_heaps_each(draw_heap, NULL); }
