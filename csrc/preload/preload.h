/* preload.h - the top of the tower: what the files of libdmi_malloc.so know of each other. */
#ifndef DMI_PRELOAD_H
#define DMI_PRELOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

/* What the world sees of this library; everything else is hidden. */
#define DMI_DOOR __attribute__((visibility("default")))

/* Read DMI_OPTIONS once and tell the core. Allocates nothing; before the default heap is made. */
void _dmi_preload_options(void);

/* What the fast paths leave over. */
struct dmi_run;
void *_dmi_preload_malloc_slow(size_t size);
void _dmi_preload_free_slow(void *block, struct dmi_run *run);

/* What DMI_OPTIONS says about summaries. */
typedef struct dmi_preload_wish {
    bool at_exit;
    int signal; /* 0: none */
} dmi_preload_wish;
extern dmi_preload_wish _dmi_preload_wish;

/* Set by the signal's handler, acted upon by the next slow path. */
extern _Atomic bool _dmi_preload_asked;
/* Write the `!heap -s` text of all heaps to standard error, if it was asked for. Call without locks. */
void _dmi_preload_answer(void);
/* The same at any time; why ends the heading. */
void _dmi_preload_summary(const char *why);

#endif
