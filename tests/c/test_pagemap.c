/* test_pagemap.c - any 64-bit value can be looked up; what is registered is found, the rest is nobody's. */
#include "floors.h"

#define SLICE ((uintptr_t)1 << DMI_SLICE_SHIFT)
#define AT(value) ((const void *)(uintptr_t)(value))

static dmi_run runs[8];

static void ensure_nobody(uintptr_t address) {
    ENSURE(_dmi_pagemap_get(AT(address)) == &_dmi_no_run);
}

TEST_EACH_PAGE(foreign_values_belong_to_nobody) {
    static const uintptr_t odd[] = {0,
                                    1,
                                    0xdeadbeef,
                                    UINTPTR_MAX,
                                    UINTPTR_MAX - 7,
                                    (uintptr_t)1 << 47,
                                    ((uintptr_t)1 << 47) - 1,
                                    (uintptr_t)1 << 48,
                                    (uintptr_t)1 << 56,
                                    ((uintptr_t)1 << 56) - 1,
                                    (uintptr_t)1 << 63,
                                    0xffff800000000000,
                                    0xffff7fffffffffff,
                                    0x00007ffffffff000,
                                    0x0000800000000000,
                                    0xaaaaaaaaaaaaaaaa,
                                    0x5555555555555555};
    ENSURE_EQ(_dmi_pagemap_slices, 0);
    for (int round = 0; round < 2; round++) { /* before setup and after it */
        for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) ensure_nobody(odd[i]);
        uint64_t seed = 1;
        for (int i = 0; i < 200000; i++)
            ensure_nobody(test_random(&seed) >> (test_random(&seed) % 64));
        ensure_nobody((uintptr_t)&round);
        ensure_nobody((uintptr_t)&runs);
        ENSURE_EQ(_dmi_pagemap_setup(), 0);
    }
    ENSURE_EQ(_dmi_no_run.kind, DMI_RUN_NONE);
    ENSURE_EQ(_dmi_no_run.owner, DMI_OWNER_NONE);
    ENSURE(_dmi_no_run.head == _dmi_end);
}

static dmi_run *clean(uintptr_t address, uintptr_t expected) {
    void *p = (void *)address;
    dmi_run *run = _dmi_pagemap_get_clean(&p);
    ENSURE_EQ((uintptr_t)p, expected);
    return run;
}

TEST_EACH_PAGE(bits_that_no_block_has_are_cleared) {
    ENSURE(clean(UINTPTR_MAX, 0) == &_dmi_no_run); /* before setup every address is nobody's */
    ENSURE_EQ(_dmi_pagemap_setup(), 0);
    uintptr_t at = 37 * SLICE + 4096, high = ~(DMI_SLICES * SLICE - 1);
    ENSURE_EQ(_dmi_pagemap_add(AT(at), 4096), 0);
    _dmi_pagemap_set(AT(at), 4096, &runs[0]);
    for (uintptr_t low = 0; low < 16; low++) {
        ENSURE(clean(at + 64 + low, at + 64) == &runs[0]);
        ENSURE(clean((at + low) | high, at) == &runs[0]);
        ENSURE(clean(at + 4096 + low, at + 4096) == &_dmi_no_run);
    }
    ENSURE(clean(at - 1, at - 16) == &_dmi_no_run);
    ENSURE(clean(UINTPTR_MAX, DMI_SLICES * SLICE - 16) == &_dmi_no_run);
    _dmi_pagemap_remove(AT(at), 4096);
    ENSURE(clean(at, at) == &_dmi_no_run);
}

/* The map never reads what is registered, so any addresses will do. */
TEST_EACH_PAGE(ranges_are_found_to_the_byte) {
    ENSURE_EQ(_dmi_pagemap_setup(), 0);
    uintptr_t base = 37 * SLICE, top = (DMI_SLICES - 2) * SLICE;
    /* From one page before a slice ends to one page into the one after the next. */
    uintptr_t from = base + SLICE - _dmi_os_page_size(), size = SLICE + 2 * _dmi_os_page_size();
    ENSURE_EQ(_dmi_pagemap_add(AT(from), size), 0);
    ensure_nobody(from);
    _dmi_pagemap_set(AT(from), size, &runs[0]);
    for (uintptr_t a = from; a < from + size; a += 4096) {
        ENSURE(_dmi_pagemap_get(AT(a)) == &runs[0]);
        ENSURE(_dmi_pagemap_get(AT(a + 4095)) == &runs[0]);
    }
    ensure_nobody(from - 1);
    ensure_nobody(from + size);
    /* A second range in a slice that has a leaf already. */
    uintptr_t other = base + 2 * SLICE + 64 * 4096;
    ENSURE_EQ(_dmi_pagemap_add(AT(other), 65536), 0);
    _dmi_pagemap_set(AT(other), 65536, &runs[1]);
    _dmi_pagemap_remove(AT(from), size);
    for (uintptr_t a = from - 4096; a < from + size + 4096; a += 4096) ensure_nobody(a);
    ENSURE(_dmi_pagemap_get(AT(other + 65535)) == &runs[1]);
    ENSURE(_dmi_pagemap[37] == 0 && _dmi_pagemap[38] == 0 && _dmi_pagemap[39] != 0);
    _dmi_pagemap_remove(AT(other), 65536);
    ENSURE(_dmi_pagemap[39] == 0);
    /* The last slices there are, and beyond. */
    ENSURE_EQ(_dmi_pagemap_add(AT(top), 2 * SLICE), 0);
    _dmi_pagemap_set(AT(top), 2 * SLICE, &runs[2]);
    ENSURE(_dmi_pagemap_get(AT(top + 2 * SLICE - 1)) == &runs[2]);
    ensure_nobody(top + 2 * SLICE);
    ensure_nobody(top - 1);
    ENSURE(_dmi_pagemap_add(AT(top), 2 * SLICE + 4096) != 0);
    ENSURE(_dmi_pagemap_get(AT(top)) == &runs[2]);
    _dmi_pagemap_remove(AT(top), 2 * SLICE);
    ensure_nobody(top);
}

