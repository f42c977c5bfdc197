/* merge.h - the native and the Python frames of one stack, as they called each other. */
#ifndef DMI_MERGE_H
#define DMI_MERGE_H

#include "../os/frames.h"

#define DMI_MERGE_PYTHON                                                                           \
    0x8000u /* in an order: the number of a Python frame, not of a native one */

/* The native frames, with the Python ones in the place of the function that runs them: numbers of both, the innermost
 * first. Returns how many; order has room for all. place: as _dmi_python_frames says. */
size_t _dmi_merge(const dmi_native *native, size_t natives, const uintptr_t *place, size_t pythons,
                  uint16_t *order);

#endif
