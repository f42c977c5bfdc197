/* test_inspect.c - stats, walk, find and validate: what they say of each kind of byte, and of each kind of
 * damage. */
#include <errno.h>

#include "heaps.h"

static dmi_found look(const void *address) {
    dmi_found found = {.size = sizeof found};
    ENSURE_EQ(dmi_find(address, &found), 0);
    return found;
}

TEST_EACH_PAGE(find_names_every_block_from_every_byte) {
    void *heap = heaps_create("never", 0);
    for (size_t size = 1; size < 6000000; size = size * 4 + 7)
        for (int lfh = 0; lfh < 2; lfh++) {
            for (int i = 0; i < 20 && lfh; i++) ENSURE(dmi_heap_malloc(heap, size));
            unsigned char *b = dmi_heap_malloc(heap, size);
            size_t usable = dmi_usable_size(b), step = usable > 5000 ? usable / 1000 : 1;
            for (size_t i = 0; i < usable; i += step) {
                dmi_found found = look(b + i);
                ENSURE_EQ(found.range.address, (uintptr_t)b);
                ENSURE_EQ(found.range.size, usable);
                ENSURE_EQ(found.range.state, DMI_STATE_BUSY);
                ENSURE(found.heap == heap);
            }
            dmi_heap_free(heap, b);
            ENSURE_EQ(look(b).range.state, DMI_STATE_FREE);
            ENSURE_EQ(look(b + usable - 1).range.state, DMI_STATE_FREE);
            ENSURE_EQ(dmi_heap_trim(heap, NULL), 0);
            dmi_found found = {
                .size = sizeof found}; /* gone, if it had its mapping or segment to itself */
            if (dmi_find(b, &found)) ENSURE(errno == ENOENT && size > 200000);
            else
                ENSURE(found.range.state == DMI_STATE_FREE ||
                       found.range.state == DMI_STATE_UNCOMMITTED);
        }
    dmi_found found = {.size = sizeof found};
    int local = 0;
    const void *foreign[] = {NULL,
                             &local,
                             (void *)1,
                             (void *)UINTPTR_MAX,
                             (void *)((uintptr_t)1 << 47),
                             (void *)((uintptr_t)1 << 56),
                             heap,
                             "text"};
    for (size_t i = 0; i < sizeof foreign / sizeof *foreign; i++) {
        errno = 0;
        ENSURE(dmi_find(foreign[i], &found) == -1 && errno == ENOENT);
        ENSURE_EQ(dmi_usable_size(foreign[i]), 0);
    }
}

TEST_EACH_PAGE(checked_frees_refuse_what_is_not_a_block) {
    void *heap = heaps_create("lazy", 0), *other = heaps_create("lazy", 0);
    for (size_t size = 40; size < 6000000; size = size * 5 + 7) {
        for (int i = 0; i < 20; i++) ENSURE(dmi_heap_malloc_checked(heap, size));
        unsigned char *b = dmi_heap_malloc_checked(heap, size);
        ENSURE_EQ(dmi_heap_free_checked(heap, b + 16), DMI_FAULT_INTERIOR);
        ENSURE_EQ(dmi_heap_free_checked(other, b), DMI_FAULT_OTHER_HEAP);
        ENSURE_EQ(dmi_heap_free_checked(heap, b), DMI_OK);
        ENSURE_EQ(dmi_heap_free_checked(heap, b), DMI_FAULT_FREE);
        ENSURE_EQ(dmi_heap_trim(heap, NULL), 0);
        int fault = dmi_heap_free_checked(heap, b);
        ENSURE(fault == DMI_FAULT_FREE || (fault == DMI_FAULT_FOREIGN && size > 1000000));
    }
    int local;
    ENSURE_EQ(dmi_heap_free_checked(heap, &local), DMI_FAULT_FOREIGN);
    (void)heaps_check(heap);
}

/* ---- the walk ------------------------------------------------------------------------------------------ */

typedef struct seen {
    void *blocks[500];
    unsigned times[500];
    uint64_t list, pages, virtuals, lfh;
} seen;

