/* linked.c - finds glibc's bins and pymalloc's used pools by their empty lists. */
#include "linked.h"

#include <stdbool.h>

static bool is_empty(const uint64_t *words, size_t i, uint64_t address) {
    return words[i] == address + 8 * i - 16 && words[i + 1] == words[i];
}

size_t _dmi_linked_find(const uint64_t *words, size_t count, uint64_t address, uint64_t least,
                        uint64_t holes, dmi_linked *out, size_t capacity) {
    size_t found = 0;
    for (size_t i = 0; i + 1 < count;) {
        if (!is_empty(words, i, address)) {
            i++;
            continue;
        }
        size_t last = i;
        uint64_t pairs = 1;
        for (size_t k = i + 2; k + 1 < count && (k - last) / 2 <= holes + 1; k += 2)
            if (is_empty(words, k, address)) {
                last = k;
                pairs++;
            }
        if (pairs >= least) {
            if (found < capacity)
                out[found] = (dmi_linked){address + 8 * i, address + 8 * last, pairs};
            found++;
        }
        i = last + 2;
    }
    return found;
}

size_t _dmi_linked_pages(const uint64_t *words, size_t count, uint64_t address, uint64_t least,
                         dmi_linked *out, size_t capacity) {
    size_t found = 0, first = 0;
    for (size_t i = 0; i <= count; i++) {
        uint64_t at = address + 8 * i;
        if (i < count && words[i] && words[i] >> 47 == 0 &&
            (words[i] % 4096 == 0 || words[i] == at - 16 || words[i] == at - 24))
            continue;
        if (i - first >= least) {
            if (found < capacity) out[found] = (dmi_linked){address + 8 * first, at - 8, i - first};
            found++;
        }
        first = i + 1;
    }
    return found;
}
