/* cloned.c - children that the C library does not know of: made by a bare clone while the scavenger is at work, as
 * sandboxes do it. They allocate, fork and leave namespaces, and must not wait for a thread that is not there. */
#define _GNU_SOURCE
#include "check.h"

#include <sched.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Something free, so that the scavenger is there. */
static void churn(void) {
    static char *blocks[100];
    for (size_t i = 0; i < 100; i++) {
        blocks[i] = opaque(malloc(100000));
        fill(blocks[i], 100000, 1);
    }
    for (size_t i = 0; i < 100; i++) free(blocks[i]);
}

static void child(void) {
    (void)alarm(20);
    (void)unshare(CLONE_FILES); /* whatever it answers */
    churn();
    pid_t pid = fork();
    CHECK(pid >= 0);
    if (pid == 0) {
        churn();
        _exit(0);
    }
    int status;
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
}

int main(void) {
    for (int round = 0; round < 10; round++) {
        churn();
        (void)usleep(20000);
        pid_t pid = (pid_t)syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
        CHECK(pid >= 0);
        if (pid == 0) {
            child();
            _exit(0);
        }
        int status;
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    }
    return 0;
}
