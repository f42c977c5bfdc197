/* test_main.c - runs the registered tests and counts. */
#if !defined(_WIN32)
#define _GNU_SOURCE
#endif
#include "test.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#include <process.h>
#include <signal.h>
#include <windows.h>
#else
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#endif

static test_case *first_test;
static _Atomic unsigned failures_here; /* of the test that runs */
static bool skipped_here;
bool test_is_child;
static jmp_buf way_out;

/* By file and line, so that the order is the reader's, whatever the linker's was. */
void test_register(test_case *test) {
    test_case **place = &first_test;
    while (*place != NULL) {
        int order = strcmp((*place)->file, test->file);
        if (order > 0 || (order == 0 && (*place)->line > test->line)) break;
        place = &(*place)->next;
    }
    test->next = *place;
    *place = test;
}

void test_failed(const char *file, int line, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("%s:%d: check failed: ", file, line);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    atomic_fetch_add(&failures_here, 1);
}

bool test_has_failed(void) { return atomic_load(&failures_here) != 0; }
void test_end(void) {
    if (test_is_child) _Exit(1); /* the run goes on in the parent */
    longjmp(way_out, 1);
}

void test_skip(const char *reason) {
    printf("  skipped: %s\n", reason);
    skipped_here = true;
    test_end();
}

bool test_check_equal(const char *file, int line, const char *left_text, const char *right_text,
                      uint64_t left, uint64_t right) {
    if (left == right) return true;
    test_failed(file, line, "%s == %s (%llu, 0x%llx against %llu, 0x%llx)", left_text, right_text,
                (unsigned long long)left, (unsigned long long)left, (unsigned long long)right,
                (unsigned long long)right);
    return false;
}

uint64_t test_random(uint64_t *state) {
    uint64_t mixed = *state += 0x9e3779b97f4a7c15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
    return mixed ^ (mixed >> 31);
}

/* ---- systems --------------------------------------------------------------------------------- */

struct test_thread {
    void (*run)(void *argument);
    void *argument;
#if defined(_WIN32)
    HANDLE handle;
#else
    pthread_t handle;
#endif
};

#if defined(_WIN32)

static DWORD WINAPI enter(void *given) {
    test_thread *thread = given;
    thread->run(thread->argument);
    return 0;
}

test_thread *test_thread_start(void (*run)(void *argument), void *argument) {
    test_thread *thread = calloc(1, sizeof *thread);
    if (thread == NULL) abort();
    thread->run = run;
    thread->argument = argument;
    thread->handle = CreateThread(NULL, 0, enter, thread, 0, NULL);
    if (thread->handle == NULL) abort();
    return thread;
}

void test_thread_join(test_thread *thread) {
    WaitForSingleObject(thread->handle, INFINITE);
    CloseHandle(thread->handle);
    free(thread);
}

void test_sleep_ms(unsigned milliseconds) { Sleep(milliseconds); }
void test_yield(void) { SwitchToThread(); }

const bool test_has_fork = false;
static DWORD doomed; /* the thread that may die */
enum { DIED = 77 };

static LONG CALLBACK on_exception(EXCEPTION_POINTERS *what) {
    (void)what;
    if (GetCurrentThreadId() == doomed) ExitThread(DIED);
    return EXCEPTION_CONTINUE_SEARCH;
}

static void on_abort(int signal_number) {
    (void)signal_number;
    if (GetCurrentThreadId() == doomed) ExitThread(DIED);
}

static DWORD WINAPI enter_doomed(void *given) {
    test_thread *thread = given;
    doomed = GetCurrentThreadId();
    thread->run(thread->argument);
    return 0;
}

