/* stacks.h - every stack once, by number, in bounded memory.
 *
 * Stacks are the paths of a tree: a node is a frame and its parent, the frame that called it. So stacks that share their
 * outer frames share their nodes. A stack's number leads to the node of its innermost frame. Tables are reserved once,
 * of fixed size, and touched as they fill; nothing in them is moved or taken away. An entry is made without a lock, by
 * one exchange of its key, and whoever finds one that is not filled in yet fills it in: so a signal handler, or a thread
 * that a fork cut off, leaves nothing locked or half done. A stack that finds no room is counted and has the number 0.
 *
 * Keys are hashes of 64 bits, and equal keys are taken to be equal.
 */
#ifndef DMI_STACKS_H
#define DMI_STACKS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One frame as it is taken: native, or what a Python frame's code object says. */
typedef struct dmi_frame {
    uint64_t key;     /* native: the return address; Python: a hash with the uppermost bit set */
    const void *code; /* Python: the code object, while the frame is there; NULL: native */
    uint32_t offset;  /* Python: bytes from the first instruction */
} dmi_frame;
#define DMI_FRAME_PYTHON (UINT64_C(1) << 63)
#define DMI_FRAME_CUT UINT64_C(1) /* in the place of frames that are missing further out */

/* What an interned frame says: for Python where it was, as text. */
typedef struct dmi_frame_text {
    const char *file, *function;
    uint32_t file_length, function_length;
    int32_t line; /* 0: not known */
} dmi_frame_text;

#define DMI_STACK_PARTS 16
#define DMI_STACKS_MOST 16384u

/* A stack in the table. */
typedef struct dmi_stack {
    /* Allocated: weighted bytes, weighted blocks in parts of one, samples. */
    _Atomic uint64_t bytes, count, samples;
    _Atomic uint32_t node; /* of its innermost frame; 0: not there yet */
} dmi_stack;

/* Reserve the tables. Idempotent; 0 or ENOMEM. */
int _dmi_stacks_setup(void);
/* What was allocated is 0 again, and nothing lost. Stacks keep their numbers. */
void _dmi_stacks_reset(void);
/* A part of the tables is kept for stacks of which some frames are left out, and the last of it for those of which hardly
 * any are there. The less a stack has, the fewer there are of its kind: when no more whole ones fit, lines are still
 * known. */
typedef enum { DMI_STACK_LINE, DMI_STACK_SHORT, DMI_STACK_WHOLE } dmi_stack_kind;
/* The node of a frame that was called by that of the node caller (0: by nobody, or not known); 0: no room. A stack is
 * entered from its outermost frame on. */
uint32_t _dmi_stacks_enter(uint32_t caller, const dmi_frame *frame, dmi_stack_kind kind);
/* The number of the stack whose innermost frame that is, from 1; 0: no room, which of a line is counted as lost. */
uint32_t _dmi_stacks_number(uint32_t node, dmi_stack_kind kind);
/* The stack of that number; NULL: there is none. */
dmi_stack *_dmi_stacks_get(uint32_t number);
/* All numbers of stacks are below it. */
uint32_t _dmi_stacks_bound(void);
/* A way through a stack's frames, from the innermost on: begin with node = stack->node. Gives the number of the node's
 * frame, as _dmi_frames_get knows it, and goes on to the one that called it. False: there is none, or it is being
 * entered; *node is 0 at the end of a stack that is whole. */
bool _dmi_stacks_walk(uint32_t *node, uint32_t *frame);
/* The number of a frame by itself, as _dmi_frames_get knows it; UINT32_MAX: no room. */
uint32_t _dmi_frames_enter(const dmi_frame *frame);
/* All numbers of frames are below it; the first is 0. */
uint32_t _dmi_frames_bound(void);
/* What that frame says; text->file is NULL for a native one, whose address is *key. False: there is none. */
bool _dmi_frames_get(uint32_t number, uint64_t *key, dmi_frame_text *text);
/* Stacks that found no room. */
uint64_t _dmi_stacks_lost(void);
/* Bytes of the tables that were touched. */
size_t _dmi_stacks_metadata(void);

#endif
