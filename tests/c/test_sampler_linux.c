/* test_sampler_linux.c - the sampler beside forks: a child starts and stops it, and writes a moment, whatever other threads
 * were doing when the process forked. */
#define _GNU_SOURCE
#include "heaps.h"

#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

static _Atomic bool stop;

static int forget(void *argument, const void *bytes, size_t size) {
    (void)argument, (void)bytes, (void)size;
    return 0;
}

static void starts_and_stops(void *unused) {
    (void)unused;
    while (!stop) {
        if (dmi_profile_start(NULL) == 0) (void)dmi_profile_stop();
    }
}
static void writes(void *unused) {
    (void)unused;
    while (!stop) (void)dmi_profile_write(forget, NULL);
}

TEST(a_child_starts_stops_and_writes_whatever_other_threads_did) {
#if defined(__SANITIZE_ADDRESS__)
    /* dlsym asks for memory in the child, and another thread may have stood inside that malloc. */
    test_skip("the sanitizer's own malloc does not live on in a fork child of a threaded process");
#endif
    void *heap = dmi_heap_create(NULL);
    ENSURE(heap != NULL);
    stop = false;
    test_thread *threads[] = {test_thread_start(starts_and_stops, NULL),
                              test_thread_start(writes, NULL)};
    for (int i = 0; i < 60; i++) {
        pid_t child = fork();
        REQUIRE(child >= 0);
        if (child == 0) {
            test_is_child = true;
            (void)alarm(20);
            (void)dmi_profile_stop(); /* it may have been on */
            REQUIRE_EQ(dmi_profile_start(NULL), 0);
            void *block = dmi_heap_malloc(heap, 5000);
            REQUIRE(block != NULL);
            REQUIRE_EQ(dmi_profile_write(forget, NULL), 0);
            dmi_heap_free(heap, block);
            REQUIRE_EQ(dmi_profile_stop(), 0);
            _exit(0);
        }
        int status = 1;
        REQUIRE_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
        if (status) break;
    }
    stop = true;
    for (int i = 0; i < 2; i++) test_thread_join(threads[i]);
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
}
