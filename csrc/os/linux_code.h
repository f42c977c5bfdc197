/* linux_code.h - floor 1: which code is mapped. No memory is taken, no lock waited for. */
#ifndef DMI_LINUX_CODE_H
#define DMI_LINUX_CODE_H

#include <stdbool.h>
#include <stdint.h>

/* Look again, which is done now and then by itself. */
void _dmi_code_refresh(void);
/* Is code mapped there? It may have been until a moment ago, so that it may not be read. */
bool _dmi_code_holds(uintptr_t address);

#endif
