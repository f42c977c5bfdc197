/* linux_faults.c - accesses that fault: dmi is told first, then the program's own handler runs. */
#define _GNU_SOURCE
#include "linux_threads.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

static const int numbers[] = {SIGSEGV, SIGBUS};
enum { NUMBERS = 2 };

static void (*told)(const void *address);
static struct sigaction before[NUMBERS];

/* Call the program's own handler as the kernel would have. Without one the signal gets its default action, and the
 * instruction runs again: the program ends by it, and a core shows where. */
static void go_on(int i, siginfo_t *info, void *context) {
    const struct sigaction *old = &before[i];
    if (old->sa_flags & SA_SIGINFO) {
        old->sa_sigaction(numbers[i], info, context);
    } else if (old->sa_handler != SIG_DFL && old->sa_handler != SIG_IGN) {
        old->sa_handler(numbers[i]);
    } else {
        struct sigaction plain;
        memset(&plain, 0, sizeof plain);
        plain.sa_handler = SIG_DFL; /* a fault that is ignored ends the program as well */
        (void)sigaction(numbers[i], &plain, NULL);
        if (info->si_code <= 0)
            (void)raise(numbers[i]); /* somebody sent it: nothing would run again */
    }
}

static void on_fault(int number, siginfo_t *info, void *context) {
    int saved = errno;
    /* What a process sends has no address. */
    if (info->si_code > 0) told(info->si_addr);
    go_on(number == numbers[0] ? 0 : 1, info, context);
    errno = saved;
}

int _dmi_linux_on_fault(void (*touched)(const void *address)) {
    static _Atomic bool begun;
    if (atomic_exchange(&begun, true)) return 0;
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_fault;
    /* Runs on the program's alternate stack where there is one. A fault inside a handler is handled too (NODEFER). */
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    told = touched;
    for (int i = 0; i < NUMBERS; i++) { /* the old handler first: a fault may come at once */
        if (sigaction(numbers[i], NULL, &before[i])) return errno;
        if (sigaction(numbers[i], &action, NULL)) return errno;
    }
    return 0;
}
