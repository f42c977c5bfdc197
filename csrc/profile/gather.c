/* gather.c - the watched pages of a heap, each with its busy blocks and what they pin.
 *
 * The free bytes of a page that is committed and not empty are pinned by its busy blocks in equal parts. A block's part
 * is the sum over the pages that it lies on, looked at in its whole run; a watched page stands for the blocks that
 * begin on it. So the parts of all blocks of a run sum up to what is pinned in it, and a block is in the sample with
 * the same probability wherever it lies.
 */
#include "gather.h"

#include "../block/watch.h"
#include "../heap/cache.h"
#include "../heap/registry.h"
#include "../heap/take.h"
#include "sampler.h"

#include <errno.h>
#include <string.h>

#define MORE 4096 /* pages that may be watched from now until they are gathered */

int _dmi_spots_begin(dmi_spots *spots) {
    size_t page = _dmi_os_page_size();
    size_t each = sizeof(dmi_spot) + DMI_WATCH_BLOCKS * sizeof(dmi_spot_block);
    memset(spots, 0, sizeof *spots);
    size_t size = ((_dmi_watch_count() + MORE) * each + page - 1) & ~(page - 1);
    spots->bytes = _dmi_os_reserve(size, page, DMI_OS_SPARSE, false, "dmi-profile");
    if (!spots->bytes) return ENOMEM;
    spots->reserved = size;
    if (_dmi_os_commit(spots->bytes, size, DMI_OS_LAZY) == 0) return 0;
    _dmi_spots_end(spots);
    return ENOMEM;
}

void _dmi_spots_end(dmi_spots *spots) {
    if (spots->bytes) (void)_dmi_os_release(spots->bytes, spots->reserved);
    spots->bytes = NULL;
}

/* ---- one run: its free map is asked for once, however many of its pages are watched -------------------- */

typedef struct look {
    dmi_spots *spots;
    const dmi_space *space;
    uint32_t heap;
    const dmi_run *run; /* whose map it is */
    bool known;
    dmi_blockmap map;
    uint16_t busy[DMI_RUN_PAGES_MAX]; /* blocks on each page of the run */
    uint32_t free[DMI_RUN_PAGES_MAX]; /* bytes in no busy block; of a page that is not usable 0 */
} look;

static bool is_busy(const look *at, const dmi_run *run, size_t block) {
    return block < run->carved && !_dmi_map_get(&at->map, block);
}

static void look_at(look *at, dmi_run *run) {
    at->run = run;
    _dmi_cache_take_run(atomic_load_explicit(&run->cache, memory_order_relaxed), run);
    at->known = _dmi_lfh_free_map(run, true, &at->map, NULL, NULL);
    if (!at->known) return;
    const size_t size = run->block_size, used = run->capacity * size;
    for (size_t p = 0; p < run->pages; p++) {
        size_t from = p << _dmi_page_shift, to = from + _dmi_page;
        size_t bytes = to <= used ? _dmi_page : from < used ? used - from : 0;
        at->busy[p] = 0;
        for (size_t i = from / size; i * size < to && i < run->carved; i++) {
            if (!is_busy(at, run, i)) continue;
            size_t start = i * size > from ? i * size : from;
            size_t end = (i + 1) * size < to ? (i + 1) * size : to;
            bytes -= end - start;
            at->busy[p]++;
        }
        at->free[p] = _dmi_page_usable(run->segment, run->first + p) ? (uint32_t)bytes : 0;
    }
}

/* What block i pins: of each page that it lies on an equal part. */
static double part_of(const look *at, const dmi_run *run, size_t i) {
    size_t first = i * run->block_size >> _dmi_page_shift;
    size_t last = ((i + 1) * run->block_size - 1) >> _dmi_page_shift;
    double sum = 0;
    for (size_t p = first; p <= last; p++)
        if (at->busy[p]) sum += (double)at->free[p] / at->busy[p];
    return sum;
}

static int add(void *argument, dmi_watch *watch) {
    look *at = argument;
    dmi_run *run = _dmi_watch_run(watch);
    dmi_spots *spots = at->spots;
    if (run->segment->space != at->space) return 0;
    size_t need = sizeof(dmi_spot) + watch->blocks * sizeof(dmi_spot_block);
    if (run != at->run) look_at(at, run);
    if (!at->known || spots->used + need > spots->reserved) {
        spots->lost++;
        return 0;
    }
    dmi_spot *spot = (dmi_spot *)(void *)(spots->bytes + spots->used);
    dmi_spot_block *blocks = (dmi_spot_block *)(void *)(spot + 1);
    size_t page = watch->page * DMI_WATCH_PAGE >> _dmi_page_shift, n = 0;
    double pinned = 0;
    for (size_t k = 0; k < watch->blocks; k++) {
        size_t i = watch->first + k;
        if (!is_busy(at, run, i)) continue;
        pinned += part_of(at, run, i);
        blocks[n].address = (uintptr_t)_dmi_lfh_block(run, i);
        blocks[n].size = run->block_size;
        uint32_t held = atomic_load_explicit(&watch->holder[k], memory_order_relaxed);
        blocks[n].stack = held & DMI_HOLDER_STACK;
        blocks[n++].times = _dmi_sampler_times(held);
    }
    bool usable = _dmi_page_usable(run->segment, run->first + page);
    spot->address = (uintptr_t)_dmi_run_base(run) + watch->page * DMI_WATCH_PAGE;
    spot->heap = at->heap;
    spot->every = watch->every;
    spot->blocks = (uint16_t)n;
    spot->fate = n || (usable && at->busy[page]) ? DMI_FATE_PINNED
                 : usable                        ? DMI_FATE_GOES_BACK
                                                 : DMI_FATE_EMPTY;
    /* A larger page of the system's goes back as a whole: this one's part. */
    double back = spot->fate == DMI_FATE_GOES_BACK
                      ? (double)at->free[page] * DMI_WATCH_PAGE / (double)_dmi_page
                      : 0;
    spot->free = (uint32_t)(pinned + back + 0.5);
    spots->used += sizeof *spot + n * sizeof *blocks;
    return 0;
}

bool _dmi_spots_add(dmi_spots *spots, void *handle, uint32_t number) {
    dmi_heap *heap = _dmi_heap_resolve(handle);
    if (!heap) return false;
    look at = {.spots = spots, .space = &heap->space, .heap = number};
    _dmi_lock(&heap->pass);
    if (_dmi_heap_freeze(heap)) {
        (void)_dmi_watch_each(add, &at);
        _dmi_heap_thaw(heap);
    } else {
        spots->lost++; /* at least one */
    }
    _dmi_unlock(&heap->pass);
    return true;
}

const dmi_spot *_dmi_spots_next(const dmi_spots *spots, const dmi_spot *spot) {
    const char *next = spots->bytes;
    if (spot) next = (const char *)(_dmi_spot_blocks(spot) + spot->blocks);
    if (next >= spots->bytes + spots->used) return NULL;
    return (const dmi_spot *)(const void *)next;
}
