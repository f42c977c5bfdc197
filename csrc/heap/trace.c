/* trace.c - stacks of sampled blocks: taken as numbers, told as names. */
#include "trace.h"

#include "../os/os.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

const dmi_tracer *_dmi_tracer;
static _Atomic bool began;

void _dmi_trace_begin(void) {
    if (!_dmi_tracer || atomic_load_explicit(&began, memory_order_relaxed)) return;
    _dmi_tracer->begin();
    atomic_store_explicit(&began, true, memory_order_release);
}

/* ---- taking ------------------------------------------------------------------------------------------- */

static size_t take(const void *frame, uint64_t *out, bool *cut) {
    *cut = false;
    if (!atomic_load_explicit(&began, memory_order_acquire)) return 0;
    return _dmi_tracer->take(frame, out, DMI_TRACE_FRAMES, cut);
}

void _dmi_trace_take(dmi_trace *trace, const void *frame) {
    uint64_t found[DMI_TRACE_FRAMES];
    bool cut;
    _dmi_trace_forget(trace);
    size_t n = take(frame, found, &cut);
    for (size_t i = 0; i < n; i++)
        atomic_store_explicit(&trace->frame[i], found[i], memory_order_relaxed);
    atomic_store_explicit(&trace->cut, cut, memory_order_relaxed);
    atomic_store_explicit(&trace->count, (uint32_t)n, memory_order_release);
}

/* ---- telling ------------------------------------------------------------------------------------------ */

#define STACKS 3
#define TEXTS 8192
#define ROOMS 4

struct dmi_trace_room {
    _Atomic uint64_t owner; /* a thread, by its ID; 0: nobody */
    size_t used;            /* of text */
    dmi_fault_frame frame[STACKS][DMI_TRACE_FRAMES];
    dmi_module module[STACKS * DMI_TRACE_FRAMES];
    dmi_modules_room modules;
    char text[TEXTS], line[2048];
};
static dmi_trace_room rooms[ROOMS];

dmi_trace_room *_dmi_trace_room_take(void) {
    uint64_t us = _dmi_os_thread_id();
    for (size_t i = 0; i < ROOMS; i++)
        if (atomic_load_explicit(&rooms[i].owner, memory_order_relaxed) == us) return &rooms[i];
    for (size_t i = 0; i < ROOMS; i++) {
        uint64_t nobody = 0;
        if (atomic_compare_exchange_strong_explicit(&rooms[i].owner, &nobody, us,
                                                    memory_order_acquire, memory_order_relaxed))
            return &rooms[i];
    }
    return NULL;
}

void _dmi_trace_room_give(dmi_trace_room *room) {
    atomic_store_explicit(&room->owner, 0, memory_order_release);
}

static const char *keep(dmi_trace_room *room, const char *text, size_t length) {
    if (!text || sizeof room->text - room->used <= length) return NULL;
    char *to = memcpy(room->text + room->used, text, length);
    to[length] = 0;
    room->used += length + 1;
    return to;
}

static dmi_fault_frame name(dmi_trace_room *room, uint64_t from) {
    if (!(from & DMI_TRACE_PYTHON))
        return (dmi_fault_frame){.address = (const void *)(uintptr_t)from};
    dmi_trace_python found = {0};
    _dmi_tracer->look_up(from & ~DMI_TRACE_PYTHON, &found);
    return (dmi_fault_frame){.file = keep(room, found.file, found.file_length),
                             .function = keep(room, found.function, found.function_length),
                             .line = found.line};
}

static dmi_fault_stack name_all(dmi_trace_room *room, size_t number, const uint64_t *from,
                                size_t count, bool cut) {
    dmi_fault_frame *to = room->frame[number];
    for (size_t i = 0; i < count; i++) to[i] = name(room, from[i]);
    return (dmi_fault_stack){.frames = to, .count = count, .cut = cut};
}

