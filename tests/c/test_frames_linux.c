/* test_frames_linux.c - stacks: each is held against the one that the compiler's own unwinder finds, which exceptions
 * go by; and what is damaged ends a stack, and neither crashes nor makes frames up. */
#define _GNU_SOURCE
#include "os/frames.h"
#include "os/linux_rows.h"
#include "test.h"

#include <dlfcn.h>
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MOST = 64 };
static dmi_native ours[MOST];
static void *their_frames[MOST + 2], **theirs = their_frames;
static size_t our_count, their_count; /* from the same frame on */
static bool whole;
static size_t interrupted_at = MOST; /* number of the frame that a signal interrupted */
static volatile int zero;

#if defined(__clang__)
#define NO_LINKS __attribute__((noinline))
#else
#define NO_LINKS __attribute__((noinline, optimize("omit-frame-pointer")))
#endif

/* Rows are what is tested here; where glibc does not offer them there is nothing to test. */
static void need_rows(void) {
    _dmi_os_frames_begin();
    if (!_dmi_rows_on()) test_skip("no tables are found here");
}

/* Both stacks, from this function on. It links its frame, as the slow paths do. */
__attribute__((noinline)) static int take(void) {
    their_count = (size_t)backtrace(their_frames, MOST + 2);
    bool cut;
    our_count = _dmi_os_all_frames(__builtin_frame_address(0), ours, MOST, &cut);
    whole = !cut;
    /* Theirs begins with this function; under a sanitizer, with one of its own. */
    for (theirs = their_frames; their_count && theirs < their_frames + 3; their_count--, theirs++)
        if ((uintptr_t)*theirs == ours[0].address) break;
    return zero;
}

static void compare(const char *file, int line) {
    if (our_count != their_count)
        test_failed(file, line, "%zu frames, %zu expected", our_count, their_count);
    for (size_t i = 0; i < our_count && i < their_count; i++)
        if (ours[i].address != (uintptr_t)theirs[i] + (i == interrupted_at))
            test_failed(file, line, "frame %zu: %#lx, expected %p", i,
                        (unsigned long)ours[i].address, theirs[i]);
    if (!whole) test_failed(file, line, "the stack is cut");
}
#define COMPARE() compare(__FILE__, __LINE__)

/* ---- functions that link no frames --------------------------------------------------------------------- */

NO_LINKS static int leaf(void) { return take() + 1; }
NO_LINKS static int with_array(int n) {
    volatile char bytes[600];
    bytes[n] = 1;
    return leaf() + bytes[n];
}
/* Its frame is aligned to more than the stack is, so its registers are found through a word of it. */
NO_LINKS static int aligned(int n) {
    _Alignas(64) volatile char bytes[128];
    bytes[n] = 2;
    return with_array(n) + bytes[n];
}
NO_LINKS static int of_any_size(int n) {
    volatile char *bytes = __builtin_alloca((size_t)n + 100);
    bytes[n] = 3;
    return aligned(n) + bytes[n];
}
NO_LINKS static int deep(int n) { return n ? deep(n - 1) + 1 : take(); }
__attribute__((noinline)) static int linked(int n) { return of_any_size(n) + 1; }

TEST(code_that_links_no_frames) {
    need_rows();
    for (int i = 0; i < 3; i++) { /* cold, and by rows that are remembered */
        (void)leaf();
        COMPARE();
        (void)with_array(5);
        COMPARE();
        (void)aligned(5);
        COMPARE();
        (void)linked(7);
        COMPARE();
    }
}

TEST(a_stack_that_is_deeper_than_there_is_room_for_is_cut) {
    need_rows();
    (void)deep(MOST + 10);
    CHECK_EQ(our_count, MOST);
    CHECK(!whole);
    for (size_t i = 1; i + 2 < MOST; i++) CHECK_PTR(ours[i].address, theirs[i]);
}

/* ---- through the C library ----------------------------------------------------------------------------- */

static int calls;
static int by_value(const void *a, const void *b) {
    if (calls++ == 1) (void)leaf();
    return *(const int *)a - *(const int *)b;
}

TEST(callbacks_of_the_c_library) {
    need_rows();
    int numbers[40], key = 17;
    for (int i = 0; i < 40; i++) numbers[i] = (i * 7) % 40;
    calls = 0;
    qsort(numbers, 40, sizeof(int), by_value);
    REQUIRE(our_count > 3);
    COMPARE();
    calls = 0;
    (void)bsearch(&key, numbers, 40, sizeof(int), by_value);
    COMPARE();
}

