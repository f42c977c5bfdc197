/* own.c - the list of the library's own mappings. */
#include "own.h"
#include "os.h"

#include <string.h>

dmi_own_list _dmi_own = {.areas = DMI_OWN_AREAS, .area_size = sizeof(dmi_own_area)};

static uint64_t used; /* places that were taken, and calls that found none */

void _dmi_own_add(const void *base, size_t size, const char *name) {
    uint64_t place = __atomic_fetch_add(&used, 1, __ATOMIC_RELAXED);
    if (place >= DMI_OWN_AREAS) return;
    dmi_own_area *area = &_dmi_own.area[place];
    size_t length = strlen(name);
    memcpy(area->name, name, length < sizeof area->name ? length : sizeof area->name);
    area->size = size;
    __atomic_store_n(&area->base, base, __ATOMIC_RELEASE);
}

void *_dmi_own_reserve(size_t size, const char *name) {
    void *base = _dmi_os_reserve(size, _dmi_os_page_size(), DMI_OS_SPARSE, false, name);
    if (base) _dmi_own_add(base, size, name);
    return base;
}
