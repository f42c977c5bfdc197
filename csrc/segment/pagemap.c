/* pagemap.c - which run an address belongs to. */
#include "pagemap.h"

#include "../os/lock.h"
#include "../os/os.h"
#include "../os/own.h"
#include "bits.h"
#include "pool.h"

#include <errno.h>
#include <string.h>

#define UNITS ((size_t)1 << (DMI_SLICE_SHIFT - DMI_UNIT_SHIFT))
#define UNIT ((size_t)1 << DMI_UNIT_SHIFT)

/* A leaf: what each unit of a slice maps to. */
typedef struct leaf {
    dmi_run *run[UNITS];
} leaf;

const uint64_t _dmi_end[2] = {UINT64_MAX, UINT64_MAX};
dmi_run _dmi_no_run = {.head = (void *)(uintptr_t)_dmi_end, .owner = DMI_OWNER_NONE};

static uintptr_t none; /* what a lookup finds before setup */
uintptr_t *_dmi_pagemap = &none;
uintptr_t _dmi_pagemap_bits;
uintptr_t _dmi_pagemap_slices;

static dmi_lock lock;
static dmi_pool leaves = {.name = "dmi-pagemap", .item = sizeof(leaf), .chunk = 8192};
static uint16_t *users; /* registrations of each slice, behind the table */
#define TABLE_BYTES (DMI_SLICES * sizeof(uintptr_t))
#define USERS_BYTES (DMI_SLICES * sizeof(uint16_t))
static dmi_bits
    entered[(TABLE_BYTES + USERS_BYTES) / UNIT / 64]; /* table pages that are writable */
static size_t table_committed;

int _dmi_pagemap_setup(void) {
    int error = 0;
    _dmi_lock(&lock);
    if (_dmi_pagemap == &none) {
        char *base = _dmi_os_reserve_table(TABLE_BYTES + USERS_BYTES, "dmi-pagemap");
        if (base) {
            _dmi_own_add(base, TABLE_BYTES + USERS_BYTES, "dmi-pagemap");
            users = (uint16_t *)(void *)(base + TABLE_BYTES);
            _dmi_pagemap = (uintptr_t *)(void *)base;
            __atomic_store_n(&_dmi_pagemap_bits, (DMI_SLICES << DMI_SLICE_SHIFT) - 16,
                             __ATOMIC_RELEASE);
            __atomic_store_n(&_dmi_pagemap_slices, DMI_SLICES, __ATOMIC_RELEASE);
        } else {
            error = ENOMEM;
        }
    }
    _dmi_unlock(&lock);
    return error;
}

/* Make the table page that holds *entry writable. */
static int enter(void *entry) {
    size_t page = _dmi_os_page_size();
    uintptr_t start = (uintptr_t)entry & ~(uintptr_t)(page - 1);
    size_t index = (start - (uintptr_t)_dmi_pagemap) >> DMI_UNIT_SHIFT;
    if (_dmi_bits_get(entered, index)) return 0;
    int error = _dmi_os_commit((void *)start, page, DMI_OS_STRICT);
    if (error) return error;
    _dmi_bits_put(entered, index, 1, true);
    table_committed += page;
    return 0;
}

static void drop(uintptr_t slice) {
    if (--users[slice]) return;
    uintptr_t biased = _dmi_pagemap[slice];
    leaf *old =
        (leaf *)(biased + (slice << (DMI_SLICE_SHIFT - DMI_UNIT_SHIFT)) * sizeof(dmi_run *));
    __atomic_store_n(&_dmi_pagemap[slice], 0, __ATOMIC_RELEASE);
    _dmi_pool_free(&leaves, old);
}

static int add_slice(uintptr_t slice) {
    if (_dmi_pagemap[slice]) {
        users[slice]++;
        return 0;
    }
    int error = enter(&_dmi_pagemap[slice]);
    if (!error) error = enter(&users[slice]);
    if (error) return error;
    leaf *made = _dmi_pool_alloc(&leaves);
    if (!made) return ENOMEM;
    for (size_t i = 0; i < UNITS; i++) made->run[i] = &_dmi_no_run;
    users[slice] = 1;
    uintptr_t biased =
        (uintptr_t)made - (slice << (DMI_SLICE_SHIFT - DMI_UNIT_SHIFT)) * sizeof(dmi_run *);
    __atomic_store_n(&_dmi_pagemap[slice], biased, __ATOMIC_RELEASE);
    return 0;
}

int _dmi_pagemap_add(const void *address, size_t size) {
    uintptr_t first = (uintptr_t)address >> DMI_SLICE_SHIFT;
    uintptr_t last = ((uintptr_t)address + size - 1) >> DMI_SLICE_SHIFT;
    if (last >= DMI_SLICES) return ENOMEM;
    int error = 0;
    _dmi_lock(&lock);
    for (uintptr_t slice = first; slice <= last; slice++) {
        error = add_slice(slice);
        if (error) {
            while (slice-- > first) drop(slice);
            break;
        }
    }
    _dmi_unlock(&lock);
    return error;
}

void _dmi_pagemap_remove(const void *address, size_t size) {
    _dmi_pagemap_set(address, size, &_dmi_no_run);
    _dmi_pagemap_count_out(address, size);
}

void _dmi_pagemap_count_out(const void *address, size_t size) {
    uintptr_t first = (uintptr_t)address >> DMI_SLICE_SHIFT;
    uintptr_t last = ((uintptr_t)address + size - 1) >> DMI_SLICE_SHIFT;
    _dmi_lock(&lock);
    for (uintptr_t slice = first; slice <= last; slice++) drop(slice);
    _dmi_unlock(&lock);
}

void _dmi_pagemap_set(const void *address, size_t size, dmi_run *run) {
    uintptr_t unit = (uintptr_t)address >> DMI_UNIT_SHIFT;
    uintptr_t end = ((uintptr_t)address + size + UNIT - 1) >> DMI_UNIT_SHIFT;
    while (unit < end) {
        uintptr_t slice = unit >> (DMI_SLICE_SHIFT - DMI_UNIT_SHIFT);
        uintptr_t stop = (slice + 1) << (DMI_SLICE_SHIFT - DMI_UNIT_SHIFT);
        dmi_run **entry = (dmi_run **)(_dmi_pagemap[slice] + unit * sizeof(dmi_run *));
        if (stop > end) stop = end;
        for (; unit < stop; unit++) __atomic_store_n(entry++, run, __ATOMIC_RELEASE);
    }
}

size_t _dmi_pagemap_committed(void) { return table_committed + leaves.live_bytes; }
void _dmi_pagemap_lock(void) { _dmi_lock(&lock); }
void _dmi_pagemap_unlock(void) { _dmi_unlock(&lock); }
