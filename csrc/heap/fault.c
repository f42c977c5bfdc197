/* fault.c - the one place where faults are told. */
#include "fault.h"

#include "fast.h"
#include "guarded.h"
#include "observe.h"
#include "trace.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static dmi_fault_handler handler;
static void *handler_argument;
static dmi_lock handler_lock;

void dmi_set_fault_handler(dmi_fault_handler to, void *argument) {
    _dmi_lock(&handler_lock);
    handler = to;
    handler_argument = argument;
    _dmi_unlock(&handler_lock);
}

#define SENTENCE(name, word, sentence) [DMI_FAULT_##name] = sentence,
static const char *const what[] = {"no fault", DMI_FAULTS(SENTENCE)};

static bool is_fence(const dmi_run *run) {
    return run->kind == DMI_RUN_FREE && run->flags & DMI_RUN_FENCE;
}

/* Heap, block and size as far as the page map and the descriptor tell them. */
static void locate(dmi_fault_report *report) {
    const char *address = report->address;
    dmi_thread *guard = _dmi_guard();
    const dmi_run *run = _dmi_pagemap_find(address);
    if (run->kind != DMI_RUN_NONE) {
        dmi_heap *heap = _dmi_heap_of_run(run);
        report->heap = heap->handle;
        if (run->kind == DMI_RUN_LFH) {
            size_t index = _dmi_lfh_index(run, address);
            report->block = _dmi_lfh_block(run, index);
            report->block_size = run->block_size;
        } else if (run->kind == DMI_RUN_LIST) {
            _dmi_lock(&heap->lock);
            const dmi_tag *tag =
                run->kind == DMI_RUN_LIST ? _dmi_freelist_holding(run, address) : NULL;
            if (tag) {
                report->block = (const char *)tag + DMI_LIST_TAG;
                report->block_size = _dmi_tag_bytes(tag) - DMI_LIST_TAG;
            }
            _dmi_unlock(&heap->lock);
        } else if (run->kind == DMI_RUN_GUARDED) {
            report->block = _dmi_guarded_block(run);
            report->block_size = run->block_size;
        } else if (run->kind == DMI_RUN_LARGE || run->kind == DMI_RUN_VIRTUAL ||
                   (run->kind == DMI_RUN_FREE && run->flags & DMI_RUN_WITHHELD)) {
            if (is_fence(run) && run->first) run = _dmi_segment_run(run->segment, run->first - 1);
            report->block = _dmi_run_base(run);
            report->block_size = _dmi_run_size(run);
        }
    }
    _dmi_unguard(guard);
}

/* Of a touch of a guard, by an instruction of the program's. */
static const char *touch_of(const dmi_fault_report *report) {
    if (report->kind == DMI_FAULT_FREE) return "the block was freed";
    return report->address < report->block ? "this is before the block"
                                           : "this is behind the end of the block";
}

/* Who allocated and freed it, if it is a sample, and who is here now. NULL: there is nothing to say. */
static dmi_trace_room *find_stacks(dmi_fault_report *report, bool touch) {
    const dmi_trace *allocated = NULL, *freed = NULL;
    dmi_trace_room *room = NULL;
    dmi_thread *guard = _dmi_guard();
    const dmi_run *run = _dmi_pagemap_find(report->address);
    bool sample = run->kind == DMI_RUN_GUARDED;
    if (sample) _dmi_guarded_traces(run, &allocated, &freed);
    if (sample || touch) room = _dmi_trace_room_take();
    if (room) _dmi_trace_tell(room, report, allocated, freed, DMI_FRAME, touch);
    _dmi_unguard(guard);
    return room;
}

void _dmi_fault_tell_found(int kind, const char *call, const void *address) {
    int saved = errno;
    _dmi_lock(&handler_lock);
    dmi_fault_handler to = handler;
    void *argument = handler_argument;
    _dmi_unlock(&handler_lock);
    dmi_fault_report report = {.size = sizeof report,
                               .kind = (uint32_t)kind,
                               .call = call,
                               .message = what[kind],
                               .address = address};
    bool touch = !strcmp(call, "access");
    if (to || touch) locate(&report);
    if (touch) report.message = touch_of(&report);
    dmi_trace_room *room = find_stacks(&report, touch);
    if (to) {
        to(&report, argument);
        if (room) _dmi_trace_room_give(room);
        errno = saved;
        return;
    }
    char line[192];
    int n = touch ? snprintf(line, sizeof line, "dmi: access(%p): %s (block %p, %zu bytes)\n",
                             address, report.message, report.block, report.block_size)
                  : snprintf(line, sizeof line, "dmi: %s(%p): %s\n", call, address, what[kind]);
    _dmi_os_message(line, (size_t)n);
    if (room) _dmi_trace_say(room, &report);
    abort();
}

/* Called from a signal handler, on the thread that touched an address that is not accessible. */
static void tell_of_touch(const void *address) {
    const dmi_run *run = _dmi_pagemap_find(address);
    bool freed = run->flags & DMI_RUN_KEPT; /* the same bit as DMI_RUN_WITHHELD */
    if (run->kind != DMI_RUN_GUARDED && !(run->kind == DMI_RUN_FREE && freed)) return;
    _dmi_fault_tell_found(freed && !is_fence(run) ? DMI_FAULT_FREE : DMI_FAULT_OVERFLOW, "access",
                          address);
}

void _dmi_fault_tell_touches(void) {
    (void)_dmi_os_on_fault(tell_of_touch); /* without it the program ends there all the same */
}

void _dmi_fault_tell_noted(const char *call) {
    dmi_note note = _dmi_note;
    _dmi_note.kind = DMI_NOTE_NONE;
    _dmi_fault_tell_found(note.kind == DMI_NOTE_END ? DMI_FAULT_OVERFLOW : DMI_FAULT_CORRUPT, call,
                          note.address);
}
