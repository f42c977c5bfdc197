/* new.h - C++'s operators under the names that the Itanium ABI gives them; size_t is unsigned long. */
#ifndef DMI_NEW_H
#define DMI_NEW_H

#include "preload.h"

#include <stdint.h>

#if SIZE_MAX != UINT64_MAX
#error "the mangled names below are those of 64-bit systems"
#endif

typedef size_t align_val;        /* std::align_val_t, passed as its underlying type */
typedef const void *nothrow_ref; /* const std::nothrow_t & */

DMI_DOOR void *_Znwm(size_t); /* new */
DMI_DOOR void *_ZnwmRKSt9nothrow_t(size_t, nothrow_ref);
DMI_DOOR void *_ZnwmSt11align_val_t(size_t, align_val);
DMI_DOOR void *_ZnwmSt11align_val_tRKSt9nothrow_t(size_t, align_val, nothrow_ref);
DMI_DOOR void *_Znam(size_t); /* new[] */
DMI_DOOR void *_ZnamRKSt9nothrow_t(size_t, nothrow_ref);
DMI_DOOR void *_ZnamSt11align_val_t(size_t, align_val);
DMI_DOOR void *_ZnamSt11align_val_tRKSt9nothrow_t(size_t, align_val, nothrow_ref);

DMI_DOOR void _ZdlPv(void *); /* delete */
DMI_DOOR void _ZdlPvm(void *, size_t);
DMI_DOOR void _ZdlPvRKSt9nothrow_t(void *, nothrow_ref);
DMI_DOOR void _ZdlPvSt11align_val_t(void *, align_val);
DMI_DOOR void _ZdlPvmSt11align_val_t(void *, size_t, align_val);
DMI_DOOR void _ZdlPvSt11align_val_tRKSt9nothrow_t(void *, align_val, nothrow_ref);
DMI_DOOR void _ZdaPv(void *); /* delete[] */
DMI_DOOR void _ZdaPvm(void *, size_t);
DMI_DOOR void _ZdaPvRKSt9nothrow_t(void *, nothrow_ref);
DMI_DOOR void _ZdaPvSt11align_val_t(void *, align_val);
DMI_DOOR void _ZdaPvmSt11align_val_t(void *, size_t, align_val);
DMI_DOOR void _ZdaPvSt11align_val_tRKSt9nothrow_t(void *, align_val, nothrow_ref);

/* The same by names that nobody can replace: what the global names are compared with. */
void *_dmi_preload_new(size_t);
void *_dmi_preload_new_aligned(size_t, align_val);
void *_dmi_preload_new_array(size_t);
void *_dmi_preload_new_array_aligned(size_t, align_val);
/* Allocate or return NULL. */
void *_dmi_preload_new_try(size_t size);
void *_dmi_preload_new_aligned_try(size_t size, align_val align);
/* A function of the C++ runtime of this process, NULL without one. */
void *_dmi_preload_runtime(const char *name);

#endif
