/* slow_clock.c - for LD_PRELOAD: clock_gettime as if the program ran alone and at its usual speed, under a tool that makes
 * it SLOW_CLOCK times slower. What goes by time (how often stacks are taken) then goes as it does without the tool. */
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define CALLS 500

static long long used(void) {
    struct timespec now;
    (void)syscall(SYS_clock_gettime, CLOCK_PROCESS_CPUTIME_ID, &now);
    return now.tv_sec * SECOND + now.tv_nsec;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    static struct timespec first;
    static double factor, each; /* what a call of this takes */
    static _Atomic long long calls;
    if (factor == 0) {
        const char *given = getenv("SLOW_CLOCK");
        factor = given && atof(given) >= 1 ? atof(given) : 1;
        (void)syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &first);
        long long began = used();
        for (int i = 0; i < CALLS; i++) (void)used();
        each = (double)(used() - began) / (CALLS + 1);
        calls = CALLS + 1;
    }
    if (clock == CLOCK_REALTIME) return (int)syscall(SYS_clock_gettime, clock, now);
    /* Processor time: what else the machine does meanwhile is not the program's. */
    double own = (double)++calls *
                 each; /* a system call costs far more under the tool than it does without */
    long long passed = (long long)(((double)used() - own) / factor) + first.tv_nsec;
    now->tv_sec = first.tv_sec + passed / SECOND;
    now->tv_nsec = passed % SECOND;
    return 0;
}
