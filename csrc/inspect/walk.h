/* walk.h - floor 6: the ranges of a heap, by address. */
#ifndef DMI_WALK_H
#define DMI_WALK_H

#include "image.h"

/* Visit every range of the image's current heap, by address, until visit returns another value than 0. What makes no
 * sense is visited as overhead with DMI_RANGE_DAMAGED. Returns that value, or 0. */
int _dmi_walk_image(dmi_image *image, dmi_visit visit, void *argument);

/* The same in parts, as dmi_heap_walk_chunk has it. */
void _dmi_walk_image_chunk(dmi_image *image, uint64_t *from, dmi_range *out, size_t capacity,
                           size_t *count);

/* The public description of a segment, and of a virtual block. */
dmi_segment_info _dmi_segment_told(const dmi_segment *segment);
dmi_segment_info _dmi_virtual_told(const dmi_run *run);

#endif
