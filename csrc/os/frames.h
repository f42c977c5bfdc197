/* frames.h - floor 1: the stack of the calling thread, and the code that is mapped.
 *
 * Nothing here allocates, takes a lock or faults, whatever the registers and the stack hold: a word of the stack is read
 * only where its page is known to be readable, frames only go upwards, and a return address counts only when it lies
 * in code. Linux on x86-64 with glibc 2.35 or later: by the tables of the code (linux_cfi.h), and by frame pointers where there
 * is no table and the code proves that it links its frames; what is not understood ends the stack. Linux else: by frame
 * pointers, and code that links no frames ends a stack early or is left out. Windows: as the system says. May be called
 * anywhere, in a signal handler too. errno may change.
 */
#ifndef DMI_FRAMES_H
#define DMI_FRAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A native frame: a return address, so that the call lies before it. Where a signal interrupted, one byte behind the
 * beginning of the instruction. */
typedef struct dmi_native {
    uintptr_t address;
    uintptr_t
        end; /* where its part of the stack ends, and its caller's begins; UINTPTR_MAX: not known */
} dmi_native;

/* Before the first stack: look for tables and code. May allocate. */
void _dmi_os_frames_begin(void);
/* Frames from the function whose frame that is (what __builtin_frame_address says) on outwards, without it and at most
 * so many; without those of our own library at the beginning. Returns how many. *cut: frames further out
 * are missing, as far as that can be told. */
size_t _dmi_os_frames(const void *frame, dmi_native *out, size_t most, bool *cut);
/* The same with those of our own library. */
size_t _dmi_os_all_frames(const void *frame, dmi_native *out, size_t most, bool *cut);
/* Do stacks that are taken in a signal handler go on, through a frame of the system's, to what was interrupted? */
bool _dmi_os_frames_cross_signals(void);
/* Call visit for each mapping of code that comes from a file; path is not terminated. 0 or an errno (ENOSYS: the system
 * has no such list). visit must not take a stack. */
int _dmi_os_code(void (*visit)(void *argument, uint64_t start, uint64_t end, uint64_t offset,
                               const char *path, size_t length),
                 void *argument);
/* Where code lies. */
typedef struct dmi_module {
    uintptr_t address;
    const char *path; /* of the file that is mapped there; NULL: none, or not known */
    uint64_t offset;  /* the address as the file's own tables have it, which addr2line takes */
} dmi_module;
#define DMI_MODULES_LINES 8192
/* What finding modules needs: paths point into it. */
typedef struct dmi_modules_room {
    char text[8192], lines[DMI_MODULES_LINES], first[1024];
} dmi_modules_room;
/* Fill in path and offset of so many. Takes no lock. */
void _dmi_os_modules(dmi_module *of, size_t count, dmi_modules_room *room);
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
