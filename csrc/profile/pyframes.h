/* pyframes.h - the Python frames of the calling thread, read without references and without allocation.
 *
 * Only a thread that is attached to its interpreter reads, and only its own frames: nobody else changes them then.
 * Where things lie is taken from the interpreter itself (_Py_DebugOffsets, from 3.13 on) or known (3.11, 3.12).
 * Of another version nothing is read.
 */
#ifndef DMI_PYFRAMES_H
#define DMI_PYFRAMES_H

#include "stacks.h"

/* Look for an interpreter in this process. May allocate; call it without locks. */
void _dmi_python_find(void);
/* Is there one whose frames can be read? */
bool _dmi_python_found(void);
/* Frames of this thread, the innermost first, at most so many. place[i]: an address on the stack of the native function
 * that runs it; 0: not known. One native function runs all frames of one place. */
size_t _dmi_python_frames(dmi_frame *out, uintptr_t *place, size_t most);
/* A hash of the places in the two innermost Python functions that this thread runs; 0: it runs none. */
uint64_t _dmi_python_site(void);
/* Is this the address of code of the function that runs Python frames? */
bool _dmi_python_evaluates(uint64_t address);

typedef struct dmi_python_where {
    char file[1024], function[512]; /* UTF-8, without a 0 */
    size_t file_length, function_length;
    int32_t line;
} dmi_python_where;
/* What a frame's code object says. The frame is still there. */
bool _dmi_python_where(const dmi_frame *frame, dmi_python_where *out);

#endif
