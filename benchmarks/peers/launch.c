/* launch.c - start one program with one preload library and say what it cost.
 *
 * launch DESCRIPTOR LIBRARY|- PROGRAM ARGS...
 *
 * Writes to the descriptor "wall user system maxrss status": seconds, KiB, exit status (or 128 +
 * signal). It exists because Linux hands the resident peak of whoever calls exec on to the program:
 * started from an interpreter, a small program would report the interpreter's size. This one is
 * smaller than any.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static double seconds(struct timeval t) { return (double)t.tv_sec + (double)t.tv_usec * 1e-6; }

int main(int argc, char **argv) {
    if (argc < 4) {
        fprintf(stderr, "launch DESCRIPTOR LIBRARY|- PROGRAM ARGS...\n");
        return 2;
    }
    int report = atoi(argv[1]);
    double start = now();
    pid_t child = fork();
    if (child < 0) {
        perror("fork");
        return 2;
    }
    if (child == 0) {
        close(report);
        if (strcmp(argv[2], "-") == 0) unsetenv("LD_PRELOAD");
        else setenv("LD_PRELOAD", argv[2], 1);
        execv(argv[3], argv + 3);
        perror(argv[3]);
        _exit(127);
    }
    int status;
    struct rusage usage;
    while (wait4(child, &status, 0, &usage) < 0) {
        if (errno != EINTR) {
            perror("wait4");
            return 2;
        }
    }
    double wall = now() - start;
    int code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    char line[128];
    int length = snprintf(line, sizeof line, "%.6f %.6f %.6f %ld %d\n", wall,
                          seconds(usage.ru_utime), seconds(usage.ru_stime), usage.ru_maxrss, code);
    return write(report, line, (size_t)length) == length ? 0 : 2;
}