static int note(void *argument, const dmi_range *range) {
    seen *s = argument;
    if (range->state != DMI_STATE_BUSY) return 0;
    switch (range->kind) {
    case DMI_RANGE_LFH: s->lfh++; break;
    case DMI_RANGE_LIST: s->list++; break;
    case DMI_RANGE_PAGES: s->pages++; break;
    default: s->virtuals++;
    }
    ENSURE_EQ(range->bucket, range->kind == DMI_RANGE_LFH ? range->size : 0);
    for (size_t i = 0; i < 500; i++)
        if (s->blocks[i] == (void *)(uintptr_t)range->address) {
            s->times[i]++;
            ENSURE_EQ(range->size, dmi_usable_size(s->blocks[i]));
        }
    return 0;
}

static int stop_at_third(void *argument, const dmi_range *range) {
    (void)range;
    return ++*(int *)argument == 3 ? 42 : 0;
}

TEST_EACH_PAGE(the_walk_shows_every_live_block_once) {
    static seen s;
    void *heap = heaps_create("eager", 0);
    uint64_t seed = 1;
    for (size_t i = 0; i < 500; i++) {
        s.blocks[i] = dmi_heap_malloc(heap, i % 100 == 0 ? 20 << 20 : heaps_size(&seed) % 100000);
        ENSURE(s.blocks[i]);
        if (i % 3 == 0) dmi_heap_free(heap, dmi_heap_malloc(heap, heaps_size(&seed)));
    }
    ENSURE_EQ(dmi_heap_walk(heap, note, &s), 0);
    for (size_t i = 0; i < 500; i++) ENSURE_EQ(s.times[i], 1);
    ENSURE_EQ(s.lfh + s.list + s.pages + s.virtuals, 500);
    ENSURE(s.lfh && s.list && s.pages && s.virtuals == 5);
    int visits = 0;
    ENSURE_EQ(dmi_heap_walk(heap, stop_at_third, &visits), 42);
    ENSURE_EQ(visits, 3);
    dmi_stats stats = heaps_check(heap);
    dmi_segment_info info[64];
    size_t n = dmi_heap_segments(heap, info, 64);
    ENSURE(n >= 6 && n <= 64);
    uint64_t reserved = 0, committed = 0, ranges = 0;
    for (size_t i = 0; i < n; i++) {
        reserved += info[i].reserved;
        committed += info[i].committed;
        ranges += info[i].uncommitted_ranges;
    }
    ENSURE_EQ(reserved, stats.reserved);
    ENSURE_EQ(committed, stats.committed);
    ENSURE_EQ(ranges, stats.uncommitted_ranges);
}

/* ---- damage -------------------------------------------------------------------------------------------- */

static dmi_fault damage(void *heap, const char *word) {
    dmi_fault fault = {.size = sizeof fault};
    ENSURE_EQ(dmi_heap_validate(heap, &fault), 1);
    ENSURE_EQ(fault.kind, DMI_FAULT_CORRUPT);
    if (!strstr(fault.message, word))
        test_failed(__FILE__, __LINE__, "%s: %s", word, fault.message);
    ENSURE(strstr(fault.message, word));
    return fault;
}

TEST_EACH_PAGE(validate_names_a_damaged_tag) {
    void *heap = heaps_create("never", DMI_HEAP_NO_LFH);
    unsigned char *b[10];
    for (size_t i = 0; i < 10; i++) b[i] = dmi_heap_malloc(heap, 200);
    for (size_t byte = 0; byte < DMI_LIST_TAG; byte++)
        for (unsigned bit = 1; bit < 256; bit *= 2) {
            unsigned char *tag = b[5] - DMI_LIST_TAG + byte;
            *tag = (unsigned char)(*tag ^ bit);
            dmi_fault fault = damage(heap, "tag");
            ENSURE(fault.address + 300 > (uintptr_t)tag && fault.address < (uintptr_t)tag + 300);
            *tag = (unsigned char)(*tag ^ bit);
        }
    dmi_heap_free(heap, b[3]);
    dmi_heap_free(heap, b[7]);
    (void)heaps_check(heap);
    for (unsigned value = 0x11; value < 0x100; value += 0x22) {
        unsigned char was[16];
        memcpy(was, b[3], 16);
        memset(b[3], (int)value, 16); /* written after it was freed */
        dmi_fault fault = damage(heap, "links of the free block");
        ENSURE_EQ(fault.address, (uintptr_t)(b[3] - DMI_LIST_TAG));
        memcpy(b[3], was, 16);
        (void)heaps_check(heap);
    }
}

