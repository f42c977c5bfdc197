/* sources.h - memory of another process as tests of floor 7 make it up: pairs of words at addresses, and holes. */
#ifndef DMI_SOURCES_H
#define DMI_SOURCES_H

#include "floors.h"
#include "foreign/view.h"

#include <string.h>

#define SOURCE_PAIRS 20000

typedef struct source_pair {
    uint64_t address, words[2];
} source_pair;

/* Addresses between the pairs hold zeroes. */
typedef struct source {
    source_pair pairs[SOURCE_PAIRS]; /* by address */
    size_t count;
    uint64_t hole, hole_end; /* no memory there */
    uint64_t looks;
    uint64_t fail_at;  /* the look that fails, from 1; 0: none does */
    int error;         /* how it fails */
    uint64_t heals_at; /* the look from which on `healed` stands at its address */
    source_pair healed;
} source;

static inline void source_put(source *s, uint64_t address, uint64_t first, uint64_t second) {
    size_t i = s->count++;
    ENSURE(s->count <= SOURCE_PAIRS && address % 16 == 0);
    for (; i && s->pairs[i - 1].address > address; i--) s->pairs[i] = s->pairs[i - 1];
    s->pairs[i] = (source_pair){address, {first, second}};
}

static inline int source_look(void *context, uint64_t address, size_t wanted, dmi_piece *piece) {
    static const uint64_t zeroes[2];
    source *s = context;
    ENSURE(wanted >= DMI_VIEW_LEAST && wanted <= DMI_VIEW_MOST);
    s->looks++;
    if (s->fail_at && s->looks >= s->fail_at) return s->error;
    if (address >= s->hole && address < s->hole_end) {
        piece->goes_on = s->hole_end;
        return 0;
    }
    const uint64_t *words = zeroes;
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (s->pairs[middle].address < address) low = middle + 1;
        else high = middle;
    }
    if (low < s->count && s->pairs[low].address == address) words = s->pairs[low].words;
    if (s->heals_at && s->looks >= s->heals_at && s->healed.address == address)
        words = s->healed.words;
    *piece = (dmi_piece){(const unsigned char *)words, address, sizeof zeroes, 0};
    return 0;
}
#endif