/* Random registrations of units in a few slices against a plain array. */
TEST_EACH_PAGE(random_ranges) {
    enum { UNITS = 6 * 1024, RANGES = 40 };
    static unsigned char model[UNITS];
    static struct { size_t first, count; } ranges[RANGES];
    uintptr_t base = 1000 * SLICE;
    uint64_t seed = 5;
    ENSURE_EQ(_dmi_pagemap_setup(), 0);
    for (floors_step = 0; floors_step < 3000; floors_step++) {
        size_t r = test_random(&seed) % RANGES;
        size_t first = ranges[r].first, count = ranges[r].count;
        if (count) {
            _dmi_pagemap_remove(AT(base + first * 4096), count * 4096);
            memset(model + first, 0, count);
            ranges[r].count = 0;
        } else {
            first = test_random(&seed) % UNITS;
            count = 1 + test_random(&seed) % (test_random(&seed) % 4 ? 40 : 2500);
            if (count > UNITS - first) count = UNITS - first;
            if (memchr(model + first, 1, count)) continue;
            bool taken = false;
            for (size_t u = first; u < first + count; u++) taken |= model[u] != 0;
            if (taken) continue;
            ENSURE_EQ(_dmi_pagemap_add(AT(base + first * 4096), count * 4096), 0);
            unsigned char which = (unsigned char)(1 + test_random(&seed) % 7);
            _dmi_pagemap_set(AT(base + first * 4096), count * 4096, &runs[which]);
            memset(model + first, which, count);
            ranges[r].first = first;
            ranges[r].count = count;
        }
        for (size_t i = 0; i < 300; i++) {
            size_t u = test_random(&seed) % UNITS;
            dmi_run *expected = model[u] ? &runs[model[u]] : &_dmi_no_run;
            ENSURE(_dmi_pagemap_get(AT(base + u * 4096 + test_random(&seed) % 4096)) == expected);
        }
    }
    for (size_t r = 0; r < RANGES; r++)
        if (ranges[r].count)
            _dmi_pagemap_remove(AT(base + ranges[r].first * 4096), ranges[r].count * 4096);
    for (uintptr_t slice = 999; slice < 1008; slice++) ENSURE_EQ(_dmi_pagemap[slice], 0);
    ENSURE_EQ(_dmi_fake_committed(), _dmi_pagemap_committed());
}

TEST_EACH_PAGE(a_failed_registration_leaves_nothing) {
    ENSURE_EQ(_dmi_pagemap_setup(), 0);
    uintptr_t base = 70000 * SLICE - 5 * SLICE;
    unsigned failed = 0, survived = 0;
    for (int sticky = 0; sticky < 2; sticky++)
        for (uint64_t n = 1; n < 200; n++) {
            floors_step = (unsigned long)n;
            uintptr_t from =
                base + (uintptr_t)n * 600 * SLICE; /* table pages that nobody entered yet */
            from += (uintptr_t)sticky * 200 * 600 * SLICE;
            _dmi_os_fail_at(n, sticky);
            int error = _dmi_pagemap_add(AT(from), 9 * SLICE);
            bool reached = _dmi_os_fallible_calls() >= n;
            _dmi_os_fail_at(0, false);
            /* When the first address space of the leaves is refused they ask once more, for less. */
            if (reached && !error) survived++;
            else ENSURE_EQ(error != 0, reached);
            if (!error) _dmi_pagemap_remove(AT(from), 9 * SLICE);
            failed += error != 0;
            for (uintptr_t s = 0; s < 10; s++) ENSURE_EQ(_dmi_pagemap[from / SLICE + s], 0);
            ENSURE_EQ(_dmi_fake_committed(), _dmi_pagemap_committed());
            if (!reached) break;
        }
    ENSURE(failed + survived > 4);
    ENSURE(survived <= 1);
}
