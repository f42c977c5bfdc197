/* tally.h - how many busy blocks there are of each size, counted during a walk. */
#ifndef DMI_TALLY_H
#define DMI_TALLY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct dmi_tally_row {
    uint64_t size, count; /* count 0: an empty slot */
} dmi_tally_row;

typedef struct dmi_tally {
    dmi_tally_row *rows; /* memory of its own, from the system */
    size_t slots, used;
    bool failed; /* there was no memory: the counts are not complete */
} dmi_tally;

void _dmi_tally_begin(dmi_tally *tally);
void _dmi_tally_add(dmi_tally *tally, uint64_t size);
/* The rows in a line, the sizes that hold most bytes first, then by size: rows[0] to rows[used - 1]. */
void _dmi_tally_sort(dmi_tally *tally);
void _dmi_tally_end(dmi_tally *tally);

#endif
