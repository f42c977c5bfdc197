/* note.c - the note that a thread has of damage. */
#include "note.h"

DMI_TLS dmi_note _dmi_note;
