/* test.h - the harness: one program per file, TEST(name) { ... } registers itself.
 *
 * A program runs all its tests, or those named on its command line (--list names them), prints
 * "N passed, N failed" as its last line and exits with 1 if any failed. CHECK goes on after a
 * failure, and works in any thread; REQUIRE ends the test, and belongs to the main thread.
 */
#ifndef DMI_TEST_H
#define DMI_TEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct test_case {
    const char *name;
    const char *file;
    int line;
    void (*run)(void);
    struct test_case *next;
} test_case;

void test_register(test_case *test);
void test_failed(const char *file, int line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Whether a check of the running test has failed so far. */
bool test_has_failed(void);
/* Set it in a forked child: REQUIRE then ends the process with status 1. */
extern bool test_is_child;
void test_end(void) __attribute__((noreturn));
/* Ends the test as neither passed nor failed; the reason is printed. */
void test_skip(const char *reason) __attribute__((noreturn));
bool test_check_equal(const char *file, int line, const char *left_text, const char *right_text,
                      uint64_t left, uint64_t right);

#define TEST(name_)                                                                                \
    static void test_##name_(void);                                                                \
    static test_case case_##name_ = {#name_, __FILE__, __LINE__, test_##name_, NULL};              \
    __attribute__((constructor)) static void register_##name_(void) {                              \
        test_register(&case_##name_);                                                              \
    }                                                                                              \
    static void test_##name_(void)

#define CHECK(condition) ((condition) ? (void)0 : test_failed(__FILE__, __LINE__, "%s", #condition))
#define REQUIRE(condition)                                                                         \
    ((condition) ? (void)0 : (test_failed(__FILE__, __LINE__, "%s", #condition), test_end()))
/* Integers of any width, compared as 64 bits. */
#define CHECK_EQ(left, right)                                                                      \
    ((void)test_check_equal(__FILE__, __LINE__, #left, #right, (uint64_t)(left), (uint64_t)(right)))
#define REQUIRE_EQ(left, right)                                                                    \
    (test_check_equal(__FILE__, __LINE__, #left, #right, (uint64_t)(left), (uint64_t)(right))      \
         ? (void)0                                                                                 \
         : test_end())
#define CHECK_PTR(left, right) CHECK_EQ((uintptr_t)(left), (uintptr_t)(right))

/* Whether body(argument) dies of a signal, an exception or abort(). It runs in a child process, whose
 * standard error is thrown away; where there is no fork, in a thread, which leaves behind what it
 * did up to then (and the locks it held). */
extern const bool test_has_fork;
bool test_dies(void (*body)(void *argument), void *argument);
#define CHECK_DIES(body, argument)                                                                 \
    (test_dies(body, argument) ? (void)0 : test_failed(__FILE__, __LINE__, "%s lived", #body))

/* Threads, the same on every system. */
typedef struct test_thread test_thread;
test_thread *test_thread_start(void (*run)(void *argument), void *argument);
void test_thread_join(test_thread *thread);
void test_sleep_ms(unsigned milliseconds);
void test_yield(void);

/* Deterministic random numbers (splitmix64); *state is the seed. */
uint64_t test_random(uint64_t *state);

#endif
