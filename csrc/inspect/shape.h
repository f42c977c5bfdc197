/* shape.h - floor 6: the structs of another build, by the table of fields that it carries (layout.h).
 *
 * A build with other structs than this one says where each member lies that the walker reads. Our own struct is filled
 * from its bytes, member by member; a member that it lacks is 0. Two meanings changed besides: how links are encoded,
 * and whether a place in a list is an address or a number. The version and the table tell which.
 */
#ifndef DMI_SHAPE_H
#define DMI_SHAPE_H

#include "layout.h"

#include <stdbool.h>
#include <stddef.h>

#define DMI_LAYOUT_OLDEST 2u
#define DMI_SHAPE_FIELDS 160u
#define DMI_SHAPE_LARGEST ((size_t)64 << 10) /* bytes of the largest struct that is believed */

typedef enum dmi_shape_of { DMI_SHAPE_HEAP, DMI_SHAPE_SEGMENT, DMI_SHAPE_RUN } dmi_shape_of;

/* How the free blocks of a subsegment are linked. */
typedef enum dmi_links_are {
    DMI_LINKS_PLAIN,  /* version 2: as they are */
    DMI_LINKS_PLACED, /* encoded with the addresses of block and run */
    DMI_LINKS_MARKED  /* encoded with marks (lfh.h) */
} dmi_links_are;

/* A member to copy: from their struct to ours. */
typedef struct dmi_shape_move {
    uint32_t what, from, to, size;
} dmi_shape_move;

typedef struct dmi_shape {
    uint32_t version, count;
    uint32_t size[3];     /* of each struct there */
    uint32_t space, next; /* where a heap has these */
    dmi_links_are links;
    bool numbered; /* run.list and run.taken are numbers of blocks, not addresses */
    dmi_layout_field fields[DMI_SHAPE_FIELDS];
    dmi_shape_move moves[DMI_LAYOUT_FIELDS];
    size_t move_count;
} dmi_shape;

/* Learn from the table what this library needs. NULL: it suffices; else the name of what is missing or makes no
 * sense. */
const char *_dmi_shape_learn(dmi_shape *shape);
/* Fill our struct from the bytes of theirs. */
void _dmi_shape_fill(const dmi_shape *shape, dmi_shape_of what, const char *theirs, void *ours);
/* A member of theirs that may be of another size here, zero-extended; 0 where there is none. */
uint64_t _dmi_shape_word(const dmi_shape *shape, const char *name, const char *theirs);
#endif
