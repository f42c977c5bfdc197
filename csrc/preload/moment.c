/* moment.c - when summaries and snapshots are written: at exit, or when listen.c was asked; one at a time.
 */
#define _GNU_SOURCE
#include "preload.h"

#include "../heap/create.h"
#include "../heap/fork.h"
#include "../heap/heap.h"
#include "../heap/trace.h"
#include "../segment/pagemap.h"

#include <dmi/dmi.h>

#include <dlfcn.h>
#include <errno.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static dmi_lock lock;
void _dmi_preload_lock(void) { _dmi_lock(&lock); }
void _dmi_preload_unlock(void) { _dmi_unlock(&lock); }

static void write_all(uint32_t what, const char *why) {
    if (what & DMI_ASKED_SUMMARY) _dmi_preload_write_summary(why);
    if (what & DMI_WANTED_TOTALS) _dmi_preload_write_totals();
    if (what & DMI_ASKED_SNAPSHOT) _dmi_preload_write_snapshot(why);
    if (what & DMI_ASKED_PROFILE) _dmi_preload_write_profile();
}

static sigset_t before;
const sigset_t *_dmi_preload_mask_before(void) { return &before; }

/* What our own writing raised is not for the program. */
static void drop(int number) {
    static const struct timespec now;
    sigset_t these;
    if (sigismember(&before, number)) return;
    (void)sigemptyset(&these);
    (void)sigaddset(&these, number);
    while (sigtimedwait(&these, NULL, &now) < 0 && errno == EINTR) {
    }
}

/* Locked. */
static void write_locked(uint32_t besides, const char *why) {
    sigset_t every;
    int saved = errno, cancel;
    /* A write beyond the limit of file sizes, or to a pipe that was closed, would be the end of the program. */
    (void)sigfillset(&every);
    (void)pthread_sigmask(SIG_SETMASK, &every, &before);
    (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel);
    write_all(_dmi_preload_take(DMI_ASKED), "on a signal");
    write_all(besides, why);
    drop(SIGXFSZ);
    drop(SIGPIPE);
    (void)pthread_setcancelstate(cancel, &cancel);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = saved;
}

void _dmi_preload_write(uint32_t besides, const char *why) {
    _dmi_lock(&lock);
    write_locked(besides, why);
    _dmi_unlock(&lock);
}

void _dmi_preload_try_write(void) {
    if (!_dmi_lock_try(&lock)) return;
    write_locked(0, NULL);
    _dmi_unlock(&lock);
}

/* ---- the ends of the program ---------------------------------------------------------------------------- */

/* One copy of the core in a process: the one that malloc leads to. Another one is not called to find out: it may be
 * the program's, which has not begun (GCL's dies of it). */
static bool comes_first(void) {
    void *first = dlsym(RTLD_DEFAULT, "malloc"), *symbol = NULL;
    Dl_info info;
    if (first == (void *)(uintptr_t)_dmi_preload_own_malloc) return true;
    /* A program that is linked at a fixed address (Debian's python3) has a place of its own for the address of a
     * function that it only asks for. What it asks for is a library's, and may be called. */
    if (!dladdr1(first, &info, &symbol, RTLD_DL_SYMENT) || !symbol) return false;
    if (((const ElfW(Sym) *)symbol)->st_shndx != SHN_UNDEF) return false;
    void *volatile block = malloc(1);
    bool ours = _dmi_pagemap_get(block) != &_dmi_no_run;
    free(block);
    return ours;
}

/* What stands in the way of serving, as one line; NULL when nothing does. */
static const char *obstacle(void) {
    struct rlimit data;
    if (!_dmi_default_heap()) {
        if (errno == ENOSYS || errno == EAGAIN)
            return "dmi: libdmi_malloc.so cannot make a hardened heap: the system gives no random "
                   "bytes for its keys (getrandom and /dev/urandom are refused, or it is too "
                   "early); hardened=off does without\n";
        return "dmi: libdmi_malloc.so cannot make its heap: it needs 350 MiB of address space "
               "(ulimit -v), and 2 MiB that may be written (ulimit -d)\n";
    }
    if (!comes_first())
        return "dmi: libdmi_malloc.so serves no allocation here: another malloc comes first (it "
               "has to be preloaded, before others)\n";
    void *volatile block = _dmi_preload_own_malloc(1);
    bool none = !block;
    free(block);
    if (!none) return NULL;
    if (!getrlimit(RLIMIT_DATA, &data) && data.rlim_cur != RLIM_INFINITY)
        return "dmi: libdmi_malloc.so gets no memory for a first block: the limit of data "
               "(ulimit -d) is too low for this program\n";
    return "dmi: libdmi_malloc.so gets no memory for a first block: the system or a limit "
           "(ulimit -v, -d, cgroup) refuses it\n";
}

__attribute__((constructor)) static void at_start(void) {
    _dmi_preload_find_loader();
    _dmi_preload_read_options();
    /* From here on any pointer can be looked up, even if nothing was allocated yet. */
    const dmi_heap *heap = _dmi_default_heap();
    if (_dmi_os_is_second_copy()) { /* the options are for the one that serves */
        memset(&_dmi_preload_wish, 0, sizeof _dmi_preload_wish);
        return;
    }
    const char *why = obstacle();
    if (why) _dmi_os_message(why, strlen(why));
    dmi_preload_wish *wish = &_dmi_preload_wish;
    /* What is meant for another process is not for this one. */
    if (wish->snapshot.only && wish->snapshot.only != (long)getpid()) wish->snapshot.file = NULL;
    if (!wish->snapshot.file) wish->snapshot.signal = 0;
    if (wish->profile.only && wish->profile.only != (long)getpid()) wish->profile.file = NULL;
    if (!wish->profile.file) wish->profile.signal = 0;
    if (wish->at_exit || wish->signal || wish->snapshot.file || wish->profile.file)
        _dmi_preload_keep_stderr();
    static const dmi_fork_part part = {_dmi_preload_lock, _dmi_preload_unlock, NULL};
    _dmi_fork_add(&part);
    _dmi_snapshot_start();
    _dmi_profile_begin();
    if (heap && heap->guarded) _dmi_trace_begin();
    _dmi_preload_listen(wish->signal, wish->snapshot.signal, wish->profile.signal);
}

__attribute__((destructor)) static void at_exit(void) {
    const dmi_preload_wish *wish = &_dmi_preload_wish;
    uint32_t what = wish->at_exit ? DMI_ASKED_SUMMARY : 0;
    if (wish->snapshot.file && wish->snapshot.at_exit) what |= DMI_ASKED_SNAPSHOT;
    if (wish->profile.file && wish->profile.at_exit && !_dmi_preload_python_ended() &&
        !_dmi_preload_main_ended())
        what |= DMI_ASKED_PROFILE;
    if (what || wish->signal || wish->snapshot.signal || wish->profile.signal)
        _dmi_preload_write(what, "at exit");
}
