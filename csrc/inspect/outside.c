/* outside.c - where the heaps of another process lie and what they hold, by their descriptors alone. */
#include "account.h"
#include "walk.h"

#include <errno.h>
#include <string.h>

#define PLACES 32

typedef struct outside {
    dmi_image image;
    dmi_outside_visit visit;
    void *argument;
    dmi_outside_heap heap;
    dmi_account sum;
} outside;

/* Add pages that no run covers which makes sense: what is usable of them counts as overhead. */
static void add_unknown(dmi_account *sum, const dmi_segment *segment, size_t first, size_t pages) {
    dmi_account a;
    _dmi_account_free(segment, first, pages, &a);
    sum->bytes += a.bytes;
    sum->uncommitted += a.uncommitted;
    sum->offered += a.offered;
    sum->overhead += a.free_pages;
}

/* Does an account make sense? The process may have changed the run while it was read. */
static bool sound(const dmi_account *a) {
    return a->busy <= a->bytes && a->free_lfh <= a->bytes && a->free_list <= a->bytes &&
           a->overhead <= a->bytes && a->busy_blocks <= a->bytes &&
           a->bytes == a->uncommitted + a->offered + a->busy + a->free_lfh + a->free_list +
                           a->free_pages + a->overhead;
}

static void add_run(dmi_account *sum, const dmi_heap *heap, const dmi_run *run) {
    dmi_account a;
    memset(&a, 0, sizeof a);
    _dmi_account_add(heap, run, &a);
    if (!sound(&a)) {
        add_unknown(sum, run->segment, run->first, run->pages);
        return;
    }
    sum->bytes += a.bytes;
    sum->uncommitted += a.uncommitted;
    sum->offered += a.offered;
    sum->busy += a.busy;
    sum->free_lfh += a.free_lfh;
    sum->free_list += a.free_list;
    sum->free_pages += a.free_pages;
    sum->overhead += a.overhead;
    sum->busy_blocks += a.busy_blocks;
}

static int see_segment(outside *o, const dmi_place *place) {
    const dmi_segment *segment = _dmi_image_segment(&o->image, place->at);
    if (!segment || segment->size != place->size || (uintptr_t)segment->base != place->base)
        return 0; /* it is gone, or another one is in its place */
    for (size_t page = 0, next; page < segment->pages; page = next) {
        const dmi_run *run = _dmi_image_covering(&o->image, page, &next);
        if (run && run->first == page) add_run(&o->sum, o->image.heap, run);
        else add_unknown(&o->sum, segment, page, next - page);
    }
    dmi_segment_info told = _dmi_segment_told(segment);
    return o->visit(o->argument, &o->heap, &told);
}

static int see_virtual(outside *o, const dmi_place *place) {
    const dmi_run *run = _dmi_image_virtual(&o->image, place->at);
    if (!run || run->segment->size != place->size || (uintptr_t)run->segment->base != place->base)
        return 0;
    dmi_account a;
    _dmi_account_virtual(o->image.heap, run, &a);
    o->sum.bytes += a.bytes;
    o->sum.busy += a.busy;
    o->sum.free_pages += a.free_pages;
    o->sum.offered += a.offered;
    o->sum.overhead += a.overhead;
    o->sum.busy_blocks += a.busy_blocks;
    dmi_segment_info told = _dmi_virtual_told(run);
    return o->visit(o->argument, &o->heap, &told);
}

