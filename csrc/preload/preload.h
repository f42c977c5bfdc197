/* preload.h - the top of the tower: what the files of libdmi_malloc.so know of each other. */
#ifndef DMI_PRELOAD_H
#define DMI_PRELOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

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

/* What a signal's handler or a fork left to be done; 0 nearly always, and slow paths look. */
#define DMI_ASKED 1u /* for a summary */
#define DMI_START 2u /* the thread that writes it: this is a fork child */
extern _Atomic uint32_t _dmi_preload_asked;
static inline bool _dmi_preload_take(uint32_t bit) {
    return atomic_fetch_and_explicit(&_dmi_preload_asked, ~bit, memory_order_acquire) & bit;
}
/* Do it, as far as it is not for the thread. Call without locks. */
void _dmi_preload_answer(void);
/* Let this signal ask for a summary, unless the program has a use for it. Once, before there are threads. */
void _dmi_preload_listen(int number);
/* Write the `!heap -s` text of all heaps to standard error; why ends the heading. Call without locks. */
void _dmi_preload_summary(const char *why);
/* The same if a signal asked for it; when it returns, all that was asked for before is written. */
void _dmi_preload_settle(void);

#endif
