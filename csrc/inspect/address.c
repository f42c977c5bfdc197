/* address.c - the address space of a process in tables, where the OS has a call for it (Windows). */
#include <dmi/dmi.h>

#include "../os/os.h"

#include <errno.h>
#include <string.h>

typedef struct copy {
    dmi_region *out;
    size_t capacity, count;
} copy;

static void copy_one(void *argument, const dmi_region *region) {
    copy *to = argument;
    if (to->count < to->capacity) to->out[to->count] = *region;
    to->count++;
}

static int answer(int error) {
    if (error == 0) return 0;
    errno = error;
    return -1;
}

int dmi_address_regions(uint64_t pid, dmi_region *out, size_t capacity, size_t *count,
                        uint64_t *total) {
    copy to = {out, out ? capacity : 0, 0};
    uint64_t end = 0;
    int error = _dmi_os_regions(pid, copy_one, &to, &end);
    if (error == 0 && count) *count = to.count;
    if (error == 0 && total) *total = end;
    return answer(error);
}

static void sum_one(void *argument, const dmi_region *region) {
    dmi_address_tables *sums = argument;
    uint32_t usage = region->usage < DMI_USAGE_COUNT ? region->usage : DMI_USAGE_OTHER;
    sums->regions++;
    sums->usage[usage] += region->size;
    switch (region->state) {
    case DMI_MEM_FREE: sums->free += region->size; return;
    case DMI_MEM_COMMIT: sums->committed += region->size; break;
    default: sums->reserved += region->size; break;
    }
    switch (region->type) {
    case DMI_MEM_IMAGE: sums->image += region->size; break;
    case DMI_MEM_MAPPED: sums->mapped += region->size; break;
    default: sums->private_ += region->size; break;
    }
}

int dmi_address_summary(uint64_t pid, dmi_address_tables *tables) {
    /* This is the first version of the struct. A caller with a later version has a larger one. */
    if (!tables || tables->size < sizeof *tables) return answer(EINVAL);
    dmi_address_tables sums = {.size = sizeof sums};
    int error = _dmi_os_regions(pid, sum_one, &sums, &sums.total);
    if (error == 0) memcpy(tables, &sums, sizeof sums);
    return answer(error);
}
