/* threads.c - threads that pass blocks to each other, while the main thread forks again and again. Each
 * child allocates, frees what others had allocated, starts a thread of its own and leaves. */
#define _GNU_SOURCE
#include "check.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

enum { THREADS = 4, SLOTS = 512, FORKS = 100 };

static _Atomic(unsigned char *) slots[SLOTS];
static _Atomic int stop;
static _Atomic unsigned long exchanged;

/* A block holds its size and is filled with a byte that follows from it. */
static unsigned char *make(uint64_t random) {
    uint32_t size = 8 + (uint32_t)(random % (random % 61 == 0 ? 200000 : 900));
    unsigned char *block = opaque(malloc(size));
    CHECK(block);
    memcpy(block, &size, sizeof size);
    memset(block + 4, (int)(size & 0xff), size - 4);
    return block;
}

static void check_and_free(unsigned char *block) {
    if (!block) return;
    uint32_t size;
    memcpy(&size, block, sizeof size);
    CHECK(filled(block + 4, size - 4, (unsigned char)size));
    free(block);
}

static uint64_t next(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static void *exchange(void *argument) {
    uint64_t state = 88172645463325252u + (uintptr_t)argument * 77777;
    while (!atomic_load_explicit(&stop, memory_order_relaxed)) {
        uint64_t random = next(&state);
        check_and_free(atomic_exchange(&slots[random >> 40 & (SLOTS - 1)], make(random)));
        atomic_fetch_add_explicit(&exchanged, 1, memory_order_relaxed);
    }
    return NULL;
}

static void *in_child(void *argument) {
    uint64_t state = 1 + (uintptr_t)argument;
    for (int i = 0; i < 300; i++) {
        uint64_t random = next(&state);
        unsigned char *mine = make(random);
        check_and_free(atomic_exchange(&slots[random >> 40 & (SLOTS - 1)], mine));
    }
    return NULL;
}

static void child(int n) {
    alarm(60); /* a deadlock must not look like patience */
    (void)in_child((void *)(uintptr_t)n);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, in_child, (void *)(uintptr_t)(n + 1000)) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
    for (int i = 0; i < SLOTS; i++) check_and_free(atomic_exchange(&slots[i], NULL));
    if (n % 10 == 0) { /* a grandchild */
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) {
            free(opaque(malloc(100)));
            _exit(0);
        }
        int status;
        CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    }
    exit(0);
}

int main(void) {
    pthread_t threads[THREADS];
    for (int t = 0; t < THREADS; t++)
        CHECK(pthread_create(&threads[t], NULL, exchange, (void *)(uintptr_t)t) == 0);
    for (int n = 0; n < FORKS; n++) {
        unsigned long seen = atomic_load(&exchanged);
        while (atomic_load(&exchanged) - seen < 200) sched_yield();
        pid_t pid = fork();
        CHECK(pid >= 0);
        if (pid == 0) child(n);
        int status;
        CHECK(waitpid(pid, &status, 0) == pid);
        if (status != 0) fprintf(stderr, "child %d ended with status %#x\n", n, (unsigned)status);
        CHECK(status == 0);
    }
    atomic_store(&stop, 1);
    for (int t = 0; t < THREADS; t++) CHECK(pthread_join(threads[t], NULL) == 0);
    for (int i = 0; i < SLOTS; i++) check_and_free(atomic_exchange(&slots[i], NULL));
    printf("%lu blocks changed hands\n", (unsigned long)exchanged);
    return 0;
}
