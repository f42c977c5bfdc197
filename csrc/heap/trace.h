/* trace.h - the stacks that sampled blocks (guarded.h) keep: who allocated it, who freed it.
 *
 * A trace is the innermost frames of a thread, native and Python as they called each other. It is taken without locks and
 * without allocation, under the heap's lock or none. Whoever reads it may do so in a signal handler and beside a thread
 * that takes it anew: then frames of both may be in it. What a frame says is looked up by a profiler, of a higher floor.
 */
#ifndef DMI_TRACE_H
#define DMI_TRACE_H

#include "../os/frames.h"

#include <dmi/dmi.h>
#include <stdatomic.h>

#define DMI_TRACE_FRAMES 24

typedef struct dmi_trace {
    _Atomic uint32_t count; /* frames, the innermost first; 0: it was not taken */
    _Atomic bool cut;       /* frames further out are missing */
    _Atomic uint64_t frame[DMI_TRACE_FRAMES];
} dmi_trace;

/* In a frame: it is Python's, and the rest is a number of the tracer's. Else it is the address of a call. */
#define DMI_TRACE_PYTHON (UINT64_C(1) << 63)

/* What a Python frame says. The texts stay. */
typedef struct dmi_trace_python {
    const char *file, *function; /* not terminated; NULL: not known */
    size_t file_length, function_length;
    int32_t line; /* 0: not known */
} dmi_trace_python;

/* Who takes traces. Its functions leave errno as it was. */
typedef struct dmi_tracer {
    void (*begin)(void);
    /* From the function whose frame that is (DMI_FRAME) on outwards, without those of our own at the beginning. */
    size_t (*take)(const void *frame, uint64_t *out, size_t most, bool *cut);
    void (*look_up)(uint64_t frame, dmi_trace_python *out);
} dmi_tracer;
/* Set before the first heap is made; NULL: there is none. */
extern const dmi_tracer *_dmi_tracer;

/* From now on traces can be taken. Before that they are not known: to look for the tables of the code may allocate. No
 * lock may be held. */
void _dmi_trace_begin(void);
/* Take one, or leave it empty. */
void _dmi_trace_take(dmi_trace *trace, const void *frame);
static inline void _dmi_trace_forget(dmi_trace *trace) {
    atomic_store_explicit(&trace->count, 0, memory_order_relaxed);
}

/* What stacks are told with. There are few, so that a handler of a small stack, which may be left by longjmp, has one:
 * a thread keeps its own until it gives it back, or finds it again. */
typedef struct dmi_trace_room dmi_trace_room;
/* NULL: other threads have all. */
dmi_trace_room *_dmi_trace_room_take(void);
void _dmi_trace_room_give(dmi_trace_room *room);
/* Fill in the stacks of the report. NULL: that one is not known. here: the frame of who found it; touch: he is called by
 * a signal handler. */
void _dmi_trace_tell(dmi_trace_room *room, dmi_fault_report *report, const dmi_trace *allocated,
                     const dmi_trace *freed, const void *here, bool touch);
/* The lines that say so, on standard error. */
void _dmi_trace_say(dmi_trace_room *room, const dmi_fault_report *report);

#endif
