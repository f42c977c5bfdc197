/* stacks.c - the C library frees what belongs to ended threads under a lock of its own, which it needs to start a
 * thread, too: such a free must not be the one that starts ours. Prints how many threads there were at last. */
#define _GNU_SOURCE
#include "check.h"

#include <fcntl.h>
#include <pthread.h>
#include <unistd.h>

enum { THREADS = 16 }; /* their stacks are more than the 40 MiB that glibc keeps */

static pthread_t threads[THREADS];
static pthread_barrier_t together;

static void *wait_for_all(void *unused) {
    (void)pthread_barrier_wait(&together);
    return unused;
}

/* What a thread needs is allocated by whoever creates it, so the frees of the one that joins are remote. */
static void *create(void *unused) {
    for (int i = 0; i < THREADS; i++)
        CHECK(pthread_create(&threads[i], NULL, wait_for_all, NULL) == 0);
    return unused;
}

/* Allocates nothing, which would be something to do for the scavenger. */
static int count(void) {
    char text[4096];
    int file = open("/proc/self/status", O_RDONLY);
    ssize_t length = read(file, text, sizeof text - 1);
    CHECK(file >= 0 && length > 0 && close(file) == 0);
    text[length] = 0;
    char *line = strstr(text, "Threads:");
    CHECK(line);
    return atoi(line + sizeof "Threads:");
}

/* Until the scavenger is gone: it has nothing to do while nothing is freed. */
static void settle(int threads_left) {
    for (int i = 0; i < 500 && count() > threads_left; i++) (void)usleep(10000);
}

int main(void) {
    static char *busy[40]; /* so much that the scavenger is worth a thread */
    (void)alarm(60);
    for (size_t i = 0; i < sizeof busy / sizeof *busy; i++) {
        busy[i] = opaque(malloc(100000));
        fill(busy[i], 100000, 1);
    }
    for (int round = 0; round < 5; round++) {
        pthread_t creator;
        CHECK(pthread_barrier_init(&together, NULL, THREADS + 1) == 0);
        CHECK(pthread_create(&creator, NULL, create, NULL) == 0);
        CHECK(pthread_join(creator, NULL) == 0);
        settle(1 + THREADS);
        (void)pthread_barrier_wait(&together);
        settle(1);
        for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
        CHECK(pthread_barrier_destroy(&together) == 0);
    }
    settle(1);
    printf("%d\n", count());
    return 0;
}
