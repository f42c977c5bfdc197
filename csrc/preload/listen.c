/* listen.c - a signal asks for a summary or a snapshot: its handler sets a word and wakes a thread.
 *
 * The thread exists only when DMI_OPTIONS names a signal. It must then be there all the time, for a program
 * may sleep for ever and a signal handler cannot start a thread; so with this option, and only with
 * it, Python says at fork that there are threads, and unshare(CLONE_NEWUSER) is refused. A fork child has
 * no such thread: its next slow path starts one. Where there can be none, the slow paths answer themselves.
 */
#define _GNU_SOURCE
#include "preload.h"

#include "../os/os.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

_Atomic uint32_t _dmi_preload_asked;

static _Atomic pid_t listener; /* the process whose thread it is */
static int asks_summary, asks_snapshot, asks_profile;

static void *listen_on(void *unused) {
    (void)unused;
    (void)pthread_setname_np(pthread_self(), "dmi-summary");
    for (;;) {
        uint32_t word = atomic_load_explicit(&_dmi_preload_asked, memory_order_relaxed);
        if (word & DMI_ASKED) _dmi_preload_write(0, NULL);
        else _dmi_os_wait(&_dmi_preload_asked, word, UINT64_MAX);
    }
    return NULL;
}

/* Starting a thread allocates and may come back here: who did the START bit is alone. */
static void start(void) {
    sigset_t every, before;
    pthread_attr_t attributes;
    pthread_t thread;
    int saved = errno;
    if (pthread_attr_init(&attributes) == 0) {
        (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
        /* Static TLS of the whole program lies on this stack too. */
        (void)pthread_attr_setstacksize(&attributes, 256 * 1024);
        (void)sigfillset(&every);
        (void)pthread_sigmask(SIG_SETMASK, &every, &before);
        if (pthread_create(&thread, &attributes, listen_on, NULL) == 0)
            atomic_store_explicit(&listener, getpid(), memory_order_relaxed);
        (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
        (void)pthread_attr_destroy(&attributes);
    }
    errno = saved;
}

void _dmi_preload_answer(void) {
    if (_dmi_preload_take(DMI_START)) start();
    if (atomic_load_explicit(&listener, memory_order_relaxed) == getpid()) return;
    if (atomic_load_explicit(&_dmi_preload_asked, memory_order_relaxed) & DMI_ASKED)
        _dmi_preload_try_write();
}

static void on_signal(int number) {
    uint32_t what = number == asks_summary ? DMI_ASKED_SUMMARY : 0;
    if (number == asks_snapshot) what |= DMI_ASKED_SNAPSHOT;
    if (number == asks_profile) what |= DMI_ASKED_PROFILE;
    atomic_fetch_or_explicit(&_dmi_preload_asked, what, memory_order_release);
    _dmi_os_wake(&_dmi_preload_asked, true); /* one system call */
}

static void after_fork(void) {
    atomic_store_explicit(&_dmi_preload_asked, DMI_START, memory_order_relaxed);
}

static bool take_signal(int number) {
    struct sigaction now, ours;
    if (!number || sigaction(number, NULL, &now) || now.sa_handler != SIG_DFL) return false;
    memset(&ours, 0, sizeof ours);
    ours.sa_handler = on_signal;
    ours.sa_flags = SA_RESTART | SA_ONSTACK;
    (void)sigemptyset(&ours.sa_mask);
    return sigaction(number, &ours, NULL) == 0;
}

void _dmi_preload_listen(int summary, int snapshot, int profile) {
    asks_summary = summary;
    asks_snapshot = snapshot;
    asks_profile = profile;
    bool any = take_signal(summary);
    if (snapshot != summary) any |= take_signal(snapshot);
    if (profile != summary && profile != snapshot) any |= take_signal(profile);
    if (!any) return;
    (void)pthread_atfork(NULL, NULL, after_fork);
    start();
}
