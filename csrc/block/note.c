/* note.c - the thread's note of damage. */
#include "note.h"

DMI_TLS dmi_note _dmi_note;
