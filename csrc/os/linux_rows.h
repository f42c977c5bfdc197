/* linux_rows.h - floor 1: rows (cfi.h) of the code that is loaded, found without a lock and remembered.
 *
 * glibc says since 2.35 which object an address lies in without a lock and at any moment (_dl_find_object). A row that
 * was found stands in a small table. It counts only while the object is the one it was found in: the object's place and
 * the build ID that stands in it are part of the key. Of an object without a build ID no row is remembered, unless it
 * cannot be unloaded.
 */
#ifndef DMI_LINUX_ROWS_H
#define DMI_LINUX_ROWS_H

#include "cfi.h"

#define DMI_ROWS_OBJECTS 4

/* Objects met on one stack. They stay while the stack is looked at: it returns into them. */
typedef struct dmi_rows_seen {
    size_t count, next;
    struct {
        uintptr_t start, end, header;
        uint64_t tag; /* 0: its rows are not remembered */
    } object[DMI_ROWS_OBJECTS];
} dmi_rows_seen;

/* Look for what glibc offers. May allocate. */
void _dmi_rows_begin(void);
/* Can rows be found in this process? */
bool _dmi_rows_on(void);
/* The row of an instruction. */
dmi_cfi_found _dmi_rows_find(dmi_rows_seen *seen, uintptr_t address, dmi_cfi_row *row);

#endif
