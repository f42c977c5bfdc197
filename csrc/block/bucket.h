/* bucket.h - size classes: multiples of 16 up to 128 bytes, then eight for each doubling up to 32 KiB,
 * so that a block is at most 16 bytes or 12.5 % larger than what was asked for. */
#ifndef DMI_BUCKET_H
#define DMI_BUCKET_H

#include <stddef.h>
#include <stdint.h>

#define DMI_BUCKETS 72
#define DMI_BUCKET_MAX ((size_t)32768) /* largest request that a bucket serves */

/* Bucket of each request in steps of 16 bytes: [ (n + 15) / 16 ]. */
extern const uint8_t _dmi_bucket_table[DMI_BUCKET_MAX / 16 + 1];
/* Block size of each bucket, bytes. */
extern const uint16_t _dmi_bucket_size[DMI_BUCKETS];

static inline unsigned _dmi_bucket(size_t n) { return _dmi_bucket_table[(n + 15) / 16]; }
/* Bytes of a subsegment of that bucket, before rounding to pages. */
static inline size_t _dmi_bucket_run(unsigned bucket) {
    size_t size = _dmi_bucket_size[bucket];
    return size <= 2048 ? 65536 : size <= 8192 ? 131072 : size <= 16384 ? 262144 : 524288;
}
#endif
