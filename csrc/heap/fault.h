/* fault.h - what happens when a program freed a wrong address or wrote where it must not.
 *
 * Told without any lock of dmi held, so that a handler may allocate, free, walk and validate. If the handler returns,
 * the call that found the fault does nothing: a free frees nothing, a realloc returns NULL with EINVAL; an allocation
 * goes on without the damaged list. Without a handler: one line on standard error, and abort.
 */
#ifndef DMI_FAULT_H
#define DMI_FAULT_H

#include "../block/note.h"

/* Tell of a fault that the caller found at that address. Returns if the handler does. call "access": a guard was
 * touched, and this is a signal handler. */
void _dmi_fault_tell_found(int kind, const char *call, const void *address);
/* From now on a touch of a guard slot, of a large block that a hardened heap withholds, or of the fence behind one, is
 * told before the program's own handler of such signals is asked. Once is enough. */
void _dmi_fault_tell_touches(void);
/* Tell what was noted while locks were held. */
void _dmi_fault_tell_noted(const char *call);
static inline void _dmi_fault_tell(const char *call) {
    if (__builtin_expect(_dmi_note.kind != DMI_NOTE_NONE, 0)) _dmi_fault_tell_noted(call);
}
#endif
