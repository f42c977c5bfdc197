/* floors.h - what the tests of floors 2 and 3 share: a fresh fake system for each page size, and the
 * invariants of a space.
 *
 * The page map lives as long as its process, so each page size gets a process of its own: bodies run
 * in a child where there is fork, and with the smallest page only where there is none. A body must not
 * use CHECK or REQUIRE, whose counts die with the child, but ENSURE, which ends it.
 */
#ifndef DMI_FLOORS_H
#define DMI_FLOORS_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "os/fake.h"
#include "segment/segment.h"
#include "test.h"

static unsigned long floors_step; /* printed with a failure */

#define ENSURE(condition)                                                                          \
    ((condition) ? (void)0                                                                         \
                 : (test_failed(__FILE__, __LINE__, "%s (page size %u, step %lu)", #condition,     \
                                (unsigned)_dmi_os_page_size(), floors_step),                       \
                    abort()))
#define ENSURE_EQ(left, right)                                                                     \
    (test_check_equal(__FILE__, __LINE__, #left, #right, (uint64_t)(left), (uint64_t)(right))      \
         ? (void)0                                                                                 \
         : (test_failed(__FILE__, __LINE__, "(page size %u, step %lu)",                            \
                        (unsigned)_dmi_os_page_size(), floors_step),                               \
            abort()))

typedef struct floors_job {
    size_t page;
    void (*body)(void);
} floors_job;

static void floors_run(void *argument) {
    const floors_job *job = argument;
    _dmi_os_use(&_dmi_fake_backend);
    _dmi_fake_setup(job->page, 0);
    job->body();
}

/* Run body on fresh fake systems with pages of 4, 16 and 64 KiB. */
__attribute__((unused)) static void floors_each_page_size(void (*body)(void)) {
    for (size_t page = 4096; page <= 65536; page *= 4) {
        if (!test_has_fork && page > 4096) break;
        if (page < _dmi_os_native.page_size()) continue;
        floors_job job = {page, body};
        if (test_dies(floors_run, &job))
            test_failed(__FILE__, __LINE__, "the body died, pages of %u bytes", (unsigned)page);
    }
}

#define TEST_EACH_PAGE(name)                                                                       \
    static void body_##name(void);                                                                 \
    TEST(name) { floors_each_page_size(body_##name); }                                             \
    static void body_##name(void)

static inline size_t floors_bin(size_t pages) {
    size_t bin = 64, low = 64;
    if (pages < 64) return pages;
    while (pages >= low * 2) {
        low *= 2;
        bin += 8;
    }
    bin += (pages - low) / (low / 8);
    return bin < DMI_BINS ? bin : DMI_BINS - 1;
}

static inline void floors_check_page(const dmi_segment *segment, size_t page) {
    const char *address = segment->base + (page << _dmi_page_shift);
    dmi_fake_page state = _dmi_fake_state(address);
    bool committed = _dmi_bits_get(segment->committed, page);
    bool offered = _dmi_bits_get(segment->offered, page);
    ENSURE_EQ(committed, state == DMI_FAKE_COMMITTED || state == DMI_FAKE_OFFERED);
    ENSURE_EQ(offered, state == DMI_FAKE_OFFERED);
}

static inline void floors_check_segment(const dmi_space *space, const dmi_segment *segment,
                                        size_t *free_runs, uint64_t *free_bytes) {
    ENSURE(segment->space == space);
    ENSURE_EQ(segment->size, segment->pages << _dmi_page_shift);
    ENSURE((uintptr_t)segment->base % _dmi_page == 0);
    bool last_free = false;
    size_t runs = 0;
    for (size_t page = 0; page < segment->pages;) {
        dmi_run *run = _dmi_segment_run(segment, page);
        ENSURE(run != NULL && run != &_dmi_no_run);
        ENSURE(run->segment == segment);
        ENSURE_EQ(run->first, page);
        ENSURE(run->pages > 0 && page + run->pages <= segment->pages);
        bool is_free = _dmi_run_is_free(run); /* withheld ones belong to nobody else */
        runs++;
        ENSURE(run->kind > DMI_RUN_NONE && run->kind < DMI_RUN_VIRTUAL);
        ENSURE(!(is_free && last_free)); /* free neighbours were coalesced */
        for (size_t i = 0; i < run->pages; i++) {
            bool end = i == 0 || i == run->pages - 1;
            char *address = _dmi_run_base(run) + (i << _dmi_page_shift);
            dmi_run *expected = is_free && !end ? &_dmi_no_run : run;
            ENSURE(_dmi_pagemap_find(address) == expected);
            ENSURE(_dmi_pagemap_find(address + _dmi_page - 1) == expected);
            floors_check_page(segment, page + i);
        }
        if (is_free) {
            ++*free_runs;
            *free_bytes += _dmi_run_committed(run);
        }
        last_free = is_free;
        page += run->pages;
    }
    for (const dmi_run *spare = segment->spare_runs; spare; spare = spare->next) runs++;
    ENSURE_EQ(segment->runs_used, runs); /* no descriptor was lost */
    ENSURE(_dmi_fake_state(segment->reservation) == DMI_FAKE_COMMITTED);
    ENSURE(_dmi_fake_state(segment->reservation + segment->meta_committed - 1) ==
           DMI_FAKE_COMMITTED);
    ENSURE((char *)(segment->runs + segment->runs_used) <=
           segment->reservation + segment->meta_committed);
    ENSURE((char *)(segment->runs + segment->runs_used) <= (char *)segment->given_at);
    ENSURE_EQ(segment->has_given_at, _dmi_fake_state(segment->given_at) == DMI_FAKE_COMMITTED);
    ENSURE_EQ(segment->has_page_busy, _dmi_fake_state(segment->page_busy) == DMI_FAKE_COMMITTED);
}

/* Decommit pages of a free run, as the engine does it. */
static inline void floors_give_free(dmi_space *space, dmi_segment *segment, size_t first,
                                    size_t count) {
    size_t had = _dmi_bits_count(segment->committed, first, count);
    if (_dmi_pages_decommit(segment, first, count) == 0)
        space->free_committed -= had << _dmi_page_shift;
}

/* Everything that must hold of a space between two operations. */
static inline void floors_check_space(const dmi_space *space) {
    size_t segments = 0, free_runs = 0, in_bins = 0;
    uint64_t reserved = 0, free_bytes = 0;
    const dmi_segment *last = NULL;
    for (const dmi_segment *s = space->segments; s; s = s->next) {
        ENSURE(s->prev == last);
        last = s;
        segments++;
        reserved += s->size;
        floors_check_segment(space, s, &free_runs, &free_bytes);
    }
    ENSURE(space->last_segment == last);
    ENSURE_EQ(space->segment_count, segments);
    for (const dmi_run *run = space->virtuals; run; run = run->next) reserved += run->segment->size;
    for (const dmi_run *run = space->kept; run; run = run->next) reserved += run->segment->size;
    ENSURE_EQ(space->reserved, reserved);
    for (size_t at = 0; at < DMI_WARMTHS * DMI_BINS; at++) {
        size_t bin = at / DMI_WARMTHS, warmth = at % DMI_WARMTHS;
        const dmi_run *before = NULL, *first = space->bins[warmth][bin];
        ENSURE_EQ((space->bin_map[warmth][bin / 64] >> (bin % 64)) & 1, first != NULL);
        for (const dmi_run *run = first; run; before = run, run = run->next) {
            ENSURE(run->prev == before);
            ENSURE_EQ(run->kind, DMI_RUN_FREE);
            ENSURE_EQ(floors_bin(run->pages), bin);
            ENSURE_EQ(run->place, warmth);
            ENSURE(_dmi_pagemap_get(_dmi_run_base(run)) == run);
            in_bins++;
        }
    }
    ENSURE_EQ(in_bins, free_runs);
    ENSURE_EQ(space->free_committed, free_bytes);
    dmi_os_counters counters;
    _dmi_os_counters(&counters);
    ENSURE_EQ(counters.committed_bytes, _dmi_fake_committed());
}

/* Set while every call fails: what a failed commit began cannot be undone then, so that only the runs
 * must be as they were. */
static bool floors_no_undo;
/* Set where a failure may leave a segment that is reserved, and nothing else. */
static bool floors_skip_empty;

/* A number that stands for the layout of a space: runs, commit map, reservations. What a failure must
 * leave alone. */
static inline uint64_t floors_hash(const dmi_space *space) {
    uint64_t hash = 1469598103934665603u;
#define MIX(value) (hash = (hash ^ (uint64_t)(value)) * 1099511628211u, hash ^= hash >> 29)
    if (!floors_skip_empty) MIX(space->reserved);
    if (!floors_skip_empty) MIX(space->segment_count);
    for (const dmi_segment *s = space->segments; s; s = s->next) {
        if (floors_skip_empty && _dmi_segment_run(s, 0)->pages == s->pages &&
            _dmi_segment_run(s, 0)->kind == DMI_RUN_FREE &&
            _dmi_bits_count(s->committed, 0, s->pages) == 0)
            continue;
        MIX((uintptr_t)s->base);
        for (size_t page = 0; page < s->pages;) {
            const dmi_run *run = _dmi_segment_run(s, page);
            MIX(run->kind);
            MIX(run->pages);
            page += run->pages;
        }
        for (size_t w = 0; w < _dmi_bits_words(s->pages) && !floors_no_undo; w++) {
            MIX(s->committed[w]);
            MIX(s->offered[w]);
        }
    }
    for (const dmi_run *run = space->virtuals; run; run = run->next) {
        MIX((uintptr_t)run->segment->base);
        MIX(run->segment->size);
    }
    /* Where kept ones are cut is nobody's concern. */
    const char *end = NULL;
    for (const dmi_run *run = space->kept; run; run = run->next) {
        if (run->segment->base != end) {
            MIX((uintptr_t)end);
            MIX((uintptr_t)run->segment->base);
        }
        end = run->segment->base + run->segment->size;
    }
    MIX((uintptr_t)end);
#undef MIX
    return hash;
}

#endif
