/* linux_rows.h - floor 1: rows (linux_cfi.h) of the code that is loaded, found without a lock and remembered.
 *
 * glibc says since 2.35 which object an address lies in without a lock and at any moment (_dl_find_object). A row that
 * was found stands in a small table. It counts only while the object is the one it was found in: the object's place and
 * the build ID that stands in it are part of the key. Of an object without a build ID no row is remembered, unless it
 * cannot be unloaded.
 */
#ifndef DMI_LINUX_ROWS_H
#define DMI_LINUX_ROWS_H

#include "linux_cfi.h"

#include <stdatomic.h>
#include <string.h>

#define DMI_ROWS_OBJECTS 4
#define DMI_ROWS 4096u /* 64 KiB, touched as they fill */

/* Objects met on one stack. They stay while the stack is looked at: it returns into them. */
typedef struct dmi_rows_seen {
    size_t count, last;
    struct {
        uintptr_t start, size; /* the object, or a segment of it */
        uintptr_t base, header;
        uint64_t tag; /* 0: its rows are not remembered */
    } object[DMI_ROWS_OBJECTS];
} dmi_rows_seen;

/* Two words that are written one after the other: the first is a hash of the second, too, so that halves of two entries
 * are no entry. */
typedef struct dmi_row_entry {
    _Atomic uint64_t check, row;
} dmi_row_entry;
extern dmi_row_entry _dmi_rows[DMI_ROWS];

static inline uint64_t _dmi_rows_mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * UINT64_C(0x9fb21c651e98df25);
    return hash ^ hash >> 32;
}
static inline uint64_t _dmi_rows_check(uintptr_t address, uint64_t tag, uint64_t row) {
    return _dmi_rows_mix(tag ^ address, row);
}
/* An address's row stands in the first of two entries, or in the second. */
static inline dmi_row_entry *_dmi_rows_entries(uintptr_t address) {
    return &_dmi_rows[(size_t)(address * UINT64_C(0x9e3779b97f4a7c15) >> 40) & (DMI_ROWS - 2)];
}

/* Look for what glibc offers. May allocate. */
void _dmi_rows_begin(void);
/* Can rows be found in this process? */
bool _dmi_rows_on(void);
dmi_cfi_row _dmi_rows_find_slow(dmi_rows_seen *seen, uintptr_t address);

/* The row of an instruction. One without rules says in its ra what was found instead (dmi_cfi_found). */
static inline dmi_cfi_row _dmi_rows_find(dmi_rows_seen *seen, uintptr_t address) {
    if (address - seen->object[seen->last].start < seen->object[seen->last].size) {
        uint64_t tag = seen->object[seen->last].tag;
        const dmi_row_entry *entry = _dmi_rows_entries(address);
        uint64_t bits = atomic_load_explicit(&entry->row, memory_order_relaxed);
        uint64_t check = atomic_load_explicit(&entry->check, memory_order_relaxed);
        if (tag && check == _dmi_rows_check(address, tag, bits)) {
            dmi_cfi_row row;
            memcpy(&row, &bits, sizeof row);
            return row;
        }
    }
    return _dmi_rows_find_slow(seen, address);
}

#endif
