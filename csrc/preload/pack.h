/* pack.h - records of a walk as a zlib stream (RFC 1950, 1951), one at a time, without memory. */
#ifndef DMI_PACK_H
#define DMI_PACK_H

#include "writer.h"

#include <dmi/dmi.h>

#include <stdint.h>

typedef struct dmi_packer {
    dmi_writer *out;
    uint64_t bits; /* not written yet, the first in the lowest place */
    unsigned filled;
    uint32_t low, high; /* the two halves of Adler-32 */
    uint64_t records;
    dmi_range before;
} dmi_packer;

void _dmi_pack_begin(dmi_packer *packer, dmi_writer *out);
void _dmi_pack_range(dmi_packer *packer, const dmi_range *range);
/* The end of the stream, written out; the writer is not flushed. */
void _dmi_pack_end(dmi_packer *packer);

#endif
