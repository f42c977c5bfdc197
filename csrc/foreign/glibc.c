/* glibc.c - walks the chunks of a region of glibc's malloc. */
#include "glibc.h"

#include <string.h>

#define PREV_INUSE ((uint64_t)1)
#define MMAPPED ((uint64_t)2)
#define FOREIGN ((uint64_t)4) /* of another arena than the main one; not set in free chunks */
#define FLAGS ((uint64_t)7)
#define LEAST ((uint64_t)32)
#define HEADER ((uint64_t)16)
/* A place is taken for a chunk again when so many chunks in a row make sense there. */
#define PROOF 8

void _dmi_glibc_begin(dmi_glibc_walk *walk, dmi_view *view, const dmi_glibc_region *region,
                      unsigned retries) {
    memset(walk, 0, sizeof *walk);
    walk->view = view;
    walk->region = *region;
    walk->at = region->from;
    walk->retries = retries;
    if (walk->at % 16 || region->end % 16 || walk->at >= region->end) walk->ended = true;
}

/* Can this be the size word of a chunk at that address of the region? */
static bool sane(const dmi_glibc_region *r, uint64_t at, uint64_t head) {
    uint64_t size = head & ~FLAGS;
    return size >= LEAST && !(head & (MMAPPED | 8)) && size <= r->end - at &&
           !(head & FOREIGN & ~r->flags);
}

/* Is it a fence? malloc puts fences at the end of a stretch that it left behind: headers that say a size of 16 or 0. A
 * free chunk before a fence clears its PREV_INUSE. */
static bool is_fence(uint64_t head) {
    return head == PREV_INUSE || head == HEADER || head == (HEADER | PREV_INUSE);
}

/* Do enough chunks in a row make sense from here on? */
static bool proves(dmi_glibc_walk *w, uint64_t at) {
    const dmi_glibc_region *r = &w->region;
    for (int n = 0; n < PROOF; n++) {
        if (at == r->end || at == r->top) return n > 0 || at == r->top;
        const uint64_t *pair = _dmi_view_pair(w->view, at);
        if (!pair) return false;
        /* A fence ends the row. After one chunk it counts only if it says that this chunk is free, since its size was
         * compared then. */
        if (!sane(r, at, pair[1]))
            return is_fence(pair[1]) && (n > 1 || (n == 1 && pair[1] == HEADER));
        uint64_t size = pair[1] & ~FLAGS;
        bool foreign = pair[1] & FOREIGN;
        at += size;
        if (at == r->end) return true;
        pair = _dmi_view_pair(w->view, at);
        if (!pair) return false;
        if (pair[1] & PREV_INUSE ? foreign != (r->flags != 0) : pair[0] != size) return false;
    }
    return true;
}

/* The next address from `from` on at which chunks make sense again, after the one at `at` made none. */
static uint64_t resume(dmi_glibc_walk *w, uint64_t at, uint64_t from) {
    const dmi_glibc_region *r = &w->region;
    uint64_t last = r->top > at && r->top < r->end ? r->top : r->end;
    for (uint64_t q = from; q < last && !w->view->error;) {
        const uint64_t *pair = _dmi_view_pair(w->view, q);
        if (!pair) {
            uint64_t on = w->view->piece.goes_on;
            q = on > q ? (on + 15) & ~(uint64_t)15 : q + 16;
            continue;
        }
        if (sane(r, q, pair[1]) && proves(w, q)) return q;
        q += 16;
    }
    return last;
}

/* Is the chunk in a fastbin? Steps along the sorted addresses, as the walk does. */
static bool find_fast(dmi_glibc_walk *w, uint64_t at) {
    const dmi_glibc_region *r = &w->region;
    while (w->fast < r->fast_count && r->fast[w->fast] < at) w->fast++;
    return w->fast < r->fast_count && r->fast[w->fast] == at;
}

/* Step over a stretch that makes no sense, and describe it in *chunk. */
static void skip_gap(dmi_glibc_walk *w, dmi_glibc_chunk *chunk, uint64_t from) {
    uint64_t at = w->at;
    w->at = resume(w, at, from);
    w->head = 0;
    w->again = 0;
    *chunk = (dmi_glibc_chunk){at, w->at - at, DMI_GLIBC_UNKNOWN};
}

/* Read the size word of the next chunk, unless it is read. False: *chunk is a stretch that makes no sense, or the walk
 * has ended. */
static bool read_head(dmi_glibc_walk *w, dmi_glibc_chunk *chunk) {
    const dmi_glibc_region *r = &w->region;
    for (;;) {
        if (!w->head) {
            const uint64_t *pair = _dmi_view_pair(w->view, w->at);
            if (!pair) {
                if (w->view->error) return w->ended = true, false;
                uint64_t on = w->view->piece.goes_on;
                skip_gap(w, chunk, on > w->at ? (on + 15) & ~(uint64_t)15 : w->at + 16);
                return false;
            }
            w->head = pair[1];
        }
        if (w->at == r->top || sane(r, w->at, w->head) || is_fence(w->head)) return true;
        if (w->again++ == w->retries) {
            skip_gap(w, chunk, w->at + 16);
            return false;
        }
        _dmi_view_forget(w->view);
        w->head = 0;
    }
}

bool _dmi_glibc_next(dmi_glibc_walk *w, dmi_glibc_chunk *chunk) {
    const dmi_glibc_region *r = &w->region;
    if (w->ended || w->at >= r->end) return false;
    chunk->size = 0;
    if (!read_head(w, chunk)) return !w->ended || chunk->size != 0;
    uint64_t at = w->at, size = w->head & ~FLAGS;
    bool foreign = w->head & FOREIGN;
    chunk->address = at;
    if (at == r->top) {
        bool makes_sense = size > HEADER; /* a top has room for a chunk */
        chunk->size = size > r->end - at || !makes_sense ? r->end - at : size;
        chunk->state = makes_sense ? DMI_GLIBC_TOP : DMI_GLIBC_UNKNOWN;
        w->ended = true;
        return true;
    }
    if (size <= HEADER) {
        chunk->size = HEADER;
        chunk->state = DMI_GLIBC_FENCE;
        w->at = at + HEADER;
        w->head = 0;
        return true;
    }
    uint64_t next = at + size, cached = 0, next_head = 0;
    dmi_glibc_state state = DMI_GLIBC_BUSY;
    if (r->key) {
        const uint64_t *user = _dmi_view_pair(w->view, at + HEADER);
        cached = user ? user[1] : 0;
    }
    if (next < r->end) {
        const uint64_t *pair = _dmi_view_pair(w->view, next);
        if (!pair) state = DMI_GLIBC_UNKNOWN;
        else {
            next_head = pair[1];
            if (!(next_head & PREV_INUSE))
                state = pair[0] == size ? DMI_GLIBC_FREE : DMI_GLIBC_UNKNOWN;
            else if (foreign != (r->flags != 0)) state = DMI_GLIBC_UNKNOWN;
        }
    }
    if (state == DMI_GLIBC_BUSY) {
        if (r->key && cached == r->key) state = DMI_GLIBC_TCACHE;
        else if (r->fast_count && find_fast(w, at)) state = DMI_GLIBC_FAST;
    } else if (state == DMI_GLIBC_UNKNOWN && next_head && w->again++ < w->retries) {
        /* The program may have changed it between two looks: read it again. */
        _dmi_view_forget(w->view);
        w->head = 0;
        return _dmi_glibc_next(w, chunk);
    }
    w->again = 0;
    w->at = next;
    w->head = next_head;
    chunk->size = size;
    chunk->state = state;
    return true;
}
