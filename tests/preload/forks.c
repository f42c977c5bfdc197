/* forks.c - a program forks while its threads are in the middle of everything: no lock may stay closed, in it and in
 * its children. A watchdog ends it with a message when nothing moves for half a minute.
 *
 * forks stdio|dlopen|threads|unseen|handler|signals COUNT [PLUGIN]
 */
#define _GNU_SOURCE
#include "check.h"

#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

static _Atomic long forks, started;
static long wanted;
static const char *mode, *plugin;
static char name[] = "/tmp/dmi-forks-XXXXXX";

static void stop(const char *why) {
    char line[200];
    int n = snprintf(line, sizeof line, "forks %s: %s after %ld forks\n", mode, why, (long)forks);
    (void)!write(2, line, (size_t)n);
    (void)unlink(name);
    _exit(3);
}

static void *watch(void *unused) {
    long last = -1;
    for (int still = 0; still < 30; last = forks) {
        sleep(1);
        still = forks == last ? still + 1 : 0;
    }
    stop("nothing moves");
    return unused;
}

/* Some of every path: subsegments, regions, pages, mappings. */
static void churn(unsigned seed) {
    void *blocks[64];
    for (unsigned i = 0; i < 64; i++) {
        seed = seed * 1103515245u + 12345u;
        size_t size = i == 32       ? 17000000 + seed % 9000000
                      : i % 16 == 0 ? 40000 + seed % 100000
                                    : 16 + seed % 3000;
        blocks[i] = malloc(size);
        if (!blocks[i]) abort();
        memset(blocks[i], 1, size < 64 ? size : 64);
    }
    for (unsigned i = 0; i < 64; i++) free(blocks[i]);
}

static void *alloc_for_ever(void *unused) {
    for (unsigned i = (unsigned)(uintptr_t)&unused;; i++) churn(i);
    return unused;
}

static void *once(void *unused) {
    churn((unsigned)(uintptr_t)&unused);
    return unused;
}

static void *create_for_ever(void *unused) {
    for (;;) {
        pthread_t thread[4];
        for (int i = 0; i < 4; i++) CHECK(pthread_create(&thread[i], NULL, once, NULL) == 0);
        for (int i = 0; i < 4; i++) CHECK(pthread_join(thread[i], NULL) == 0);
    }
    return unused;
}

static void *read_for_ever(void *unused) {
    FILE *file = fopen(name, "r");
    CHECK(file);
    for (;;) {
        char *line = NULL;
        size_t size = 0;
        rewind(file);
        CHECK(getline(&line, &size, file) > 0);
        free(line);
    }
    return unused;
}

static void *flush_for_ever(void *unused) {
    for (;;) (void)fflush(NULL);
    return unused;
}

static void *open_for_ever(void *unused) {
    for (;;) {
        void *library = dlopen(plugin, RTLD_NOW);
        CHECK(library);
        CHECK(dlclose(library) == 0);
    }
    return unused;
}

static void child(void) {
    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    (void)alarm(60); /* a child that hangs */
    churn((unsigned)forks);
    if (strcmp(mode, "stdio") == 0) {
        FILE *file = fopen(name, "r");
        char word[8];
        if (!file || fread(word, 1, sizeof word, file) != sizeof word) _exit(4);
        (void)fclose(file);
        (void)fflush(NULL);
    }
    pthread_t thread;
    if (forks % 8 == 0 && (pthread_create(&thread, NULL, once, NULL) || pthread_join(thread, NULL)))
        _exit(5);
    if (forks % 16 == 0) { /* and it may fork in its turn */
        int status;
        pid_t grandchild = fork();
        if (grandchild == 0) {
            churn(7);
            _exit(0);
        }
        if (grandchild < 0 || waitpid(grandchild, &status, 0) < 0 || status) _exit(6);
    }
    _exit(0);
}

static pid_t wait_for(pid_t pid, int *status) {
    pid_t got;
    do got = waitpid(pid, status, 0);
    while (got < 0 && errno == EINTR);
    return got;
}

