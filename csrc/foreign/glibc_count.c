/* glibc_count.c - counts the chunks of a region of glibc's malloc. */
#include "glibc.h"

#include <string.h>

/* What is known about the page on which the last chunk ended. */
typedef struct edge {
    uint64_t page, free;
    unsigned busy; /* chunks on it that pin it: 0, 1, or 2 for several */
    uint64_t sole_at, sole_size;
} edge;

typedef struct counting {
    dmi_glibc_tally *tally;
    edge edge;
    dmi_glibc_pin pin;     /* of the last chunk that was alone on a page */
    uint64_t run, run_end; /* free chunks side by side, which malloc_trim joins */
} counting;

static void keep_pin(dmi_glibc_tally *t, const dmi_glibc_pin *pin) {
    if (!pin->pinned) return;
    dmi_glibc_pin *heap = t->pins;
    size_t n = t->pin_count, i;
    if (n < DMI_GLIBC_PINS) {
        for (i = n; i && heap[(i - 1) / 2].pinned > pin->pinned; i = (i - 1) / 2)
            heap[i] = heap[(i - 1) / 2];
        heap[i] = *pin;
        t->pin_count = n + 1;
        return;
    }
    if (pin->pinned <= heap[0].pinned) return;
    for (i = 0; 2 * i + 1 < n;) {
        size_t child = 2 * i + 1;
        if (child + 1 < n && heap[child + 1].pinned < heap[child].pinned) child++;
        if (heap[child].pinned >= pin->pinned) break;
        heap[i] = heap[child];
        i = child;
    }
    heap[i] = *pin;
}

static void leave_page(counting *c) {
    edge *e = &c->edge;
    if (e->busy == 1 && e->free) {
        if (c->pin.address != e->sole_at) {
            keep_pin(c->tally, &c->pin);
            c->pin = (dmi_glibc_pin){e->sole_at, e->sole_size, 0};
        }
        c->pin.pinned += e->free;
        c->tally->pinned += e->free;
    }
    e->busy = 0;
    e->free = 0;
}

static void count_on_pages(counting *c, const dmi_glibc_chunk *chunk, bool pins) {
    edge *e = &c->edge;
    uint64_t page = c->tally->page, end = chunk->address + chunk->size;
    uint64_t first = chunk->address / page, last = (end - 1) / page;
    if (first != e->page) {
        leave_page(c);
        e->page = first;
    }
    for (;;) {
        if (pins) {
            if (e->busy < 2) e->busy++;
            e->sole_at = chunk->address;
            e->sole_size = chunk->size;
        } else {
            uint64_t low = e->page == first ? chunk->address : e->page * page;
            uint64_t high = e->page == last ? end : (e->page + 1) * page;
            e->free += high - low;
        }
        if (e->page == last) return;
        leave_page(c);
        e->page = last; /* on the pages between there is nothing else */
    }
}

static void end_run(counting *c) {
    uint64_t start = c->run, end = c->run_end, page = c->tally->page;
    c->run = c->run_end = 0;
    /* As glibc's mtrim: the words of the chunk itself stay, and so does what fills no page. */
    if (end - start <= page - 1 + 48) return;
    uint64_t low = (start + 48 + page - 1) & ~(page - 1), high = end & ~(page - 1);
    if (high <= low) return;
    c->tally->trim += high - low;
    if (c->tally->pages) c->tally->pages(c->tally->context, low, high - low);
}

static void count_size(dmi_glibc_tally *t, uint64_t size) {
    if (size / 16 < DMI_GLIBC_SMALL) {
        t->small[size / 16]++;
        return;
    }
    size_t slot = (size_t)((size * 0x9e3779b97f4a7c15u) >> 52) % DMI_GLIBC_LARGE;
    for (int tries = 0; tries < 64; tries++, slot = (slot + 1) % DMI_GLIBC_LARGE) {
        if (t->large[slot].count && t->large[slot].size != size) continue;
        t->large[slot].size = size;
        t->large[slot].count++;
        return;
    }
    t->large_other++;
    t->large_other_bytes += size;
}

int _dmi_glibc_count(dmi_view *view, const dmi_glibc_region *region, unsigned retries,
                     dmi_glibc_tally *t) {
    dmi_glibc_walk walk;
    dmi_glibc_chunk chunk;
    counting c = {.tally = t};
    c.edge.page = UINT64_MAX;
    _dmi_glibc_begin(&walk, view, region, retries);
    while (_dmi_glibc_next(&walk, &chunk)) {
        t->chunks++;
        t->bytes[chunk.state] += chunk.size;
        t->counts[chunk.state]++;
        bool free = chunk.state == DMI_GLIBC_FREE || chunk.state == DMI_GLIBC_FAST;
        if (free) {
            if (c.run_end != chunk.address) {
                if (c.run_end) end_run(&c);
                c.run = chunk.address;
            }
            c.run_end = chunk.address + chunk.size;
        } else if (c.run_end) {
            /* malloc_trim joins free chunks right before the top with it. */
            if (chunk.state == DMI_GLIBC_TOP && c.run_end == chunk.address)
                t->before_top = c.run_end - c.run;
            else end_run(&c);
            c.run = c.run_end = 0;
        }
        if (chunk.state == DMI_GLIBC_BUSY) {
            count_size(t, chunk.size);
            if (chunk.size == t->cache_chunk && t->cache_count < DMI_GLIBC_CACHES)
                t->caches[t->cache_count++] = chunk.address;
        }
        count_on_pages(&c, &chunk, !free && chunk.state != DMI_GLIBC_TOP);
    }
    if (c.run_end) end_run(&c);
    leave_page(&c);
    keep_pin(t, &c.pin);
    return view->error;
}
