/* tracer.h - who takes the traces of sampled blocks (heap/trace.h), with Python's frames in them. */
#ifndef DMI_TRACER_H
#define DMI_TRACER_H

#include "../heap/trace.h"

/* There before any constructor that makes heaps. A program that is linked with single objects names it, so that it has
 * it. */
extern const dmi_tracer _dmi_profile_tracer;

#endif
