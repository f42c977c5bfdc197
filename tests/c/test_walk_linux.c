/* test_walk_linux.c - the walker reads another process: a child that stands still, and, from a child, its
 * parent. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "heaps.h"
#include "images.h"

/* Some systems let a process read its children only. */
static bool forbidden;

/* Simulated processors have no such call. */
static int read_file(pid_t pid, uint64_t address, void *to, size_t size) {
    char name[64];
    (void)snprintf(name, sizeof name, "/proc/%d/mem", (int)pid);
    int file = open(name, O_RDONLY | O_CLOEXEC);
    if (file < 0) return errno;
    ssize_t n = pread(file, to, size, (off_t)address);
    (void)close(file);
    return n == (ssize_t)size ? 0 : EIO;
}

static int read_process(void *context, uint64_t address, void *to, size_t size) {
    struct iovec here = {.iov_base = to, .iov_len = size};
    struct iovec there = {.iov_base = (void *)(uintptr_t)address, .iov_len = size};
    ssize_t n = process_vm_readv(*(pid_t *)context, &here, 1, &there, 1, 0);
    if (n == (ssize_t)size) return 0;
    if (n < 0 && errno == ENOSYS) return read_file(*(pid_t *)context, address, to, size);
    if (n < 0 && errno == EPERM) forbidden = true;
    return n < 0 ? errno : EFAULT;
}

typedef struct tape {
    uint64_t hash, count, damaged, busy;
} tape;

static int note(void *argument, const dmi_range *range) {
    tape *t = argument;
    const unsigned char *bytes = (const unsigned char *)range;
    for (size_t i = 0; i < sizeof *range; i++) t->hash = (t->hash ^ bytes[i]) * 1099511628211u;
    t->count++;
    t->busy += range->state == DMI_STATE_BUSY;
    t->damaged += (range->flags & DMI_RANGE_DAMAGED) != 0;
    return 0;
}

typedef struct taping {
    dmi_image image;
    tape heaps[16];
    size_t count;
} taping;

static int walk_one(void *argument, uint64_t address) {
    taping *t = argument;
    if (!_dmi_image_heap(&t->image, address) || t->count == 16) return 1;
    return _dmi_walk_image(&t->image, note, &t->heaps[t->count++]);
}

/* Every heap of that process, by its layout root alone. */
static bool walk_process(pid_t pid, taping *t) {
    dmi_copies *copies = calloc(1, sizeof *copies);
    dmi_reader reader = {.read = read_process, .context = &pid};
    memset(t, 0, sizeof *t);
    bool done = copies &&
                _dmi_image_open(&t->image, &reader, copies, (uintptr_t)&dmi_layout_root) == 0 &&
                _dmi_image_heaps(&t->image, walk_one, t) == 0;
    free(copies);
    return done;
}

static void walk_here(taping *t) {
    void *handles[16];
    memset(t, 0, sizeof *t);
    t->count = dmi_heap_list(handles, 16);
    ENSURE(t->count <= 16);
    for (size_t i = 0; i < t->count; i++)
        ENSURE_EQ(dmi_heap_walk(handles[i], note, &t->heaps[i]), 0);
}

static bool equal(const taping *a, const taping *b) {
    bool same = a->count == b->count && a->count >= 3;
    for (size_t i = 0; same && i < a->count; i++)
        same = memcmp(&a->heaps[i], &b->heaps[i], sizeof a->heaps[i]) == 0 && !a->heaps[i].damaged;
    return same;
}

static void fill(const char *policy, uint64_t seed, uint32_t flags) {
    static heaps_block table[500];
    void *heap = heaps_create(policy, flags);
    memset(table, 0, sizeof table);
    for (size_t i = 0; i < 3000; i++) (void)heaps_step(heap, table, 500, &seed);
    ENSURE(dmi_heap_malloc(heap, (size_t)20 << 20));
    for (size_t i = 0; i < 500; i += 2) dmi_heap_free(heap, table[i].at);
    ENSURE_EQ(dmi_heap_advance(heap, 5), 0);
}

