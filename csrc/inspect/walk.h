/* walk.h - floor 6: every range of a heap, of this process or of an image. */
#ifndef DMI_WALK_H
#define DMI_WALK_H

#include "image.h"

/* Visit every range of the heap in work, by address. What makes no sense is visited as overhead with
 * DMI_RANGE_DAMAGED. Returns 0, or what visit returned when it stopped the walk. */
int _dmi_walk_image(dmi_image *image, dmi_visit visit, void *argument);

#endif
