/* merge.c - Python frames in the place of the function that runs them. */
#include "merge.h"

#include "pyframes.h"

size_t _dmi_merge(const dmi_native *native, size_t natives, const uintptr_t *place, size_t pythons,
                  uint16_t *order) {
    size_t n = 0, at = 0;
    for (size_t i = 0; i < natives; i++) {
        uintptr_t end = native[i].end;
        bool evaluates = at < pythons && _dmi_python_evaluates(native[i].address);
        bool holds = evaluates;
        if (end != UINTPTR_MAX) holds = at < pythons && place[at] && place[at] < end;
        /* The function that runs Python may have parts elsewhere, which are not known to be its: they stay. */
        if (!holds || !evaluates) order[n++] = (uint16_t)i;
        while (holds) {
            uintptr_t here = place[at];
            do order[n++] = (uint16_t)(DMI_MERGE_PYTHON | at++);
            while (at < pythons && place[at] == here);
            holds = end != UINTPTR_MAX && at < pythons && place[at] && place[at] < end;
        }
    }
    /* Where native frames are missing the rest follows. */
    while (at < pythons) order[n++] = (uint16_t)(DMI_MERGE_PYTHON | at++);
    return n;
}
