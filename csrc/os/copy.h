/* copy.h - floor 1: bytes of this process that may have gone, or may never have been there. */
#ifndef DMI_COPY_H
#define DMI_COPY_H

#include <stdbool.h>
#include <stddef.h>

/* Copy so many bytes. False: not all of them can be read, or the system refuses to. Never faults, takes no lock and no
 * memory; errno stays as it was. */
bool _dmi_os_copy(void *to, const void *from, size_t size);

#endif
