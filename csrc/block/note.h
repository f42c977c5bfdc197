/* note.h - floor 3: damage that is found while locks are held.
 *
 * The function that finds damage notes it, leaves the damaged list alone, and goes on as if that list were empty. The
 * public function that the thread called reports the note after all locks are released (heap/fault.h). By default
 * that is a line and the end of the process. A thread keeps its first note until it is reported.
 */
#ifndef DMI_NOTE_H
#define DMI_NOTE_H

#include "../os/os.h"

typedef enum dmi_note_kind {
    DMI_NOTE_NONE = 0,
    DMI_NOTE_LINK = 1, /* a link of a subsegment, or the mark beside it */
    DMI_NOTE_TAG = 2,  /* a tag of a region, or the links behind it */
    DMI_NOTE_END = 3   /* the canary behind a block */
} dmi_note_kind;

typedef struct dmi_note {
    dmi_note_kind kind;
    const void *address;
} dmi_note;

extern DMI_TLS dmi_note _dmi_note;

static inline void _dmi_fault_note(dmi_note_kind kind, const void *address) {
    if (_dmi_note.kind) return;
    _dmi_note.kind = kind;
    _dmi_note.address = address;
}
#endif
