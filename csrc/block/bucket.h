/* bucket.h - floor 3: the size classes.
 *
 * Multiples of 16 bytes up to 256, then eight sizes for each doubling up to 32 KiB. So a block is less than 16 bytes,
 * or at most 12.5 %, larger than the request. */
#ifndef DMI_BUCKET_H
#define DMI_BUCKET_H

#include <stddef.h>
#include <stdint.h>

#define DMI_BUCKETS 72
#define DMI_BUCKET_MAX ((size_t)32768) /* largest request that a bucket serves */

/* The bucket of a request of n bytes is [(n + 15) / 16]. */
extern const uint8_t _dmi_bucket_table[DMI_BUCKET_MAX / 16 + 1];
/* Bytes of a block of each bucket. */
extern const uint16_t _dmi_bucket_size[DMI_BUCKETS];

static inline unsigned _dmi_bucket(size_t n) { return _dmi_bucket_table[(n + 15) / 16]; }
/* Bytes of the next subsegment of a bucket that has subsegments of `have` bytes already; not yet rounded to pages.
 *
 * The result is the smallest number of 4 KiB pages that whole blocks fill exactly, doubled a few times. A bucket
 * begins with at least 48 KiB for blocks up to 1 KiB and 32 KiB for larger ones. Less makes bursts and random
 * replacement create and destroy subsegments all the time (docs/tuning.md). The size then grows with the bucket, to
 * about a sixteenth of `have`. So a rare size wastes little, and a common one needs few descriptors. */
static inline size_t _dmi_bucket_run(unsigned bucket, size_t have) {
    size_t size = _dmi_bucket_size[bucket], power = size & (~size + 1);
    size_t bytes = size / (power < 4096 ? power : 4096) * 4096;
    size_t most = size <= 2048 ? 98304 : size <= 8192 ? 196608 : size <= 16384 ? 393216 : 524288;
    size_t least = size <= 1024 ? 49152 : 32768;
    while (bytes < least || bytes < 4 * size || (2 * bytes <= most && bytes < have / 16))
        bytes *= 2;
    return bytes;
}
#endif
