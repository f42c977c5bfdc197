/* linux_fork.c - what stands still while a process forks: signals of the thread that forks, the C library's list of
 * streams, then the core.
 *
 * glibc's fork locks its list of streams after the handlers ran. Who holds that list may wait for a stream, and
 * who holds a stream may wait for memory; so the core's locks come after that lock, which is recursive. The
 * parent opens it; in the child glibc makes a new one of it, and so do we, for its owner is another thread
 * by number.
 *
 * A signal handler that runs in between would wait for locks of its own thread. One that forks after it
 * interrupted a holder of a lock finds that out by _dmi_locks_held: then nothing is taken, and the child
 * may exec or _exit, as it may after any fork of a program with threads.
 */
#define _GNU_SOURCE
#include "linux_threads.h"

#include <pthread.h>
#include <signal.h>

#include "attributes.h"
#include "lock.h"
#include "window.h"

/* Exported by glibc; other C libraries have none of them. */
extern void _IO_list_lock(void) __attribute__((weak));
extern void _IO_list_unlock(void) __attribute__((weak));
extern void _IO_list_resetlock(void) __attribute__((weak));

static void (*core_prepare)(void), (*core_parent)(void), (*core_child)(void);
static sigset_t before; /* of the thread that forks: one at a time does */
static DMI_TLS unsigned passed_over;

/* A fault that is blocked ends the process: these stay. */
static void block(sigset_t *was) {
    static const int faults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS};
    sigset_t most;
    (void)sigfillset(&most);
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) (void)sigdelset(&most, faults[i]);
    (void)pthread_sigmask(SIG_SETMASK, &most, was);
}

static void prepare(void) {
    sigset_t was;
    block(&was);
    if (_dmi_locks_held) {
        passed_over++;
        (void)pthread_sigmask(SIG_SETMASK, &was, NULL);
        return;
    }
    if (_IO_list_lock) _IO_list_lock();
    core_prepare();
    _dmi_window_lock();
    _dmi_attributes_lock();
    before = was;
}

static void parent(void) {
    if (passed_over) {
        passed_over--;
        return;
    }
    sigset_t mask = before; /* another thread may fork as soon as the core lets it */
    _dmi_attributes_unlock();
    _dmi_window_unlock();
    core_parent();
    if (_IO_list_unlock) _IO_list_unlock();
    (void)pthread_sigmask(SIG_SETMASK, &mask, NULL);
}

static void child(void) {
    _dmi_linux_note_home();
    if (passed_over) {
        passed_over--;
        return;
    }
    _dmi_attributes_unlock();
    _dmi_window_unlock();
    core_child();
    if (_IO_list_resetlock) _IO_list_resetlock();
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int _dmi_linux_at_fork(void (*at_prepare)(void), void (*at_parent)(void), void (*at_child)(void)) {
    core_prepare = at_prepare;
    core_parent = at_parent;
    core_child = at_child;
    _dmi_linux_note_home();
    return pthread_atfork(prepare, parent, child);
}