TEST_EACH_PAGE(a_child_that_stands_still_is_read_like_oneself) {
    fill("never", 1, 0);
    fill("lazy", 2, 0);
    fill("lazy:how=decommit", 3, 0);
    fill("lazy", 7, DMI_HEAP_HUGE_PAGES);
    static taping here, there;
    pid_t child = fork();
    ENSURE(child >= 0);
    if (child == 0) {
        (void)raise(SIGSTOP);
        _exit(0);
    }
    int status;
    ENSURE(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
    walk_here(&here);
    bool read = walk_process(child, &there);
    (void)kill(child, SIGCONT);
    ENSURE(waitpid(child, &status, 0) == child);
    ENSURE(read && equal(&here, &there));
    ENSURE(here.heaps[0].busy > 100);
}

TEST_EACH_PAGE(a_parent_at_rest_is_read_like_oneself) {
    fill("eager", 4, 0);
    fill("lazy:how=offer", 5, 0);
    fill("decay:half_life=0.5", 6, 0);
    static taping here, there;
    pid_t child = fork();
    ENSURE(child >= 0);
    if (child == 0) { /* the parent waits */
        walk_here(&here);
        bool read = walk_process(getppid(), &there);
        _exit(forbidden || (read && equal(&here, &there)) ? 0 : 1);
    }
    int status;
    ENSURE(waitpid(child, &status, 0) == child);
    ENSURE(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Threads at work in the process that is read: torn structs, but no crash, no circle, and order. */
static struct {
    void *heap;
    _Atomic bool stop;
} busy;

static void churn(void *argument) {
    uint64_t seed = (uintptr_t)argument;
    void *slots[300] = {0};
    while (!busy.stop) {
        uint64_t r = test_random(&seed);
        void **slot = &slots[(r >> 8) % 300];
        dmi_heap_free(busy.heap, *slot);
        *slot = dmi_heap_malloc(busy.heap, r % 50 ? (r >> 32) % 3000 : (r >> 32) % 2000000);
    }
    for (size_t i = 0; i < 300; i++) dmi_heap_free(busy.heap, slots[i]);
}

static int in_order(void *argument, const dmi_range *range) {
    uint64_t *next = argument;
    ENSURE(range->size > 0 && range->address >= *next);
    *next = range->address + range->size;
    return 0;
}

static int walk_in_order(void *argument, uint64_t address) {
    taping *t = argument;
    uint64_t next = 0;
    if (_dmi_image_heap(&t->image, address)) {
        t->count++;
        ENSURE_EQ(_dmi_walk_image(&t->image, in_order, &next), 0);
    }
    return 0;
}

TEST(a_process_at_work_can_be_read_too) {
    dmi_policy policy = heaps_policy("lazy:delay=0.01:how=decommit");
    dmi_heap_options options = {.size = sizeof options, .policy = &policy};
    busy.heap = dmi_heap_create(&options);
    test_thread *threads[3];
    for (size_t i = 0; i < 3; i++) threads[i] = test_thread_start(churn, (void *)(i + 1));
    pid_t self = getpid();
    dmi_copies *copies = calloc(1, sizeof *copies);
    dmi_reader reader = {.read = read_process, .context = &self};
    uint64_t until = _dmi_os_clock() + 700000000u;
    static taping t;
    REQUIRE(copies);
    while (_dmi_os_clock() < until) {
        CHECK_EQ(_dmi_image_open(&t.image, &reader, copies, (uintptr_t)&dmi_layout_root), 0);
        CHECK_EQ(_dmi_image_heaps(&t.image, walk_in_order, &t), 0);
    }
    CHECK(t.count > 3);
    busy.stop = true;
    for (size_t i = 0; i < 3; i++) test_thread_join(threads[i]);
    free(copies);
    CHECK_EQ(dmi_heap_destroy(busy.heap), 0);
}
