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
/* Bytes of the next subsegment of a bucket whose subsegments have so many bytes already, before rounding to
 * pages. Blocks fill it to its last byte: it is the smallest number of 4 KiB pages that holds a whole
 * number of blocks, doubled so many times. A rare size begins small, since no other size can use what
 * it does not; a sixteenth more each time keeps that share small, and the number of descriptors too.
 * It begins with 48 KiB for blocks up to 1 KiB and 32 KiB above: with less, bursts and random replacement leave,
 * list and take apart subsegments all the time (docs/tuning.md). */
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