static dmi_fault_stack name_kept(dmi_trace_room *room, size_t number, const dmi_trace *trace) {
    uint64_t from[DMI_TRACE_FRAMES];
    size_t n = trace ? atomic_load_explicit(&trace->count, memory_order_acquire) : 0;
    for (size_t i = 0; i < n; i++)
        from[i] = atomic_load_explicit(&trace->frame[i], memory_order_relaxed);
    bool cut = n && atomic_load_explicit(&trace->cut, memory_order_relaxed);
    return name_all(room, number, from, n, cut);
}

static void name_modules(dmi_trace_room *room, const dmi_fault_stack *const *stacks) {
    size_t n = 0;
    for (size_t s = 0; s < STACKS; s++)
        for (size_t i = 0; i < stacks[s]->count; i++)
            if (room->frame[s][i].address)
                room->module[n++].address = (uintptr_t)room->frame[s][i].address;
    _dmi_os_modules(room->module, n, &room->modules);
    n = 0;
    for (size_t s = 0; s < STACKS; s++)
        for (size_t i = 0; i < stacks[s]->count; i++) {
            dmi_fault_frame *frame = &room->frame[s][i];
            if (!frame->address) continue;
            frame->file = room->module[n].path;
            frame->offset = frame->file ? room->module[n].offset : 0;
            n++;
        }
}

/* Through a signal: the first frame that is not ours is the system's, which called the handler. */
static dmi_fault_stack name_here(dmi_trace_room *room, size_t number, const void *here,
                                 bool touch) {
    uint64_t from[DMI_TRACE_FRAMES];
    bool cut = false;
    size_t skip = touch, n = 0;
    if (!touch || _dmi_os_frames_cross_signals()) n = take(here, from, &cut);
    if (n < skip) n = skip = 0;
    return name_all(room, number, from + skip, n - skip, cut);
}

void _dmi_trace_tell(dmi_trace_room *room, dmi_fault_report *report, const dmi_trace *allocated,
                     const dmi_trace *freed, const void *here, bool touch) {
    int saved = errno;
    room->used = 0;
    report->found = name_here(room, 0, here, touch);
    report->allocated = name_kept(room, 1, allocated);
    report->freed = name_kept(room, 2, freed);
    const dmi_fault_stack *const all[STACKS] = {&report->found, &report->allocated, &report->freed};
    name_modules(room, all);
    errno = saved;
}

static size_t say_frame(const dmi_fault_frame *frame, char *to, size_t size) {
    int n;
    if (frame->address && frame->file)
        n = snprintf(to, size, "dmi:     %s+0x%llx\n", frame->file,
                     (unsigned long long)frame->offset);
    else if (frame->address) n = snprintf(to, size, "dmi:     %p\n", frame->address);
    else if (frame->line)
        n = snprintf(to, size, "dmi:     %s:%d in %s\n", frame->file ? frame->file : "?",
                     frame->line, frame->function ? frame->function : "?");
    else
        n = snprintf(to, size, "dmi:     %s in %s\n", frame->file ? frame->file : "?",
                     frame->function ? frame->function : "?");
    return n < 0 ? 0 : (size_t)n < size ? (size_t)n : size - 1;
}

static void say_stack(dmi_trace_room *room, const char *what, const dmi_fault_stack *stack) {
    size_t n = 0;
    char *line = room->line;
    if (stack->count == 0) return;
    n += (size_t)snprintf(line, sizeof room->line, "dmi:   %s\n", what);
    for (size_t i = 0; i <= stack->count; i++) {
        /* Lines go out together where they fit, so that few others come between. */
        if (sizeof room->line - n < sizeof room->line / 2) {
            _dmi_os_message(line, n);
            n = 0;
        }
        if (i < stack->count) n += say_frame(&stack->frames[i], line + n, sizeof room->line - n);
        else if (stack->cut)
            n += (size_t)snprintf(line + n, sizeof room->line - n, "dmi:     ...\n");
    }
    _dmi_os_message(line, n);
}

void _dmi_trace_say(dmi_trace_room *room, const dmi_fault_report *report) {
    bool touch = !strcmp(report->call, "access");
    say_stack(room, touch ? "touched by" : "called by", &report->found);
    say_stack(room, "allocated by", &report->allocated);
    say_stack(room, "freed by", &report->freed);
}
