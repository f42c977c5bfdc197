/* test_os_linux.c - what the Linux backend promises beyond os.h: charges, attributes, refusals. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/attributes.h"
#include "os/copy.h"
#include "os/os.h"
#include "test.h"

enum { RANGES = 2600 };
static dmi_os_range ranges[RANGES];
static int refused[RANGES];

/* RANGES single pages, every other one of a reservation; all touched. */
static char *every_other_page(void) {
    size_t page = _dmi_os_page_size();
    size_t size = 2 * RANGES * page;
    char *base = _dmi_os_reserve(size, page, DMI_OS_LAZY, false, NULL);
    REQUIRE(base != NULL);
    REQUIRE_EQ(_dmi_os_commit(base, size, DMI_OS_LAZY), 0);
    memset(base, 1, size);
    for (size_t i = 0; i < RANGES; i++) {
        ranges[i] = (dmi_os_range){base + 2 * i * page, page};
        refused[i] = -1;
    }
    return base;
}

static void drop(char *base, size_t pages, size_t committed) {
    size_t page = _dmi_os_page_size();
    CHECK_EQ(_dmi_os_release(base, pages * page), 0);
    _dmi_os_uncount(committed * page);
}

/* Run body in a child; its CHECKs count as one here. */
static void in_child(void (*body)(void)) {
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        test_is_child = true;
        body();
        _exit(test_has_failed() ? 1 : 0);
    }
    int status = 0;
    REQUIRE_EQ(waitpid(child, &status, 0), child);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
}

/* From here on this process is refused one system call. False: this system has no filters. */
static bool refuse(uint32_t number, uint32_t error) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
    REQUIRE_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

/* First in this file: the backend decides once whether vectors work, and must not have decided yet. */
static void decommit_without_vectors(void) {
    if (!refuse(440 /* process_madvise */, ENOSYS)) return;
    char *base = every_other_page();
    uint64_t calls = 0;
    CHECK_EQ(_dmi_os_decommit_many(ranges, RANGES, refused, &calls), 0);
    CHECK_EQ(calls, RANGES);
    CHECK_EQ(_dmi_os_resident(base, 2 * RANGES * _dmi_os_page_size()),
             RANGES * _dmi_os_page_size());
    drop(base, 2 * RANGES, RANGES);
}
TEST(decommit_without_vectors) { in_child(decommit_without_vectors); }

/* Locked pages refuse; the others go, wherever in a vector the locked one stands. */
TEST(decommit_refused_for_locked_pages) {
    size_t page = _dmi_os_page_size();
    char *base = every_other_page();
    static const size_t locked[] = {0, 1, 700, 1023, 1024, 1025, 2047, RANGES - 1};
    enum { LOCKED = sizeof locked / sizeof *locked };
    for (size_t i = 0; i < LOCKED; i++) {
        /* By number: the sanitizers make mlock a no-op. */
        if (syscall(SYS_mlock, ranges[locked[i]].address, page) != 0) {
            drop(base, 2 * RANGES, 2 * RANGES);
            test_skip("not allowed to lock pages");
        }
    }
    uint64_t calls = 0;
    dmi_os_counters before, after;
    _dmi_os_counters(&before);
    CHECK_EQ(_dmi_os_decommit_many(ranges, RANGES, refused, &calls), LOCKED);
    _dmi_os_counters(&after);
    CHECK_EQ(after.refused_calls - before.refused_calls, LOCKED);
    CHECK_EQ(before.committed_bytes - after.committed_bytes, (RANGES - LOCKED) * page);
    for (size_t i = 0, next = 0; i < RANGES; i++) {
        bool is_locked = next < LOCKED && locked[next] == i;
        if (is_locked) next++;
        CHECK_EQ(refused[i], is_locked ? EINVAL : 0);
        CHECK_EQ(*(char *)ranges[i].address, is_locked ? 1 : 0);
    }
    drop(base, 2 * RANGES, RANGES + LOCKED);
}

