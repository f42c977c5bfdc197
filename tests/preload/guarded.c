/* Touches what it must not, as its first word says; the third is what the program does about faults. Blocks come from malloc
 * until one lies between guards. */
#include "check.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <unistd.h>

static sigjmp_buf back;
static volatile sig_atomic_t seen;

static void on_fault(int number, siginfo_t *info, void *context) {
    (void)info;
    (void)context;
    seen = number;
    siglongjmp(back, 1);
}

/* Compilers know what free means. */
static void release(volatile char *block) { free(opaque((void *)(uintptr_t)block)); }

/* One whose page behind cannot be written: found by asking the kernel, which does not fault. */
static volatile char *sampled(size_t size) {
    int pipe_of[2];
    CHECK(pipe(pipe_of) == 0);
    for (int i = 0; i < 100000; i++) {
        char *block = opaque(malloc(size));
        char *behind = block + (size + 15) / 16 * 16;
        if (!((uintptr_t)behind & 4095) && write(pipe_of[1], behind, 1) < 0 && errno == EFAULT)
            return block;
        char byte;
        if (!((uintptr_t)behind & 4095)) CHECK(read(pipe_of[0], &byte, 1) == 1);
    }
    CHECK(!"none was sampled");
    return NULL;
}

static void *touch(void *word) {
    volatile char *block = sampled(100);
    if (!strcmp(word, "over")) block[112] = 1;
    if (!strcmp(word, "over-read")) (void)block[112];
    if (!strcmp(word, "under")) block[-4096] = 1;
    if (!strcmp(word, "after")) {
        release(block);
        block[3] = 1;
    }
    if (!strcmp(word, "after-read")) {
        release(block);
        (void)block[99];
    }
    if (!strcmp(word, "null")) *(volatile char *)opaque(NULL) = 1;
    if (!strcmp(word, "sent")) CHECK(raise(SIGSEGV) == 0);
    if (!strcmp(word, "none")) return NULL;
    if (!strcmp(word, "fork")) {
        release(block);
        if (fork() == 0) (void)block[0];
        sleep(1);
    }
    return NULL;
}

int main(int count, char **words) {
    CHECK(count == 3);
    if (!strcmp(words[2], "catches")) {
        (void)opaque(malloc(1)); /* the heap, and its handler, are older */
        struct sigaction action;
        memset(&action, 0, sizeof action);
        action.sa_sigaction = on_fault;
        action.sa_flags = SA_SIGINFO;
        CHECK(sigaction(SIGSEGV, &action, NULL) == 0);
        if (!sigsetjmp(back, 1)) (void)touch(words[1]);
        printf("caught %d\n", (int)seen);
        return 0;
    }
    if (!strcmp(words[2], "thread")) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, touch, words[1]) == 0);
        CHECK(pthread_join(thread, NULL) == 0);
    } else {
        (void)touch(words[1]);
    }
    printf("went on\n");
    return 0;
}
