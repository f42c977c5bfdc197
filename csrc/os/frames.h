/* frames.h - floor 1: the stack of the calling thread by its frame pointers, and the code that is mapped.
 *
 * Nothing here allocates, takes a lock or faults, whatever the registers and the stack hold: a frame is read only where
 * its page is known to be readable, frames only go upwards, and a return address counts only when it lies in mapped
 * code. Code that links no frames ends a stack early. May be called anywhere, in a signal handler too. errno may change.
 */
#ifndef DMI_FRAMES_H
#define DMI_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Return addresses from the frame (what __builtin_frame_address says) on outwards, at most so many; without those of
 * our own library at the beginning. Returns how many. */
size_t _dmi_os_frames(const void *frame, uintptr_t *out, size_t most);
/* Look again which code is mapped, which is done now and then by itself. */
void _dmi_os_frames_refresh(void);
/* Call visit for each mapping of code that comes from a file; path is not terminated. 0 or an errno (ENOSYS: the system
 * has no such list). visit must not take a stack. */
int _dmi_os_code(void (*visit)(void *argument, uint64_t start, uint64_t end, uint64_t offset,
                               const char *path, size_t length),
                 void *argument);
/* A symbol of the program or a library that it loaded for all to see; NULL: none. May allocate. */
void *_dmi_os_symbol(const char *name);
/* Bytes of the function or object at that address; 0: not known. May allocate. */
size_t _dmi_os_symbol_size(const void *address);
/* The path of the program's own file. Its length, 0: not known. */
size_t _dmi_os_program(char *path, size_t size);
uint64_t _dmi_os_process_id(void);
/* Microseconds since 1970. */
uint64_t _dmi_os_calendar(void);

#endif