/* Vectors save calls; and no sum of sizes makes one go wrong (the kernel cuts it at 2 GiB). */
TEST(decommit_many_beyond_two_gibibytes) {
    size_t part = (size_t)700 << 20;
    enum { PARTS = 7 };
    char *base = _dmi_os_reserve(PARTS * part, _dmi_os_page_size(), DMI_OS_LAZY, false, NULL);
    REQUIRE(base != NULL);
    REQUIRE_EQ(_dmi_os_commit(base, PARTS * part, DMI_OS_LAZY), 0);
    dmi_os_range wide[PARTS];
    for (size_t i = 0; i < PARTS; i++) {
        wide[i] = (dmi_os_range){base + i * part, part};
        base[i * part] = base[(i + 1) * part - 1] = 1;
    }
    wide[2].size += part; /* more than a vector may hold, alone */
    wide[3] = wide[2];
    CHECK_EQ(_dmi_os_resident(base, PARTS * part), 2 * PARTS * _dmi_os_page_size());
    CHECK_EQ(_dmi_os_decommit_many(wide, PARTS, refused, NULL), 0);
    CHECK_EQ(_dmi_os_resident(base, PARTS * part), 0);
    CHECK_EQ(_dmi_os_release(base, PARTS * part), 0);
    /* Two parts overlapped, so 2 * part more was given back than this test had. */
    dmi_os_counters now;
    _dmi_os_counters(&now);
    _dmi_os_uncount((size_t)now.committed_bytes);
}

/* ---- flags of mappings ----------------------------------------------------------------------- */

/* VmFlags of the mapping that holds address, " rd wr mr ..."; empty when smaps does not say. */
static const char *flags_at(const void *address) {
    static char flags[512];
    char line[512];
    bool inside = false;
    flags[0] = 0;
    FILE *maps = fopen("/proc/self/smaps", "r");
    if (maps == NULL) return flags;
    while (fgets(line, sizeof line, maps) != NULL) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = (uintptr_t)address >= start && (uintptr_t)address < end;
        else if (inside && strncmp(line, "VmFlags:", 8) == 0) {
            strcpy(flags, line + 8);
            break;
        }
    }
    fclose(maps);
    return flags;
}

static bool has(const void *address, const char *flag) {
    return strstr(flags_at(address), flag) != NULL;
}

TEST(charges) {
    size_t page = _dmi_os_page_size();
    char *lazy = _dmi_os_reserve(8 * page, page, DMI_OS_LAZY, false, NULL);
    char *strict = _dmi_os_reserve(8 * page, page, DMI_OS_STRICT, false, NULL);
    char *table = _dmi_os_reserve_table(8 * page, NULL);
    REQUIRE(lazy != NULL && strict != NULL && table != NULL);
    if (flags_at(lazy)[0] == 0) test_skip("no VmFlags in smaps");
    CHECK(has(lazy, " ac")); /* or the kernel would grant more than the machine has */
    CHECK(!has(strict, " ac"));
    CHECK(!has(table, " ac"));
    REQUIRE_EQ(_dmi_os_commit(strict, 4 * page, DMI_OS_STRICT), 0);
    CHECK(has(strict, " ac"));
    CHECK(!has(strict + 4 * page, " ac"));
    strict[page] = 1;
    REQUIRE_EQ(_dmi_os_decommit(strict + page, page, DMI_OS_STRICT), 0);
    CHECK(!has(strict + page, " ac"));
    CHECK(!has(strict + page, " wr"));
    CHECK(has(strict + 2 * page, " ac"));
    /* Converted memory behaves as its new mode says. */
    REQUIRE_EQ(_dmi_os_convert(lazy, 8 * page, DMI_OS_STRICT), 0);
    CHECK(!has(lazy, " rd"));
    REQUIRE_EQ(_dmi_os_commit(lazy, page, DMI_OS_STRICT), 0);
    CHECK(has(lazy, " ac"));
    REQUIRE_EQ(_dmi_os_convert(strict + 4 * page, 4 * page, DMI_OS_LAZY), 0);
    CHECK(has(strict + 4 * page, " wr"));
    CHECK(has(strict + 4 * page, " ac"));
    drop(lazy, 8, 1);
    drop(strict, 8, 3);
    drop(table, 8, 0);
}

