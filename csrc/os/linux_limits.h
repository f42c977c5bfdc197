/* linux_limits.h - floor 1, Linux: small files, and what bounds a mapping. The contracts are those of os.h. */
#ifndef DMI_LINUX_LIMITS_H
#define DMI_LINUX_LIMITS_H

#include "os.h"

int _dmi_linux_read_file(const char *path, char *buffer, size_t size);
uint64_t _dmi_linux_headroom(dmi_os_mode mode, bool *pages);
#endif