static void *in_thread(void *unused) {
    (void)linked(3);
    return unused;
}

TEST(a_thread_ends_where_it_began) {
    need_rows();
    for (int i = 0; i < 3; i++) {
        pthread_t thread;
        REQUIRE_EQ(pthread_create(&thread, NULL, in_thread, NULL), 0);
        (void)pthread_join(thread, NULL);
        COMPARE();
    }
}

/* ---- signals ------------------------------------------------------------------------------------------- */

static void handler(int number) {
    (void)number;
    (void)with_array(9);
}
NO_LINKS static int interrupted(void) { return raise(SIGUSR1) + zero; }
NO_LINKS static int faulting(volatile int *at) { return *at + 1; }

static void fault_handler(int number, siginfo_t *info, void *context) {
    (void)number, (void)context;
    (void)with_array(9);
    /* Let the instruction go on. */
    (void)mprotect((void *)((uintptr_t)info->si_addr & ~(uintptr_t)4095), 4096, PROT_READ);
}

static void handle(int number, int flags) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_flags = flags;
    if (flags & SA_SIGINFO) action.sa_sigaction = fault_handler;
    else action.sa_handler = handler;
    REQUIRE_EQ(sigaction(number, &action, NULL), 0);
}

TEST(signal_handlers_and_stacks_of_their_own) {
    need_rows();
    static char other[1 << 16];
    stack_t stack = {.ss_sp = other, .ss_size = sizeof other};
    REQUIRE_EQ(sigaltstack(&stack, NULL), 0);
    for (int i = 0; i < 2; i++) {
        handle(SIGUSR1, i ? SA_ONSTACK : 0);
        (void)interrupted();
        interrupted_at =
            4; /* behind the call that ended: leaf, with_array, handler, and what the kernel returns to */
        COMPARE();
        /* A fault interrupts at an instruction that calls nobody. */
        void *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        REQUIRE(page != MAP_FAILED);
        handle(SIGSEGV, SA_SIGINFO | (i ? SA_ONSTACK : 0));
        CHECK_EQ(faulting(page), 1);
        interrupted_at = 4;
        COMPARE();
        (void)munmap(page, 4096);
        interrupted_at = MOST;
    }
    (void)signal(SIGSEGV, SIG_DFL);
    stack.ss_flags = SS_DISABLE;
    (void)sigaltstack(&stack, NULL);
}

/* ---- damage -------------------------------------------------------------------------------------------- */

static uintptr_t scribble;

/* Writes over a return address, and takes the stack before it is mended. */
__attribute__((noinline)) static int damaged(void) {
    bool cut;
    size_t n = _dmi_os_all_frames(__builtin_frame_address(0), ours, MOST, &cut);
    REQUIRE(n > 3 && !cut);
    uintptr_t *place = (uintptr_t *)(ours[1].end - sizeof(uintptr_t)), before = *place;
    REQUIRE(before == ours[2].address);
    *(volatile uintptr_t *)place = scribble;
    our_count = _dmi_os_all_frames(__builtin_frame_address(0), ours, MOST, &cut);
    whole = !cut;
    *(volatile uintptr_t *)place = before;
    return zero;
}
NO_LINKS static int above(void) { return damaged() + 1; }
NO_LINKS static int further(void) { return above() + 1; }

TEST(a_return_address_that_is_none_ends_the_stack) {
    need_rows();
    static char data[64];
    void *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    const uintptr_t wrong[] = {1,
                               0x4141414141414141,
                               UINTPTR_MAX,
                               (uintptr_t)data,
                               (uintptr_t)page,
                               (uintptr_t)&wrong,
                               (uintptr_t)dlsym(RTLD_DEFAULT, "environ")};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        scribble = wrong[i];
        (void)further();
        CHECK_EQ(our_count, 2);
        CHECK(!whole);
    }
    (void)munmap(page, 4096);
}

/* ---- code without tables ------------------------------------------------------------------------------- */

#if defined(__x86_64__) /* only there tables are read, so that code can have none */

/* They call the function in their argument. The first links its frame and is called by the second, which does so as
 * well; the third does not. */
