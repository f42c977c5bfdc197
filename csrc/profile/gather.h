/* gather.h - what is on the watched pages of a heap at one moment. */
#ifndef DMI_GATHER_H
#define DMI_GATHER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum dmi_fate { DMI_FATE_PINNED = 0, DMI_FATE_GOES_BACK = 1, DMI_FATE_EMPTY = 2 } dmi_fate;

/* A watched page; its blocks follow it. */
typedef struct dmi_spot {
    uint64_t address;
    uint32_t heap; /* as the caller numbers them */
    uint32_t every;
    uint32_t
        free; /* bytes that its busy blocks pin; without busy blocks, the bytes that can go back */
    uint8_t fate; /* dmi_fate */
    uint16_t blocks;
} dmi_spot;
typedef struct dmi_spot_block {
    uint64_t address;
    uint32_t size, stack;
    uint32_t
        times; /* how many blocks of the page it stands for in what goes by stack; 0: it has none, by chance */
} dmi_spot_block;

typedef struct dmi_spots {
    char *bytes; /* pages of its own */
    size_t reserved, used;
    uint64_t lost; /* pages for which there was no room, or that could not be looked at */
} dmi_spots;

/* Room for every page that is watched now, and some more. 0 or ENOMEM. */
int _dmi_spots_begin(dmi_spots *spots);
/* Add the watched pages of a heap. Its threads stand still meanwhile. False: the handle is stale. */
bool _dmi_spots_add(dmi_spots *spots, void *handle, uint32_t number);
/* The first, the next one; NULL: no more. */
const dmi_spot *_dmi_spots_next(const dmi_spots *spots, const dmi_spot *spot);
static inline const dmi_spot_block *_dmi_spot_blocks(const dmi_spot *spot) {
    return (const dmi_spot_block *)(const void *)(spot + 1);
}
void _dmi_spots_end(dmi_spots *spots);

#endif
