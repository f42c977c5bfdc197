/* pack.c - records of a walk as a zlib stream (RFC 1950, 1951), one at a time, without memory.
 *
 * Neighbours differ in the lower bytes of their address and little else. So the only match that is
 * looked for is with the record before, 40 bytes back: bytes that are the same there for three or
 * more are a match, all others literals, and everything is coded with the fixed codes of the format.
 * That makes 4 to 6 bytes of 40, without tables, at a cost that a walk does not notice.
 */
#include "pack.h"

#include <stdbool.h>
#include <string.h>

#define RECORD sizeof(dmi_range)
_Static_assert(RECORD == 40, "the codes below are those of a distance of 40 and lengths up to it");

#define END_OF_BLOCK 256u
#define ADLER 65521u

static void put_bits(dmi_packer *p, uint32_t value, unsigned count) {
    p->bits |= (uint64_t)value << p->filled;
    p->filled += count;
    while (p->filled >= 8) {
        unsigned char byte = (unsigned char)p->bits;
        _dmi_writer_put_bytes(p->out, &byte, 1);
        p->bits >>= 8;
        p->filled -= 8;
    }
}

/* Huffman codes begin with their highest bit. */
static void put_code(dmi_packer *p, uint32_t code, unsigned count) {
    uint32_t turned = 0;
    for (unsigned i = 0; i < count; i++) turned |= (code >> i & 1u) << (count - 1 - i);
    put_bits(p, turned, count);
}

static void put_symbol(dmi_packer *p, uint32_t symbol) {
    if (symbol < 144) put_code(p, 0x30 + symbol, 8);
    else if (symbol < 256) put_code(p, 0x190 + symbol - 144, 9);
    else put_code(p, symbol - 256, 7); /* lengths up to 114: below 280 */
}

static void put_match(dmi_packer *p, unsigned length) {
    /* Lengths 3 to 10 have a symbol each; from 11 on four symbols share 1, then 2, then 3 more bits. */
    unsigned more = length < 11 ? 0 : length < 19 ? 1 : length < 35 ? 2 : 3;
    unsigned first = more ? (4u << more) + 3 : 3;
    unsigned symbol = 257 + (more ? 4 * (more + 1) : 0) + ((length - first) >> more);
    put_symbol(p, symbol);
    put_bits(p, (length - first) & ((1u << more) - 1), more);
    put_code(p, 10, 5); /* distances 33 to 48, */
    put_bits(p, 7, 4);  /* of these 40 */
}

void _dmi_pack_begin(dmi_packer *p, dmi_writer *out) {
    memset(p, 0, sizeof *p);
    p->out = out;
    p->low = 1;
    _dmi_writer_put_bytes(out, "\x78\x01", 2);
    put_bits(p, 1, 1); /* the last block, and the only one, */
    put_bits(p, 1, 2); /* with fixed codes */
}

void _dmi_pack_range(dmi_packer *p, const dmi_range *range) {
    const unsigned char *now = (const unsigned char *)range;
    const unsigned char *before = (const unsigned char *)&p->before;
    bool first = p->records == 0;
    for (unsigned at = 0; at < RECORD;) {
        unsigned same = 0;
        while (!first && at + same < RECORD && now[at + same] == before[at + same]) same++;
        if (same >= 3) {
            put_match(p, same);
            at += same;
        } else {
            put_symbol(p, now[at++]);
        }
    }
    for (unsigned at = 0; at < RECORD; at++) {
        p->low += now[at];
        p->high += p->low;
    }
    /* Forty bytes add less than 2^23 to the larger half. */
    p->low %= ADLER;
    p->high %= ADLER;
    p->before = *range;
    p->records++;
}

void _dmi_pack_end(dmi_packer *p) {
    put_symbol(p, END_OF_BLOCK);
    if (p->filled) put_bits(p, 0, 8 - p->filled);
    unsigned char sum[4] = {(unsigned char)(p->high >> 8), (unsigned char)p->high,
                            (unsigned char)(p->low >> 8), (unsigned char)p->low};
    _dmi_writer_put_bytes(p->out, sum, sizeof sum);
}
