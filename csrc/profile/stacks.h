/* stacks.h - every stack once, by number, in bounded memory.
 *
 * A stack is a list of frames, the innermost first; equal ones share a number. Tables are reserved once, of fixed size,
 * and touched as they fill; nothing in them is moved or taken away. An entry is made without a lock, by one exchange of
 * its key, so that a signal handler, or a thread that a fork cut off, leaves nothing locked. A stack that finds no room
 * is counted and has the number 0.
 *
 * Keys are hashes of 64 bits, and equal keys are taken to be equal stacks.
 */
#ifndef DMI_STACKS_H
#define DMI_STACKS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DMI_STACK_FRAMES 96 /* of a stack; what lies further out is cut */

/* One frame as it is taken: native, or what a Python frame's code object says. */
typedef struct dmi_frame {
    uint64_t key;     /* native: the return address; Python: a hash with the uppermost bit set */
    const void *code; /* Python: the code object, while the frame is there; NULL: native */
    uint32_t offset;  /* Python: bytes from the first instruction */
} dmi_frame;
#define DMI_FRAME_PYTHON (UINT64_C(1) << 63)

/* What an interned frame says: for Python where it was, as text. */
typedef struct dmi_frame_text {
    const char *file, *function;
    uint32_t file_length, function_length;
    int32_t line; /* 0: not known */
} dmi_frame_text;

#define DMI_STACK_PARTS 16

/* A stack in the table. */
typedef struct dmi_stack {
    _Atomic uint64_t key;  /* 0: free */
    uint32_t first, depth; /* its frames' numbers, in the list of all */
    _Atomic bool whole;    /* the two above are there */
    /* Allocated: weighted bytes, weighted blocks in parts of one, samples. */
    _Atomic uint64_t bytes, count, samples;
} dmi_stack;

/* Reserve the tables. Idempotent; 0 or ENOMEM. */
int _dmi_stacks_setup(void);
/* What was allocated is 0 again, and nothing lost. Stacks keep their numbers. */
void _dmi_stacks_reset(void);
/* The number of the stack of those frames, from 1; 0: no room. */
uint32_t _dmi_stacks_enter(const dmi_frame *frames, size_t count);
/* The stack of that number; NULL: there is none. */
dmi_stack *_dmi_stacks_get(uint32_t number);
/* All numbers of stacks are below it. */
uint32_t _dmi_stacks_bound(void);
/* Frame i of the stack, as a number that _dmi_frames_get knows. */
uint32_t _dmi_stacks_frame(const dmi_stack *stack, size_t i);
/* All numbers of frames are below it; the first is 0. */
uint32_t _dmi_frames_bound(void);
/* What that frame says; text->file is NULL for a native one, whose address is *key. False: there is none. */
bool _dmi_frames_get(uint32_t number, uint64_t *key, dmi_frame_text *text);
/* Stacks that found no room. */
uint64_t _dmi_stacks_lost(void);
/* Bytes of the tables that were touched. */
size_t _dmi_stacks_metadata(void);

#endif
