/* linux_random.h - floor 1, Linux: random bytes. The contract is that of os.h. */
#ifndef DMI_LINUX_RANDOM_H
#define DMI_LINUX_RANDOM_H

#include <stddef.h>

int _dmi_linux_random(void *buffer, size_t size);
#endif