bool test_dies(void (*body)(void *argument), void *argument) {
    test_thread thread = {body, argument, NULL};
    void *handler = AddVectoredExceptionHandler(1, on_exception);
    void (*old)(int) = signal(SIGABRT, on_abort);
    thread.handle = CreateThread(NULL, 0, enter_doomed, &thread, 0, NULL);
    if (thread.handle == NULL) abort();
    DWORD status = 0;
    WaitForSingleObject(thread.handle, INFINITE);
    GetExitCodeThread(thread.handle, &status);
    CloseHandle(thread.handle);
    RemoveVectoredExceptionHandler(handler);
    signal(SIGABRT, old);
    return status == DIED;
}

#else

static void *enter(void *given) {
    test_thread *thread = given;
    thread->run(thread->argument);
    return NULL;
}

test_thread *test_thread_start(void (*run)(void *argument), void *argument) {
    test_thread *thread = calloc(1, sizeof *thread);
    if (thread == NULL) abort();
    thread->run = run;
    thread->argument = argument;
    if (pthread_create(&thread->handle, NULL, enter, thread) != 0) abort();
    return thread;
}

void test_thread_join(test_thread *thread) {
    pthread_join(thread->handle, NULL);
    free(thread);
}

void test_sleep_ms(unsigned milliseconds) {
    struct timespec time = {(time_t)(milliseconds / 1000), (long)(milliseconds % 1000) * 1000000};
    nanosleep(&time, NULL);
}
void test_yield(void) { sched_yield(); }

const bool test_has_fork = true;

/* With gcc's counters (make coverage): what this process counted is written, which _exit does not do. */
extern void __gcov_dump(void) __attribute__((weak));

bool test_dies(void (*body)(void *argument), void *argument) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct rlimit no_core = {0, 0};
        setrlimit(RLIMIT_CORE, &no_core);
        int nowhere = open("/dev/null", O_WRONLY);
        if (nowhere >= 0) dup2(nowhere, STDERR_FILENO);
        body(argument);
        if (__gcov_dump) __gcov_dump();
        _exit(0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) abort();
    /* Sanitizers turn a fault into an exit status of their own. */
    return WIFSIGNALED(status) || (WIFEXITED(status) && WEXITSTATUS(status) != 0);
}

#endif

/* ---- the run --------------------------------------------------------------------------------- */

static bool wanted(const test_case *test, int count, char **names) {
    if (count <= 1) return true;
    for (int i = 1; i < count; i++)
        if (strcmp(names[i], test->name) == 0) return true;
    return false;
}

static void run_one(const test_case *test) {
    if (setjmp(way_out) == 0) test->run();
}

#if defined(_WIN32)
/* The page map, like every table that lives as long as its process, outlives a test; where there is no
 * fork each test gets a process of its own by being called by its name. */
static bool run_apart(const char *program, const test_case *test) {
    if (_spawnl(_P_WAIT, program, program, test->name, NULL) != 0)
        test_failed(test->file, (int)test->line, "%s did not end well", test->name);
    return true;
}
#else
static bool run_apart(const char *program, const test_case *test) {
    (void)program;
    (void)test;
    return false;
}
#endif

int main(int count, char **names) {
    setvbuf(stdout, NULL, _IONBF, 0);
    bool list = count == 2 && strcmp(names[1], "--list") == 0;
    unsigned passed = 0, failed = 0, skipped = 0;
    for (const test_case *test = first_test; test != NULL; test = test->next) {
        if (list) {
            printf("%s\n", test->name);
            continue;
        }
        if (!wanted(test, count, names)) continue;
        atomic_store(&failures_here, 0);
        skipped_here = false;
        if (count > 1 || !run_apart(names[0], test)) {
            printf("%s\n", test->name);
            run_one(test);
        }
        if (atomic_load(&failures_here) != 0) {
            printf("  FAILED: %s\n", test->name);
            failed++;
        } else if (skipped_here) skipped++;
        else passed++;
    }
    if (list) return 0;
    if (skipped != 0) printf("%u skipped\n", skipped);
    if (passed + failed + skipped == 0) {
        printf("no such test\n");
        failed = 1;
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed == 0 ? 0 : 1;
}
