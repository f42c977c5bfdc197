/* windows_regions.h - what windows.c puts into its backend; the contract is that of os.h. */
#ifndef DMI_WINDOWS_REGIONS_H
#define DMI_WINDOWS_REGIONS_H

#include "os.h"

int _dmi_windows_regions(uint64_t pid, dmi_os_region_visit visit, void *argument, uint64_t *total);

#endif
