/* preload.h - the top of the tower: what the files of libdmi_malloc.so know of each other. */
#ifndef DMI_PRELOAD_H
#define DMI_PRELOAD_H

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What the world sees of this library; everything else is hidden. */
#define DMI_DOOR __attribute__((visibility("default")))

/* Read DMI_OPTIONS once and tell the core. Allocates nothing; before the default heap is made. */
void _dmi_preload_read_options(void);

/* What the fast paths leave over. */
struct dmi_run;
void *_dmi_preload_malloc_slow(size_t size);
/* malloc as it is here, whoever's the others call. */
void *_dmi_preload_own_malloc(size_t size);
void _dmi_preload_free_slow(void *block, struct dmi_run *run);
void _dmi_preload_free_settle(struct dmi_run *run);

/* loader.c: is this address code of the dynamic loader? Its frees may hold a lock that starting a thread needs. */
bool _dmi_preload_is_loader(const void *code);
void _dmi_preload_find_loader(void);

/* deepbind.c: the flags of dlopen that are passed on. */
extern uint32_t _dmi_preload_dlopen_mask;

/* What DMI_OPTIONS says about summaries and snapshots. */
typedef struct dmi_preload_wish {
    bool policy; /* it chose one */
    bool at_exit;
    int signal; /* 0: none */
    struct {
        const char *file; /* NULL: none */
        bool blocks, at_exit;
        int signal;
        long only; /* the process, by number; 0: whoever reads the options */
    } snapshot;
    struct {
        const char *file; /* NULL: the sampler does not run */
        bool at_exit;
        int signal;
        long only;
        uint32_t one_in, most_ppm; /* 0: as much as it takes by itself */
    } profile;
} dmi_preload_wish;
extern dmi_preload_wish _dmi_preload_wish;

/* What a signal's handler or a fork left to be done; 0 nearly always, and slow paths look. */
#define DMI_ASKED_SUMMARY 1u
#define DMI_ASKED_SNAPSHOT 2u
#define DMI_ASKED_PROFILE 16u
#define DMI_ASKED (DMI_ASKED_SUMMARY | DMI_ASKED_SNAPSHOT | DMI_ASKED_PROFILE)
#define DMI_WANTED_TOTALS 8u /* no signal asks for it */
#define DMI_START 4u         /* the thread that answers: this is a fork child */
extern _Atomic uint32_t _dmi_preload_asked;
static inline uint32_t _dmi_preload_take(uint32_t bits) {
    return atomic_fetch_and_explicit(&_dmi_preload_asked, ~bits, memory_order_acquire) & bits;
}
/* Do it, as far as it is not for the thread. Call without locks. */
void _dmi_preload_answer(void);
/* Let these signals (0: none) ask for summaries, snapshots and profiles, unless the program has a use for them.
 * Once, before there are threads. */
void _dmi_preload_listen(int summary, int snapshot, int profile);

/* moment.c: held while something is written, so that a process does not end in the middle of it, and across a
 * fork. Before every lock of the core. */
void _dmi_preload_lock(void);
void _dmi_preload_unlock(void);
/* Write what signals asked for, and DMI_ASKED_* besides; why says on what occasion that is. When it
 * returns, all that was asked for before is written. Call without locks. */
void _dmi_preload_write(uint32_t besides, const char *why);
/* The signals that the program had blocked before writing began. Only while something is written. */
const sigset_t *_dmi_preload_mask_before(void);
/* Only what signals asked for, and nothing if somebody else is writing. */
void _dmi_preload_try_write(void);

/* The `!heap -s` text of all heaps to standard error; why ends the heading. For moment.c. */
void _dmi_preload_write_summary(const char *why);
/* The lines of glibc's malloc_stats, behind the summary. For moment.c. */
void _dmi_preload_write_totals(void);
/* Standard error as it was at the start, even if the program closed it meanwhile. */
void _dmi_preload_keep_stderr(void);
int _dmi_preload_stderr(void);

/* Remember where the program started: relative names mean that. */
void _dmi_snapshot_start(void);
/* Write a snapshot to where the options say. For moment.c. why: plain ASCII. */
void _dmi_preload_write_snapshot(const char *why);

/* profile.c: start the sampler if the options say so. */
void _dmi_profile_begin(void);
/* Write what the sampler knows to its file. For moment.c. */
void _dmi_preload_write_profile(void);
/* end_of_main.c: was it written when main ended, or called exit? */
bool _dmi_preload_main_ended(void);
/* python_end.c: if Python is in this program, let it write the profile before it takes its objects apart. */
void _dmi_preload_expect_python(void);
/* Has it done so? */
bool _dmi_preload_python_ended(void);
struct dmi_writer;
/* profile.c: the profile as a JSON object, for a snapshot. */
void _dmi_preload_put_profile(struct dmi_writer *out);

#endif
