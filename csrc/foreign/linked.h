/* linked.h - floor 7: tables of empty lists, which know their own addresses. */
#ifndef DMI_FOREIGN_LINKED_H
#define DMI_FOREIGN_LINKED_H

#include <stddef.h>
#include <stdint.h>

/* A run of pairs of words in which an empty list's pair holds its own address less 16, twice. */
typedef struct dmi_linked {
    uint64_t first, last; /* addresses of the first and the last empty pair */
    uint64_t pairs;       /* empty pairs in the run */
} dmi_linked;

/* glibc's bins and pymalloc's used pools are such tables: an empty list's head stands where the links of an
 * element would, so both of its words lead 16 bytes before it. Looks through count words that were read at
 * address, a multiple of 8, for runs of at least `least` empty pairs with at most `holes` others between two of
 * them. Returns how many there are, of which the first capacity are in out. */
size_t _dmi_linked_find(const uint64_t *words, size_t count, uint64_t address, uint64_t least,
                        uint64_t holes, dmi_linked *out, size_t capacity);

/* Runs of at least `least` words of which each leads to a page, or is the head of an empty list as above: what
 * a table of lists of whole pages looks like, also where no list is empty. first and last are addresses of
 * words, pairs is how many words there are. */
size_t _dmi_linked_pages(const uint64_t *words, size_t count, uint64_t address, uint64_t least,
                         dmi_linked *out, size_t capacity);

#endif
