/* linux_random.h - the part of the Linux backend that has random bytes. Contract: os.h. */
#ifndef DMI_LINUX_RANDOM_H
#define DMI_LINUX_RANDOM_H

#include <stddef.h>

int _dmi_linux_random(void *buffer, size_t size);
#endif