TEST(attributes_survive_a_remap) {
    size_t size = (size_t)4 << 20;
    char *base = _dmi_os_reserve(size, size, DMI_OS_STRICT, true, "dmi:test");
    REQUIRE(base != NULL);
    if (!has(base, " hg")) {
        CHECK_EQ(_dmi_os_release(base, size), 0);
        test_skip("no huge pages here");
    }
    REQUIRE_EQ(_dmi_os_commit(base, size, DMI_OS_STRICT), 0);
    REQUIRE_EQ(_dmi_os_decommit(base + size / 2, size / 4, DMI_OS_STRICT), 0);
    CHECK(has(base, " hg"));
    CHECK(has(base + size / 2, " hg"));
    REQUIRE_EQ(_dmi_os_commit(base + size / 2, size / 4, DMI_OS_STRICT), 0);
    CHECK(has(base + size / 2, " hg"));
    CHECK_EQ(_dmi_os_release(base, size), 0);
    _dmi_os_uncount(size);
    CHECK(!_dmi_attributes_get(base).huge);
}

/* The table of attributes against a plain model, at more entries than fit at first. */
TEST(attributes_model) {
    enum { SLOTS = 500, STEPS = 20000 };
    static struct {
        size_t start, size; /* in units */
        int name;           /* 0: not there */
    } model[SLOTS];
    static const char *const names[] = {NULL, "dmi:a", "dmi:b", "dmi:c"};
    const size_t unit = 65536, stride = 8;
    uintptr_t origin = (uintptr_t)1 << 40;
    uint64_t seed = 7;
    for (int step = 0; step < STEPS; step++) {
        size_t i = test_random(&seed) % SLOTS;
        if (model[i].name == 0) {
            model[i].start = i * stride;
            model[i].size = 1 + test_random(&seed) % stride;
            model[i].name = (int)(1 + test_random(&seed) % 3);
            _dmi_attributes_set((void *)(origin + model[i].start * unit), model[i].size * unit,
                                (dmi_attributes){names[model[i].name], (i & 1) != 0});
        } else {
            size_t cut = 1 + test_random(&seed) % model[i].size;
            bool front = test_random(&seed) % 2 == 0;
            size_t at = front ? model[i].start : model[i].start + model[i].size - cut;
            _dmi_attributes_clear((void *)(origin + at * unit), cut * unit);
            if (front) model[i].start += cut;
            model[i].size -= cut;
            if (model[i].size == 0) model[i].name = 0;
        }
        size_t j = test_random(&seed) % SLOTS;
        size_t offset = test_random(&seed) % stride;
        size_t where = j * stride + offset;
        bool inside =
            model[j].name != 0 && where >= model[j].start && where < model[j].start + model[j].size;
        dmi_attributes got = _dmi_attributes_get((void *)(origin + where * unit + 5));
        if (inside) {
            REQUIRE(got.name != NULL);
            REQUIRE(strcmp(got.name, names[model[j].name]) == 0);
            REQUIRE_EQ(got.huge, (j & 1) != 0);
        } else {
            REQUIRE(got.name == NULL);
            REQUIRE(!got.huge);
        }
    }
    for (size_t i = 0; i < SLOTS; i++)
        if (model[i].name != 0)
            _dmi_attributes_clear((void *)(origin + model[i].start * unit), model[i].size * unit);
}

/* ---- limits, threads, fork ------------------------------------------------------------------- */

