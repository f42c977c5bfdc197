/* utf8.h - what of a text is UTF-8. For writers that may not allocate. */
#ifndef DMI_UTF8_H
#define DMI_UTF8_H

#include <stddef.h>

/* Bytes of the character that begins at `at`, of which `left` bytes can be read, at least one. 0: none begins there.
 * By RFC 3629: no longer forms than needed, no surrogates, nothing beyond U+10FFFF. */
static inline size_t _dmi_utf8_character(const unsigned char *at, size_t left) {
    if (at[0] < 0x80) return 1;
    size_t size = at[0] >= 0xf0 ? 4 : at[0] >= 0xe0 ? 3 : 2;
    if (at[0] < 0xc2 || at[0] > 0xf4 || size > left) return 0;
    for (size_t i = 1; i < size; i++)
        if ((at[i] & 0xc0) != 0x80) return 0;
    if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f)) return 0;
    if ((at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] > 0x8f)) return 0;
    return size;
}

#endif
