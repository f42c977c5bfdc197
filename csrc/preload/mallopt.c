/* mallopt.c - glibc's tuning knobs: answered as glibc answers, one of them heeded.
 *
 * Bins, arenas and the top of a heap do not exist here, so most knobs have nothing to turn. Programs that
 * check the answer get the one they were written for. Two are about more than speed:
 * - M_TRIM_THRESHOLD of -1 says "never give memory back" (real-time programs, which then touch all they need
 *   once). The default heap keeps everything from then on, until another value takes that back; unless
 *   DMI_OPTIONS chose a policy, for whoever starts a program knows better than the program.
 * - M_PERTURB asks for blocks full of a byte. That would be work on every malloc: it is refused.
 */
#include "preload.h"

#include <dmi/dmi.h>

#include <errno.h>
#include <malloc.h>

/* Above it glibc answers 0. */
#define MOST_FAST (80 * (int)sizeof(size_t) / 4)

static void keep_everything(bool keep) {
    static dmi_policy before;
    static bool kept;
    int saved = errno;
    void *heap = dmi_heap_default();
    _dmi_preload_lock();
    dmi_heap_info info = {.size = sizeof info};
    if (heap && keep != kept && dmi_heap_get_info(heap, &info) == 0) {
        if (keep) before = info.policy;
        dmi_policy policy = before;
        if (keep) policy.when = DMI_WHEN_NEVER;
        if (dmi_heap_set_policy(heap, &policy) == 0) kept = keep;
    }
    _dmi_preload_unlock();
    errno = saved;
}

DMI_DOOR int mallopt(int parameter, int value) {
    _dmi_preload_read_options();
    switch (parameter) {
    case M_MXFAST: return value >= 0 && value <= MOST_FAST;
    case M_TRIM_THRESHOLD:
        if (!_dmi_preload_wish.policy) keep_everything(value == -1);
        return 1;
    case M_PERTURB: return value == 0;
    default: return 1; /* glibc knows no wrong number either */
    }
}

/* glibc's own name for it. */
DMI_DOOR __attribute__((alias("mallopt"), copy(mallopt))) int __libc_mallopt(int, int);
