/* bits.h - bitmaps over pages. Words are changed atomically (relaxed), because the pages of two runs
 * may share a word while their owners hold different locks. */
#ifndef DMI_BITS_H
#define DMI_BITS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef _Atomic uint64_t dmi_bits;

static inline size_t _dmi_bits_words(size_t bits) { return (bits + 63) / 64; }

static inline bool _dmi_bits_get(const dmi_bits *map, size_t i) {
    return (atomic_load_explicit(&map[i / 64], memory_order_relaxed) >> (i % 64)) & 1;
}

/* The bits of word w that lie in [first, first+count). */
static inline uint64_t _dmi_bits_mask(size_t w, size_t first, size_t count) {
    size_t low = w * 64, end = first + count;
    uint64_t mask = ~UINT64_C(0);
    if (first > low) mask &= ~UINT64_C(0) << (first - low);
    if (end < low + 64) mask &= ~UINT64_C(0) >> (low + 64 - end);
    return mask;
}

/* Set or clear a range; returns how many bits changed. */
static inline size_t _dmi_bits_put(dmi_bits *map, size_t first, size_t count, bool value) {
    size_t changed = 0;
    if (count == 0) return 0;
    for (size_t w = first / 64; w <= (first + count - 1) / 64; w++) {
        uint64_t mask = _dmi_bits_mask(w, first, count);
        /* The bits of a range are changed by one owner: what they are already costs no atomic. */
        uint64_t as_is = atomic_load_explicit(&map[w], memory_order_relaxed);
        if (!((value ? ~as_is : as_is) & mask)) continue;
        uint64_t old = value ? atomic_fetch_or_explicit(&map[w], mask, memory_order_relaxed)
                             : atomic_fetch_and_explicit(&map[w], ~mask, memory_order_relaxed);
        changed += (size_t)__builtin_popcountll((value ? ~old : old) & mask);
    }
    return changed;
}

/* How many bits of a range are set. */
static inline size_t _dmi_bits_count(const dmi_bits *map, size_t first, size_t count) {
    size_t n = 0;
    if (count == 0) return 0;
    for (size_t w = first / 64; w <= (first + count - 1) / 64; w++)
        n += (size_t)__builtin_popcountll(atomic_load_explicit(&map[w], memory_order_relaxed) &
                                          _dmi_bits_mask(w, first, count));
    return n;
}

/* The first index in [from, end) whose bit equals value; end when there is none. */
static inline size_t _dmi_bits_find(const dmi_bits *map, size_t from, size_t end, bool value) {
    while (from < end) {
        uint64_t word = atomic_load_explicit(&map[from / 64], memory_order_relaxed);
        if (!value) word = ~word;
        word >>= from % 64;
        if (word) {
            from += (size_t)__builtin_ctzll(word);
            return from < end ? from : end;
        }
        from = (from / 64 + 1) * 64;
    }
    return end;
}
#endif
