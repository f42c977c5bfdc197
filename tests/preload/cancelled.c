/* cancelled.c - fork is no cancellation point: a thread that somebody cancelled goes on through it, and every lock
 * is open again, although a thread of the library's own had to end for it. */
#define _GNU_SOURCE
#include "check.h"

#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

static int reached;

static void fork_once(void) {
    pid_t pid = fork();
    if (pid == 0) _exit(0);
    reached++;
    CHECK(pid > 0);
    while (waitpid(pid, NULL, 0) != pid) {
    }
}

static void *body(void *unused) {
    CHECK(pthread_cancel(pthread_self()) == 0);
    fork_once();
    return unused;
}

int main(void) {
    static char *blocks[100];
    (void)alarm(30);
    for (int round = 1; round <= 10; round++) {
        for (size_t i = 0; i < 100; i++) {
            blocks[i] = opaque(malloc(200000));
            fill(blocks[i], 200000, 1);
        }
        for (size_t i = 0; i < 100; i++) free(blocks[i]);
        (void)usleep(150000); /* the scavenger is there, and waits for the delay */
        free(opaque(malloc(200000)));
        (void)usleep(20000);
        pthread_t thread;
        void *result;
        CHECK(pthread_create(&thread, NULL, body, NULL) == 0);
        CHECK(pthread_join(thread, &result) == 0);
        CHECK(reached == round);           /* it came back from fork */
        CHECK(result == PTHREAD_CANCELED); /* and was cancelled in waitpid */
    }
    fork_once();
    return 0;
}