/* At vm.max_map_count a decommit that would split is refused and the range keeps its contents. */
static void vma_limit(void) {
    size_t page = _dmi_os_page_size();
    size_t pages = 160000;
    char *base = _dmi_os_reserve(pages * page, page, DMI_OS_STRICT, false, NULL);
    REQUIRE(base != NULL);
    REQUIRE_EQ(_dmi_os_commit(base, pages * page, DMI_OS_STRICT), 0);
    for (size_t i = 0; i < pages; i += 2) {
        base[i * page] = 42;
        int error = _dmi_os_decommit(base + i * page, page, DMI_OS_STRICT);
        if (error == 0) continue;
        CHECK_EQ(error, ENOMEM);
        CHECK_EQ(base[i * page], 42);
        CHECK(i > 1000);
        /* What need not split still works. */
        REQUIRE_EQ(_dmi_os_decommit(base + i * page, page, DMI_OS_LAZY), 0);
        CHECK_EQ(base[i * page], 0);
        return;
    }
}
TEST(vma_limit) {
    char text[32] = "";
    FILE *file = fopen("/proc/sys/vm/max_map_count", "r");
    if (file != NULL) {
        if (fgets(text, sizeof text, file) == NULL) text[0] = 0;
        fclose(file);
    }
    if (text[0] == 0 || strtoul(text, NULL, 10) > 70000) test_skip("the limit is too far away");
    in_child(vma_limit);
}

static _Atomic bool stop;

static void churn(void *argument) {
    (void)argument;
    size_t page = _dmi_os_page_size();
    while (!atomic_load(&stop)) {
        void *base = _dmi_os_reserve(4 * page, page, DMI_OS_STRICT, true, "dmi:churn");
        if (base != NULL) (void)_dmi_os_release(base, 4 * page);
    }
}

static void reserve_in_child(void) {
    size_t page = _dmi_os_page_size();
    char *base = _dmi_os_reserve(4 * page, page, DMI_OS_STRICT, true, "dmi:child");
    REQUIRE(base != NULL);
    REQUIRE_EQ(_dmi_os_commit(base, page, DMI_OS_STRICT), 0);
    base[0] = 1;
    REQUIRE_EQ(_dmi_os_decommit(base, page, DMI_OS_STRICT), 0);
    REQUIRE_EQ(_dmi_os_release(base, 4 * page), 0);
    (void)_dmi_os_barrier();
}

/* A fork in the middle of other threads' reservations leaves no lock shut. A failure hangs: the
 * child's alarm ends it. */
static void reserve_before_alarm(void) {
    alarm(20);
    reserve_in_child();
}
static unsigned prepared, in_parent;
static void on_prepare(void) { prepared++; }
static void on_parent(void) { in_parent++; }
static void on_child(void) {}

TEST(fork_among_threads) {
    enum { FORKS = 100 };
    REQUIRE_EQ(_dmi_os_at_fork(on_prepare, on_parent, on_child), 0);
    atomic_store(&stop, false);
    test_thread *threads[2];
    for (int i = 0; i < 2; i++) threads[i] = test_thread_start(churn, NULL);
    for (int i = 0; i < FORKS; i++) in_child(reserve_before_alarm);
    atomic_store(&stop, true);
    for (int i = 0; i < 2; i++) test_thread_join(threads[i]);
    CHECK_EQ(prepared, FORKS);
    CHECK_EQ(in_parent, FORKS);
}

static void do_nothing(void) {}

enum { CLONE_THREAD_ALONE = 0x10000 }; /* does nothing, and only where there is one thread */
static void join_and_count(void) {
    for (int i = 0; i < 2000; i++) {
        REQUIRE_EQ(_dmi_os_thread_start(do_nothing), 0);
        _dmi_os_thread_join();
        REQUIRE_EQ(syscall(SYS_unshare, CLONE_THREAD_ALONE), 0);
    }
}

/* The kernel counts a thread for a moment longer than pthread_join waits. */
TEST(joined_is_gone) {
    if (syscall(SYS_unshare, CLONE_THREAD_ALONE) != 0) test_skip("nobody counts threads here");
    in_child(join_and_count);
}

static pthread_key_t other_key;
static _Atomic int order, other_order, our_order;

