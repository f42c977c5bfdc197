/* asleep.c - sleeps for ever in the way its argument names; says "PID" once it does, and how many threads it
 * has. It ends with its standard input, or by a signal. */
#include "check.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static int threads(void) {
    int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks);
    for (struct dirent *entry; (entry = readdir(tasks));) count += entry->d_name[0] != '.';
    (void)closedir(tasks);
    return count;
}

static void hello(void) {
    char line[64];
    int n = snprintf(line, sizeof line, "%d %d\n", (int)getpid(), threads());
    CHECK(write(STDOUT_FILENO, line, (size_t)n) == n);
}

static void *until_the_end(void *unused) {
    char c;
    while (read(STDIN_FILENO, &c, 1) > 0) {
    }
    _exit(0);
    return unused;
}

/* Makes slow paths run, as any program does that is not asleep. */
static void churn(void) {
    for (size_t i = 0; i < 200; i++) free(opaque(malloc(3000 * (i + 1))));
}

int main(int count, char **words) {
    const char *how = count > 1 ? words[1] : "";
    void *kept = opaque(malloc(1000000));
    CHECK(kept);
    if (!strcmp(how, "pause")) {
        hello();
        for (;;) (void)pause();
    }
    if (!strcmp(how, "read")) {
        hello();
        (void)until_the_end(NULL);
    }
    if (!strcmp(
            how,
            "locked")) { /* every thread waits for another one, no signal is let through but here */
        static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
        CHECK(pthread_mutex_lock(&mutex) == 0);
        hello();
        CHECK(pthread_mutex_lock(&mutex) == 0);
    }
    if (!strcmp(how, "parent")) { /* the child works for as long as the parent only waits */
        pid_t child = fork();
        if (child == 0) (void)until_the_end(NULL);
        hello();
        int status;
        while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
        }
        return 0;
    }
    if (!strcmp(how, "child")) { /* as a daemon does it; one slow path starts its thread */
        pid_t child = fork();
        if (child == 0) {
            churn();
            hello();
            (void)until_the_end(NULL);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child);
        return 0;
    }
    if (!strcmp(how, "busy")) { /* four threads that never sleep */
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, until_the_end, NULL) == 0);
        hello();
        for (;;) churn();
    }
    return 2;
}
