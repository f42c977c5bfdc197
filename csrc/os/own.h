/* own.h - floor 1: what this library has mapped for itself beside the heaps, for readers from outside.
 *
 * Such memory is never unmapped. What does not fit the list is used all the same, and nobody outside can tell whose it
 * is. */
#ifndef DMI_OWN_H
#define DMI_OWN_H

#include <stddef.h>
#include <stdint.h>

#define DMI_OWN_AREAS 126

/* A reader takes an area whose base is not 0: then size and name are there. */
typedef struct dmi_own_area {
    const void *base;
    uint64_t size;
    char name[16]; /* ends with a zero unless it fills the room */
} dmi_own_area;

typedef struct dmi_own_list {
    uint64_t areas, area_size;
    dmi_own_area area[DMI_OWN_AREAS];
} dmi_own_list;

extern dmi_own_list _dmi_own;

/* Reserve address space for a table of the library's own that stays, and list it. As _dmi_os_reserve in SPARSE mode
 * without huge pages. No lock is wanted. */
void *_dmi_own_reserve(size_t size, const char *name);
/* List what was reserved in another way. */
void _dmi_own_add(const void *base, size_t size, const char *name);
#endif
