/* linux_threads.c - the threads of the Linux backend: futex, membarrier, exit handlers, the helper thread. */
#define _GNU_SOURCE
#include "linux_threads.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { MEMBARRIER_EXPEDITED = 1 << 3, MEMBARRIER_REGISTER = 1 << 4 };

void _dmi_linux_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns) {
    int saved = errno;
    struct timespec limit = {(time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u)};
    (void)syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, expected,
                  timeout_ns == UINT64_MAX ? NULL : &limit, NULL, 0);
    errno = saved;
}

void _dmi_linux_wake(_Atomic uint32_t *word, bool all) {
    int saved = errno;
    (void)syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, all ? INT32_MAX : 1, NULL, NULL, 0);
    errno = saved;
}

/* How often this thread's exit handler was put off. The address of this variable is the thread's id: unlike the kernel's
 * id it needs no call, and stays the same in a fork child. */
static _Thread_local unsigned put_off __attribute__((tls_model("initial-exec")));

uint64_t _dmi_linux_thread_id(void) { return (uint64_t)(uintptr_t)&put_off; }

static pthread_key_t exit_key;
static void (*exit_handler)(void *);

/* Destructors of keys run in rounds, at least four, while values are set anew. This one acts in the third round, so that
 * those of other libraries, which may still free memory, run first. */
static void at_thread_exit(void *value) {
    if (++put_off < 3 && pthread_setspecific(exit_key, value) == 0) return;
    put_off = 0;
    exit_handler(value);
}

int _dmi_linux_thread_exit_setup(void (*handler)(void *)) {
    exit_handler = handler;
    return pthread_key_create(&exit_key, at_thread_exit);
}

/* glibc keeps the values of the first 32 keys in the thread itself; for a later key this may call calloc. */
int _dmi_linux_thread_exit_arm(void *value) { return pthread_setspecific(exit_key, value); }

static int membarrier_call(int command) {
#ifdef SYS_membarrier
    return syscall(SYS_membarrier, command, 0, 0) == 0 ? 0 : errno;
#else
    (void)command;
    return ENOSYS;
#endif
}

int _dmi_linux_barrier_setup(void) {
    int saved = errno;
    int error = membarrier_call(MEMBARRIER_REGISTER);
    errno = saved;
    return error == 0 ? 0 : ENOSYS;
}

int _dmi_linux_barrier(void) {
    int saved = errno;
    int error = membarrier_call(MEMBARRIER_EXPEDITED);
    if (error == EPERM && membarrier_call(MEMBARRIER_REGISTER) == 0) /* not registered (any more) */
        error = membarrier_call(MEMBARRIER_EXPEDITED);
    errno = saved;
    return error == 0 ? 0 : ENOSYS;
}

static pthread_t helper;
static pid_t helper_id;
static void (*helper_body)(void);

static void *helper_main(void *unused) {
    (void)unused;
    helper_id = (pid_t)syscall(SYS_gettid);
    helper_body();
    return NULL;
}

/* The process that owns the memory. A vfork child runs on that memory too. It must not start the helper: that thread
 * would die with the child, and leave its locks locked. */
static pid_t home;

void _dmi_linux_note_home(void) { home = getpid(); }

bool _dmi_linux_is_home(void) { return home == 0 || getpid() == home; }

int _dmi_linux_thread_start(void (*body)(void)) {
    if (!_dmi_linux_is_home()) return EAGAIN;
    int saved = errno;
    sigset_t every, before;
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error) return error;
    /* Not smaller: the static TLS of the whole program lies on this stack too. */
    (void)pthread_attr_setstacksize(&attributes, 256 * 1024);
    helper_body = body;
    (void)sigfillset(&every);
    (void)pthread_sigmask(SIG_SETMASK, &every, &before);
    error = pthread_create(&helper, &attributes, helper_main, NULL);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attributes);
    errno = saved;
    return error;
}

/* pthread_join returns a moment before the kernel removes the thread from the process. Until then calls that count
 * threads, such as unshare, still see two. Waits about 0.1 s at most: a tracer may keep the thread for longer. */
static void wait_until_gone(pid_t thread) {
    const struct timespec moment = {0, 100000};
    int saved = errno;
    for (int tries = 0; tries < 1100 && syscall(SYS_tgkill, getpid(), thread, 0) == 0; tries++) {
        if (tries < 100) (void)syscall(SYS_sched_yield);
        else (void)syscall(SYS_clock_nanosleep, CLOCK_MONOTONIC, 0, &moment, NULL);
    }
    errno = saved;
}

/* pthread_join is a cancellation point. The callers are not, and hold locks, so cancelling is disabled meanwhile. A
 * process that a direct clone made has no helper to wait for. */
void _dmi_linux_thread_join(void) {
    int before;
    if (!_dmi_linux_is_home()) return;
    (void)pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
    (void)pthread_join(helper, NULL);
    (void)pthread_setcancelstate(before, &before);
    wait_until_gone(helper_id);
}
