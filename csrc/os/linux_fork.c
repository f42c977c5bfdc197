/* linux_fork.c - what stands still while a process forks.
 *
 * In this order: signals of the thread that forks, the C library's list of streams, the core's locks.
 *
 * glibc's fork locks its list of streams after the handlers ran. A thread that holds the list may wait for a stream,
 * and one that holds a stream may wait for memory. So the list must be locked before the core's locks; its lock is
 * recursive. The parent unlocks it. In the child its owner is a thread number that is no longer right, so it is made
 * anew there, as glibc itself does.
 *
 * Signals are blocked because a handler that allocates while the locks are held would wait for its own thread. A
 * handler that forks may have interrupted its thread while that held a lock; _dmi_locks_held tells. Then no lock is
 * taken, and the child may only exec or _exit, as after any fork of a program with threads.
 */
#define _GNU_SOURCE
#include "linux_threads.h"

#include <pthread.h>
#include <signal.h>

#include "attributes.h"
#include "lock.h"
#include "window.h"

/* Exported by glibc; NULL with other C libraries. */
extern void _IO_list_lock(void) __attribute__((weak));
extern void _IO_list_unlock(void) __attribute__((weak));
extern void _IO_list_resetlock(void) __attribute__((weak));

static void (*core_prepare)(void), (*core_parent)(void), (*core_child)(void);
static sigset_t
    before; /* the mask of the thread that forks; the locks let only one thread get here */
static DMI_TLS unsigned passed_over;

/* Block all signals but faults: a blocked fault would end the process. */
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
    if (_dmi_locks_held || (_dmi_lock_other && _dmi_lock_other())) {
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
    sigset_t mask =
        before; /* copied, because another thread may fork once the locks are released */
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
