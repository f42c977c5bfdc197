/* linux_linked.h - floor 1: does code without tables link its frames? */
#ifndef DMI_LINUX_LINKED_H
#define DMI_LINUX_LINKED_H

#include <stdbool.h>
#include <stdint.h>

/* Is it proven that the function that pc lies in, and that returns to caller, begins by linking its frame? The call
 * before the return address says which function that is: so a call through a register proves nothing. pc is a return
 * address itself. */
bool _dmi_code_links(uintptr_t pc, uintptr_t caller);

#endif
