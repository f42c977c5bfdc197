/* Touches what it must not, as its first word says; the third is what the program does about faults. Blocks come from malloc
 * until one lies between guards. */
#define _GNU_SOURCE
#include "check.h"

#include <dlfcn.h>
#include <dmi/dmi.h>
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

/* Compilers know what free means. These have frames of their own: tests look for their names. */
__attribute__((noinline)) static void release(volatile char *block) {
    free(opaque((void *)(uintptr_t)block));
    (void)opaque(NULL);
}
__attribute__((noinline)) static char *take(size_t size) {
    char *block = opaque(malloc(size));
    return opaque(block);
}

/* One whose page behind cannot be written: found by asking the kernel, which does not fault. */
static volatile char *sampled(size_t size) {
    int pipe_of[2];
    CHECK(pipe(pipe_of) == 0);
    for (int i = 0; i < 100000; i++) {
        char *block = take(size);
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
    if (!strcmp(word, "twice")) {
        release(block);
        release(block);
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

static void say(const char *what, const dmi_fault_stack *stack) {
    printf("%s", what);
    for (size_t i = 0; i < stack->count; i++)
        printf(" %s+0x%llx", stack->frames[i].file, (unsigned long long)stack->frames[i].offset);
    printf("%s\n", stack->cut ? " ..." : "");
}

static void on_report(const dmi_fault_report *report, void *argument) {
    CHECK(argument == (void *)&back && report->size >= sizeof *report);
    say("allocated", &report->allocated);
    say("freed", &report->freed);
    say("found", &report->found);
    if (!strcmp(report->call, "access")) siglongjmp(back, 1);
}

static int done_with[2], let_go[2];

static void *touch_and_leave(void *word) {
    char byte = 0;
    for (int i = 0; i < 3; i++)
        if (!sigsetjmp(back, 1)) (void)touch(word);
    CHECK(write(done_with[1], &byte, 1) == 1 && read(let_go[0], &byte, 1) == 1);
    return NULL;
}

/* One after the other, and none ends before all are through. */
static void touch_in_threads(char *word) {
    pthread_t thread[6];
    char bytes[6] = {0};
    CHECK(pipe(done_with) == 0 && pipe(let_go) == 0);
    for (int i = 0; i < 6; i++) {
        CHECK(pthread_create(&thread[i], NULL, touch_and_leave, word) == 0);
        CHECK(read(done_with[0], bytes, 1) == 1);
    }
    CHECK(write(let_go[1], bytes, 6) == 6);
    for (int i = 0; i < 6; i++) CHECK(pthread_join(thread[i], NULL) == 0);
}

static void use_handler(void) {
    void (*set)(dmi_fault_handler, void *);
    void *symbol = dlsym(RTLD_DEFAULT, "dmi_set_fault_handler");
    memcpy(&set, &symbol, sizeof set);
    CHECK(set);
    set(on_report, &back);
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
    if (!strcmp(words[2], "handles")) {
        use_handler();
        touch_in_threads(words[1]);
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