TEST_EACH_PAGE(validate_names_a_damaged_link) {
    void *heap = heaps_create("never", 0);
    unsigned char *b[200];
    for (size_t i = 0; i < 200; i++) b[i] = dmi_heap_malloc(heap, 64);
    ENSURE_EQ(look(b[150]).range.kind, DMI_RANGE_LFH);
    for (size_t i = 100; i < 120; i++) dmi_heap_free(heap, b[i]);
    (void)heaps_check(heap);
    /* As somebody would write them who does not know the code, and as somebody who does. */
    const dmi_run *run = _dmi_pagemap_get(b[110]);
    uintptr_t code = _dmi_lfh_mark(run, b[110]) ^ (uintptr_t)_dmi_secret.link;
    uintptr_t bad[] = {1,
                       (uintptr_t)b[150] + 8,
                       (uintptr_t)b[115] ^ code,
                       0x1234567890,
                       UINTPTR_MAX,
                       (uintptr_t)&bad,
                       (uintptr_t)b[115],
                       ((uintptr_t)b[150] + 8) ^ code,
                       code,
                       0};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        uintptr_t was;
        memcpy(&was, b[110], sizeof was);
        memcpy(b[110], &bad[i], sizeof was);
        dmi_fault fault = damage(heap, "link");
        if (i != 2)
            ENSURE_EQ(fault.address, (uintptr_t)b[110]); /* 2: a circle, found where it closes */
        memcpy(b[110], &was, sizeof was);
        (void)heaps_check(heap);
    }
    uintptr_t end = code ^ (uintptr_t)_dmi_end; /* the list ends early: blocks are missing */
    memcpy(b[110], &end, sizeof end);
    ENSURE(strstr(damage(heap, "counts").message, "busy"));
}

TEST_EACH_PAGE(validate_names_a_damaged_descriptor) {
    void *heap = heaps_create("never", 0);
    unsigned char *b = NULL;
    for (size_t i = 0; i < 200; i++) b = dmi_heap_malloc(heap, 64);
    void *large = dmi_heap_malloc(heap, 200000);
    dmi_run *runs[] = {_dmi_pagemap_get(b), _dmi_pagemap_get(large)};
    for (size_t i = 0; i < 2; i++) {
        dmi_run was;
        memcpy(&was, (void *)runs[i], sizeof was);
        for (int kind = 0; kind < 5; kind++) {
            if (kind == 0) runs[i]->kind = 77;
            if (kind == 1) runs[i]->first += 3;
            if (kind == 2) runs[i]->pages = 0;
            if (kind == 3) runs[i]->pages = 1u << 30;
            if (kind == 4) runs[i]->segment = (dmi_segment *)(void *)&was;
            dmi_fault fault = damage(heap, "descriptor");
            ENSURE_EQ(fault.address, (uintptr_t)runs[i]);
            memcpy((void *)runs[i], &was, sizeof was);
            (void)heaps_check(heap);
        }
    }
    runs[0]->carved = (uint16_t)(runs[0]->capacity + 1);
    (void)damage(heap, "descriptor");
}

TEST_EACH_PAGE(stats_take_short_structs_and_refuse_bad_ones) {
    void *heap = heaps_create("lazy", 0);
    dmi_stats s;
    memset(&s, 0xee, sizeof s);
    s.size = offsetof(dmi_stats, busy_blocks);
    ENSURE_EQ(dmi_heap_stats(heap, &s, 0), 0);
    ENSURE_EQ(s.busy_blocks, UINT64_C(0xeeeeeeeeeeeeeeee));
    s.size = 8;
    ENSURE(dmi_heap_stats(heap, &s, 0) == -1 && errno == EINVAL);
    s.size = sizeof s;
    ENSURE(dmi_heap_stats(heap, &s, 1u << 20) == -1 && errno == EINVAL);
    ENSURE_EQ(dmi_heap_stats(heap, &s, DMI_STATS_RESIDENT), 0);
    dmi_fault fault = {.size = 1};
    ENSURE(dmi_heap_validate(heap, &fault) == -1 && errno == EINVAL);
}