static int see_heap(void *argument, uint64_t address) {
    outside *o = argument;
    const dmi_heap *heap = _dmi_image_heap(&o->image, address);
    dmi_place places[PLACES];
    if (!heap) return 0;
    o->heap = (dmi_outside_heap){.size = sizeof o->heap, .handle = (uintptr_t)heap->handle};
    _Static_assert(sizeof o->heap.name == sizeof heap->name, "names are of one length");
    memcpy(o->heap.name, heap->name, sizeof o->heap.name - 1);
    memset(&o->sum, 0, sizeof o->sum);
    bool more = true;
    for (uint64_t from = 0; more;) {
        size_t n = _dmi_image_places(&o->image, from, places, PLACES, &more);
        for (size_t i = 0; i < n; i++) {
            int stopped = (places[i].is_virtual ? see_virtual : see_segment)(o, &places[i]);
            if (stopped) return stopped;
            from = places[i].base + places[i].size;
        }
        if (n == 0) break;
    }
    dmi_account *sum = &o->sum;
    o->heap.reserved = sum->bytes;
    o->heap.uncommitted = sum->uncommitted;
    o->heap.committed = sum->bytes - sum->uncommitted;
    o->heap.busy = sum->busy;
    o->heap.free_lfh = sum->free_lfh;
    o->heap.free_list = sum->free_list;
    o->heap.free_pages = sum->free_pages;
    o->heap.offered = sum->offered;
    o->heap.overhead = sum->overhead;
    o->heap.busy_blocks = sum->busy_blocks;
    return o->visit(o->argument, &o->heap, NULL);
}

/* ---- opening what is outside -------------------------------------------------------------------------- */

static dmi_copies *make_copies(int *error) {
    size_t page = _dmi_os_page_size(), size = (sizeof(dmi_copies) + page - 1) & ~(page - 1);
    dmi_copies *copies = _dmi_os_reserve(size, page, DMI_OS_LAZY, false, "dmi: copies");
    *error = copies ? _dmi_os_commit(copies, size, DMI_OS_LAZY) : ENOMEM;
    if (copies && *error) {
        (void)_dmi_os_release(copies, size);
        return NULL;
    }
    return copies;
}

static void drop_copies(dmi_copies *copies) {
    size_t page = _dmi_os_page_size(), size = (sizeof(dmi_copies) + page - 1) & ~(page - 1);
    _dmi_os_uncount(size);
    (void)_dmi_os_release(copies, size);
}

int dmi_outside_heaps(dmi_read read, void *context, uint64_t root, dmi_outside_visit visit,
                      void *argument) {
    dmi_reader reader = {.read = read, .context = context};
    outside o = {.visit = visit, .argument = argument};
    int error, stopped = 0;
    dmi_copies *copies = make_copies(&error);
    if (copies) {
        error = _dmi_image_open(&o.image, &reader, copies, root);
        if (!error) stopped = _dmi_image_heaps(&o.image, see_heap, &o);
        drop_copies(copies);
    }
    if (error) {
        errno = error;
        return -1;
    }
    return stopped;
}

/* ---- ranges -------------------------------------------------------------------------------------------- */

typedef struct sought {
    dmi_image *image;
    uint64_t handle;
} sought;

static int is_it(void *argument, uint64_t address) {
    const sought *s = argument;
    const dmi_heap *heap = _dmi_image_heap(s->image, address);
    return heap && (uintptr_t)heap->handle == s->handle;
}

int dmi_outside_walk(dmi_read read, void *context, uint64_t root, uint64_t handle, uint64_t *from,
                     dmi_range *out, size_t capacity, size_t *count) {
    dmi_reader reader = {.read = read, .context = context};
    dmi_image image;
    int error;
    *count = 0;
    if (*from == UINT64_MAX) return 0;
    if (capacity < DMI_WALK_CHUNK) {
        errno = EINVAL;
        return -1;
    }
    dmi_copies *copies = make_copies(&error);
    if (copies) {
        sought s = {.image = &image, .handle = handle};
        error = _dmi_image_open(&image, &reader, copies, root);
        if (!error && !_dmi_image_heaps(&image, is_it, &s)) error = ESRCH;
        if (!error) _dmi_walk_image_chunk(&image, from, out, capacity, count);
        drop_copies(copies);
    }
    if (error) {
        errno = error;
        return -1;
    }
    return 0;
}
