/* pagemap.h - from any 64-bit value to a run descriptor in two loads.
 *
 * The address space is cut into slices of 4 MiB and each slice into units of 4 KiB (whatever the OS
 * page is). One table, read-only zeroes where nothing was registered, holds a biased pointer for each
 * slice; a leaf holds a run for each unit, _dmi_no_run where there is none. So a lookup needs one
 * range check, one test, and never touches foreign memory.
 */
#ifndef DMI_PAGEMAP_H
#define DMI_PAGEMAP_H

#include "run.h"

#define DMI_UNIT_SHIFT 12
#define DMI_SLICE_SHIFT 22
#if defined(__aarch64__)
#define DMI_ADDRESS_BITS 48
#define DMI_PAGEMAP_SLICES __atomic_load_n(&_dmi_pagemap_slices, __ATOMIC_ACQUIRE)
#else
#define DMI_ADDRESS_BITS 47
/* x86 keeps loads in order; one that is not atomic becomes an operand of the comparison. */
#define DMI_PAGEMAP_SLICES _dmi_pagemap_slices
#endif
#define DMI_SLICES ((uintptr_t)1 << (DMI_ADDRESS_BITS - DMI_SLICE_SHIFT))

/* Table of biased leaves: leaf - 8 * (first unit of the slice); 0: no leaf. Before setup a single one. */
extern uintptr_t *_dmi_pagemap;
/* How many slices it has: 0 before setup, when any pointer may be looked up all the same, else DMI_SLICES. */
extern uintptr_t _dmi_pagemap_slices;

/* The bits that the address of a block may have; 0 before setup. */
extern uintptr_t _dmi_pagemap_bits;

/* Make the table. Idempotent; 0 or ENOMEM. */
int _dmi_pagemap_setup(void);
/* Count the address range in: after this its units can be set without failing. 0 or ENOMEM. */
int _dmi_pagemap_add(const void *address, size_t size);
/* Count it out again; leaves that nobody needs any more give their pages back. */
void _dmi_pagemap_remove(const void *address, size_t size);
/* The same for units that were set to _dmi_no_run before: writes none of them, so that the addresses may
 * belong to somebody else already. */
void _dmi_pagemap_count_out(const void *address, size_t size);
/* Let every unit of the range (registered before) map to run. */
void _dmi_pagemap_set(const void *address, size_t size, dmi_run *run);
/* Committed bytes of table and leaves. */
size_t _dmi_pagemap_committed(void);
void _dmi_pagemap_lock(void);   /* around fork */
void _dmi_pagemap_unlock(void); /* around fork */

static inline dmi_run *_dmi_pagemap_get(const void *address) {
    uintptr_t a = (uintptr_t)address;
    uintptr_t slice = a >> DMI_SLICE_SHIFT;
    if (__builtin_expect(slice >= DMI_PAGEMAP_SLICES, 0)) return &_dmi_no_run;
    __atomic_signal_fence(__ATOMIC_ACQUIRE);
    uintptr_t leaf = __atomic_load_n(&_dmi_pagemap[slice], __ATOMIC_RELAXED);
    if (__builtin_expect(leaf == 0, 0)) return &_dmi_no_run;
    return __atomic_load_n((dmi_run **)(leaf + (a >> DMI_UNIT_SHIFT) * sizeof(dmi_run *)),
                           __ATOMIC_RELAXED);
}

/* Clear the bits of *address that that of no block has, and look up the rest. One instruction does what the range check
 * does above, and sees to it that what a free writes lies within 16 bytes. Whoever uses this asks whether the address
 * was a block's. */
static inline dmi_run *_dmi_pagemap_get_clean(void **address) {
    uintptr_t a = (uintptr_t)*address & __atomic_load_n(&_dmi_pagemap_bits, __ATOMIC_ACQUIRE);
    *address = (void *)a;
    uintptr_t leaf = __atomic_load_n(&_dmi_pagemap[a >> DMI_SLICE_SHIFT], __ATOMIC_RELAXED);
    if (__builtin_expect(leaf == 0, 0)) {
        dmi_run *none = &_dmi_no_run;
        __asm__ volatile("" : "+r"(none)); /* or gcc makes it on every way */
        return none;
    }
    return __atomic_load_n((dmi_run **)(leaf + (a >> DMI_UNIT_SHIFT) * sizeof(dmi_run *)),
                           __ATOMIC_RELAXED);
}

/* The same for an address that nobody need own. While it is looked up another thread may give back the
 * leaf, whose pages then read as zeroes: that is no run either. The owner of a block keeps its leaf, so
 * the fast paths need not ask. */
static inline dmi_run *_dmi_pagemap_look(const void *address) {
    dmi_run *run = _dmi_pagemap_get(address);
    return run ? run : &_dmi_no_run;
}
/* The run, also of a watched page, which the page map leads to a shadow of its own. Whoever does not own the page may
 * see that shadow come to be another page's: then the page map no longer leads to it, and tells more. */
static inline dmi_run *_dmi_pagemap_find(const void *address) {
    dmi_run *run = _dmi_pagemap_look(address);
    while (__builtin_expect(_dmi_run_is_shadow(run), 0)) {
        dmi_run *real = __atomic_load_n(&run->next, __ATOMIC_ACQUIRE);
        dmi_run *again = _dmi_pagemap_look(address);
        if (again == run) return real;
        run = again;
    }
    return run;
}
#endif