static void other_exit(void *value) {
    (void)value;
    atomic_store(&other_order, atomic_fetch_add(&order, 1) + 1);
}
static void our_exit(void *value) {
    (void)value;
    atomic_store(&our_order, atomic_fetch_add(&order, 1) + 1);
}
static void arm_both(void *argument) {
    CHECK_EQ(_dmi_os_thread_exit_arm(argument), 0);
    CHECK_EQ(pthread_setspecific(other_key, argument), 0);
}

/* Our handler comes after the destructors of keys that were made later. */
TEST(thread_exit_is_late) {
    REQUIRE_EQ(_dmi_os_thread_exit_setup(our_exit), 0);
    REQUIRE_EQ(pthread_key_create(&other_key, other_exit), 0);
    test_thread_join(test_thread_start(arm_both, &order));
    CHECK_EQ(atomic_load(&other_order), 1);
    CHECK_EQ(atomic_load(&our_order), 2);
}

static size_t read_by_stdio(const char *path, char *to, size_t size) {
    FILE *file = fopen(path, "r");
    REQUIRE(file);
    size_t length = fread(to, 1, size - 1, file);
    fclose(file);
    to[length] = 0;
    return length;
}

TEST(files_of_the_system) {
    static const char path[] = "/proc/self/mountinfo"; /* comes in pieces where it is long */
    static char before[1 << 20], after[1 << 20], ours[1 << 20], part[9];
    int length = 0, tries = 0;
    do { /* until nobody mounts anything meanwhile */
        (void)read_by_stdio(path, before, sizeof before);
        length = _dmi_os_read_file(path, ours, sizeof ours);
        (void)read_by_stdio(path, after, sizeof after);
    } while (strcmp(before, after) != 0 && ++tries < 100);
    CHECK_EQ(length, strlen(before));
    CHECK(strcmp(before, ours) == 0);
    errno = 77;
    CHECK_EQ(_dmi_os_read_file(path, part, sizeof part), 8);
    CHECK(memcmp(ours, part, 8) == 0);
    CHECK_EQ(part[8], 0);
    CHECK(_dmi_os_read_file("/proc/self/no-such-file", part, sizeof part) == -1);
    CHECK_EQ(part[0], 0);
    CHECK(_dmi_os_read_file("/proc/self", part, sizeof part) == -1); /* a directory */
    CHECK_EQ(_dmi_os_read_file("/dev/null", part, sizeof part), 0);
    CHECK(_dmi_os_read_file(path, part, 0) == -1);
    CHECK_EQ(errno, 77);
}

/* What is there comes, what is not there is told, and errno stays. */
static void copy_what_is_there(void) {
    size_t page = _dmi_os_page_size();
    char *two = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(two != MAP_FAILED);
    memset(two, 7, page);
    REQUIRE_EQ(munmap(two + page, page), 0);
    char to[32] = {0};
    errno = ENOTTY;
    CHECK(_dmi_os_copy(to, two + page - sizeof to, sizeof to));
    CHECK(to[0] == 7 && to[sizeof to - 1] == 7);
    CHECK(!_dmi_os_copy(to, two + page - 1, sizeof to));
    CHECK(!_dmi_os_copy(to, two + page, 1));
    CHECK(!_dmi_os_copy(to, NULL, 1));
    CHECK(!_dmi_os_copy(to, (void *)UINTPTR_MAX, 1));
    CHECK_EQ(errno, ENOTTY);
    (void)munmap(two, page);
}
static void copy_where_the_call_is_not_there(void) {
    if (refuse(SYS_process_vm_readv, ENOSYS)) copy_what_is_there();
}
static void copy_where_the_call_is_refused(void) {
    if (refuse(SYS_process_vm_readv, EPERM)) copy_what_is_there();
}
TEST(copies_say_what_cannot_be_read) {
    copy_what_is_there();
    in_child(copy_where_the_call_is_not_there);
    in_child(copy_where_the_call_is_refused);
}
