/* tracer.c - traces of sampled blocks (heap/trace.h): both kinds of frames, Python's by their numbers. */
#include "tracer.h"

#include "merge.h"
#include "pyframes.h"
#include "stacks.h"

#include <errno.h>

/* So many of each are looked at, about what a trace keeps of both. They lie on the stack of whoever allocates or frees:
 * 1.5 KiB. */
#define NATIVES (DMI_TRACE_FRAMES + 2)
#define PYTHONS DMI_TRACE_FRAMES
#define NUMBER (DMI_TRACE_PYTHON - 1)

static void begin(void) {
    int saved = errno;
    _dmi_python_find();
    _dmi_os_frames_begin();
    if (_dmi_python_found()) (void)_dmi_stacks_setup(); /* without it Python frames have no names */
    errno = saved;
}

static size_t take(const void *frame, uint64_t *out, size_t most, bool *cut) {
    dmi_native native[NATIVES];
    dmi_frame python[PYTHONS];
    uintptr_t place[PYTHONS];
    uint16_t order[NATIVES + PYTHONS];
    int saved = errno;
    size_t natives = _dmi_os_frames(frame, native, NATIVES, cut);
    size_t pythons = _dmi_python_frames(python, place, PYTHONS);
    size_t n = _dmi_merge(native, natives, place, pythons, order);
    if (n > most || natives == NATIVES || pythons == PYTHONS) *cut = true;
    if (n > most) n = most;
    for (size_t i = 0; i < n; i++) {
        size_t at = order[i] & (DMI_MERGE_PYTHON - 1);
        if (order[i] & DMI_MERGE_PYTHON) out[i] = DMI_TRACE_PYTHON | _dmi_frames_enter(&python[at]);
        else out[i] = native[at].address - 1; /* of the call, not of what follows it */
    }
    errno = saved;
    return n;
}

static void look_up(uint64_t frame, dmi_trace_python *out) {
    uint64_t key;
    dmi_frame_text text;
    *out = (dmi_trace_python){0};
    if ((frame & NUMBER) >= _dmi_frames_bound()) return;
    if (!_dmi_frames_get((uint32_t)frame, &key, &text) || !text.file) return;
    out->file = text.file;
    out->file_length = text.file_length;
    out->function = text.function;
    out->function_length = text.function_length;
    out->line = text.line;
}

const dmi_tracer _dmi_profile_tracer = {begin, take, look_up};

/* Before constructors that make heaps. */
__attribute__((constructor(101))) static void serve(void) { _dmi_tracer = &_dmi_profile_tracer; }
