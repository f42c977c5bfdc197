/* linked.h - floor 7: finds tables of lists by their contents, where no symbol names them.
 *
 * glibc's bins and pymalloc's used pools are such tables. The head of a list stands where the links of an element would,
 * so an empty list is two words that both hold their own address less 16. */
#ifndef DMI_FOREIGN_LINKED_H
#define DMI_FOREIGN_LINKED_H

#include <stddef.h>
#include <stdint.h>

/* A table that was found. */
typedef struct dmi_linked {
    uint64_t first, last; /* addresses of the first and the last empty pair */
    uint64_t pairs;       /* empty pairs in the run */
} dmi_linked;

/* Find runs of at least `least` empty lists, with at most `holes` other pairs between two of them, in count words that
 * were read at address, a multiple of 8. Returns how many runs there are; the first capacity of them are in out. */
size_t _dmi_linked_find(const uint64_t *words, size_t count, uint64_t address, uint64_t least,
                        uint64_t holes, dmi_linked *out, size_t capacity);

/* Find runs of at least `least` words that each hold the address of a page or are a word of an empty list. That is what
 * a table of lists of pages looks like, even when no list is empty. first and last are addresses of words, and pairs is
 * the number of words. */
size_t _dmi_linked_pages(const uint64_t *words, size_t count, uint64_t address, uint64_t least,
                         dmi_linked *out, size_t capacity);

#endif