static void fork_once(void) {
    int status;
    pid_t pid = fork();
    if (pid == 0) child();
    CHECK(pid > 0 && wait_for(pid, &status) == pid);
    if (status) stop(WIFSIGNALED(status) ? "a child hung or died" : "a child failed");
    forks++;
}

/* Of this thread the allocator knows nothing: it does nothing but fork. */
static void *fork_only(void *unused) {
    while (forks < wanted) fork_once();
    return unused;
}

/* ---- signals ------------------------------------------------------------------------------------------------- */

static void on_signal(int number) {
    int saved = errno;
    (void)number;
    pid_t pid = fork();
    if (pid == 0) {
        if (forks % 4) _exit(0);
        char *const argv[] = {(char *)"true", NULL};
        (void)execv("/bin/true", argv);
        _exit(7);
    }
    if (pid > 0) started++;
    errno = saved;
}

static void allocate_in_handler(int number) {
    int saved = errno;
    (void)number;
    churn((unsigned)forks);
    errno = saved;
}

static void handle(void (*handler)(int)) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    action.sa_flags = SA_RESTART;
    CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
}

static void from_handlers(void) {
    pthread_t workers[2];
    handle(on_signal);
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&workers[i], NULL, alloc_for_ever, NULL) == 0);
    for (unsigned i = 0; forks < wanted; i++) {
        int status;
        long before = started;
        CHECK(pthread_kill(workers[i % 2], SIGUSR1) == 0);
        while (started == before) (void)usleep(20);
        CHECK(wait_for(-1, &status) > 0);
        if (status) stop("a child of a handler failed");
        forks++;
    }
}

static _Atomic int over;

static void *send_for_ever(void *to) {
    while (!over) {
        (void)pthread_kill(*(pthread_t *)to, SIGUSR1);
        (void)usleep(100);
    }
    return NULL;
}

/* This thread only forks and waits, so that its handler interrupts nothing else. */
static void under_handlers(void) {
    pthread_t self = pthread_self(), sender;
    handle(allocate_in_handler);
    CHECK(pthread_create(&sender, NULL, send_for_ever, &self) == 0);
    while (forks < wanted) {
        int status;
        pid_t pid = fork();
        if (pid == 0) _exit(0);
        CHECK(pid > 0 && wait_for(pid, &status) == pid && status == 0);
        forks++;
    }
    over = 1;
    CHECK(pthread_join(sender, NULL) == 0);
}

int main(int argc, char **argv) {
    pthread_t thread;
    CHECK(argc > 2);
    mode = argv[1];
    wanted = atol(argv[2]);
    plugin = argc > 3 ? argv[3] : NULL;
    int file = mkstemp(name);
    CHECK(file >= 0);
    for (int i = 0; i < 50; i++)
        CHECK(write(file, memset((char[1000]){0}, 'x', 1000), 1000) == 1000);
    CHECK(write(file, "\n", 1) == 1 && close(file) == 0);
    CHECK(pthread_create(&thread, NULL, watch, NULL) == 0);
    if (strcmp(mode, "signals") == 0) {
        from_handlers();
    } else if (strcmp(mode, "handler") == 0) {
        under_handlers();
    } else {
        void *(*beside[3])(void *) = {alloc_for_ever, alloc_for_ever, NULL};
        if (strcmp(mode, "stdio") == 0)
            beside[0] = beside[2] = read_for_ever, beside[1] = flush_for_ever;
        if (strcmp(mode, "dlopen") == 0) beside[0] = beside[2] = open_for_ever;
        if (strcmp(mode, "threads") == 0) beside[0] = beside[2] = create_for_ever;
        for (int i = 0; i < 3 && beside[i]; i++)
            CHECK(pthread_create(&thread, NULL, beside[i], NULL) == 0);
        CHECK(pthread_create(&thread, NULL, fork_only, NULL) == 0);
        if (strcmp(mode, "unseen")) fork_only(NULL);
        CHECK(pthread_join(thread, NULL) == 0);
    }
    (void)unlink(name);
    (void)!write(1, "ok\n", 3);
    _exit(0);
}