__asm__(".text\n"
        ".type no_table_linked, @function\n"
        "no_table_linked: push %rbp; mov %rsp, %rbp; sub $32, %rsp; call *%rdi; leave; ret\n"
        ".size no_table_linked, .-no_table_linked\n"
        ".type no_table_outer, @function\n"
        "no_table_outer: push %rbp; mov %rsp, %rbp; call no_table_linked; pop %rbp; ret\n"
        ".size no_table_outer, .-no_table_outer\n"
        ".type no_table_unlinked, @function\n"
        "no_table_unlinked: sub $24, %rsp; call *%rdi; add $24, %rsp; ret\n"
        ".size no_table_unlinked, .-no_table_unlinked\n");
int no_table_outer(int (*call)(void));
int no_table_unlinked(int (*call)(void));

__attribute__((noinline)) static int direct(void) { return no_table_outer(leaf) + 1; }
__attribute__((noinline)) static int indirect(int (*call)(int (*)(void))) { return call(leaf) + 1; }

TEST(frame_pointers_count_where_code_proves_that_it_links_them) {
    need_rows();
    for (int i = 0; i < 2; i++) {
        (void)direct();
        CHECK(whole);
        CHECK(our_count > 5);
    }
    size_t all = our_count;
    /* Called through a pointer, nothing is proven: cut, and not gone on with by luck. */
    (void)indirect(no_table_outer);
    CHECK(!whole);
    CHECK_EQ(our_count, 3); /* leaf, the linked one, and the outer one */
    (void)no_table_unlinked(leaf);
    CHECK(!whole);
    CHECK_EQ(our_count, 2);
    CHECK(all > our_count);
}

#endif

/* ---- beside fork and others ------------------------------------------------------------------------------ */

static _Atomic bool stop;
static void *takes_stacks(void *argument) {
    dmi_native mine[MOST];
    bool is_cut;
    size_t n = 0;
    while (!stop) {
        n = _dmi_os_all_frames(__builtin_frame_address(0), mine, MOST, &is_cut);
        if (is_cut || n == 0) break;
    }
    *(size_t *)argument = stop ? n : 0;
    return NULL;
}
static void *loads(void *unused) {
    static const char *const names[] = {"libm.so.6", "libthread_db.so.1", "libresolv.so.2",
                                        "libnss_compat.so.2", "libanl.so.1"};
    for (size_t i = 0; !stop; i++) {
        void *library = dlopen(names[i % 5], RTLD_NOW | RTLD_LOCAL);
        if (library) (void)dlclose(library);
    }
    return unused;
}

TEST(beside_threads_that_load_and_unload_and_in_children) {
    need_rows();
    pthread_t threads[3];
    size_t frames[2] = {0};
    stop = false;
    for (int i = 0; i < 2; i++)
        REQUIRE_EQ(pthread_create(&threads[i], NULL, takes_stacks, &frames[i]), 0);
    REQUIRE_EQ(pthread_create(&threads[2], NULL, loads, NULL), 0);
    for (int i = 0; i < 100; i++) {
        pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            (void)alarm(10);
            (void)linked(i % 50);
            _exit(whole && our_count > 5 ? 0 : 1);
        }
        int status = 1;
        REQUIRE_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
    }
    stop = true;
    for (int i = 0; i < 3; i++) (void)pthread_join(threads[i], NULL);
    CHECK(frames[0] > 0 && frames[1] > 0);
}

/* ---- modules --------------------------------------------------------------------------------------------- */

TEST(code_is_named_by_its_file_and_the_address_that_the_file_has) {
    static dmi_modules_room room;
    Dl_info own, libc;
    char *heap = malloc(16);
    REQUIRE(dladdr((void *)(uintptr_t)take, &own) && dladdr((void *)(uintptr_t)qsort, &libc));
    dmi_module of[] = {{.address = (uintptr_t)take},  {.address = (uintptr_t)heap},
                       {.address = (uintptr_t)qsort}, {.address = 0},
                       {.address = UINTPTR_MAX},      {.address = (uintptr_t)take + 1}};
    _dmi_os_modules(of, sizeof of / sizeof *of, &room);
    char path[1024] = {0};
    REQUIRE(readlink("/proc/self/exe", path, sizeof path - 1) > 0);
    CHECK(of[0].path && !strcmp(of[0].path, path));
    CHECK_EQ(of[0].offset, of[0].address - (uintptr_t)own.dli_fbase);
    CHECK(of[5].path == of[0].path && of[5].offset == of[0].offset + 1);
    /* The C library's, or what a sanitizer puts in its place. */
    CHECK(of[2].path && of[2].path != of[0].path);
    CHECK_EQ(of[2].offset, of[2].address - (uintptr_t)libc.dli_fbase);
    CHECK(!of[1].path && !of[3].path && !of[4].path);
    free(heap);
}
