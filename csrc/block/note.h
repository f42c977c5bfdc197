/* note.h - floor 3: damage that is found while locks are held.
 *
 * Whoever finds it leaves the damaged list alone, notes it, and goes on as if that list were empty. The door through
 * which the thread came tells it when it has let go of all locks (heap/fault.h): the default is a line and the end of
 * the process. The first note of a thread counts until it is told.
 */
#ifndef DMI_NOTE_H
#define DMI_NOTE_H

#include "../os/os.h"

typedef enum dmi_note_kind {
    DMI_NOTE_NONE = 0,
    DMI_NOTE_LINK = 1, /* a link, or the mark beside it */
    DMI_NOTE_TAG = 2,  /* a tag of the free list, or the links behind it */
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
