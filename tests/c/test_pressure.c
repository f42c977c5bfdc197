/* test_pressure.c - what the pressure policy believes: the kernel's pressure file and cgroup limits. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include <dmi/dmi.h>

#include "decommit/policy.h"
#include "decommit/pressure.h"
#include "os/fake.h"
#include "os/os.h"
#include "test.h"

#define SECOND UINT64_C(1000000000)
#define V1 "/sys/fs/cgroup/memory"
#define V2 "/sys/fs/cgroup"
#define MOUNT_V1 "32 31 0:29 / " V1 " rw,relatime shared:9 - cgroup cgroup rw,memory\n"
#define MOUNT_V2 "41 31 0:38 / " V2 " rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"

/* A machine without any file. */
static dmi_policy fresh(void) {
    dmi_policy policy;
    static bool in_use;
    if (!in_use) _dmi_os_use(&_dmi_fake_backend);
    in_use = true; /* heaps leave their tables behind */
    _dmi_fake_setup(_dmi_os_page_size(), 0);
    _dmi_pressure_set_root(NULL);
    _dmi_policy_set_default(&policy, DMI_WHEN_PRESSURE);
    return policy;
}

/* What it says after all was read again. */
static bool high(const dmi_policy *policy) {
    _dmi_fake_clock_advance(SECOND);
    return _dmi_pressure_high(policy);
}

static void psi(const char *text) { _dmi_fake_file_set("/proc/pressure/memory", text); }

TEST(nothing_to_go_by) {
    dmi_policy policy = fresh();
    CHECK_EQ(_dmi_pressure_probe(), ENOTSUP);
    CHECK(!high(&policy));
    policy.headroom = 1;
    CHECK(!high(&policy));
}

TEST(the_pressure_file) {
    dmi_policy policy = fresh();
    psi("some avg10=10.00 avg60=99.00 avg300=99.00 total=5\nfull avg10=80.00 avg60=0.00\n");
    CHECK_EQ(_dmi_pressure_probe(), 0);
    CHECK(!high(&policy));
    psi("some avg10=10.01 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00\n");
    CHECK(high(&policy));
    policy.psi = 10.5;
    CHECK(!high(&policy));
    psi("full avg10=1.00 avg60=0.00\nsome avg10=100.00 avg60=0.00\n");
    CHECK(high(&policy));
}

TEST(garbage_in_the_pressure_file) {
    static const char *const texts[] = {"",
                                        "\n",
                                        "some",
                                        "some avg10=",
                                        "some avg10=\n",
                                        "some avg10=x avg60=50.00\n",
                                        "some avg10=-5\n",
                                        "full avg10=99.00 avg60=99.00\n",
                                        "some avg60=99.00\n",
                                        "xsome avg10=99.00\n"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        dmi_policy policy = fresh();
        psi(texts[i]);
        CHECK_EQ(_dmi_pressure_probe(), ENOTSUP);
        CHECK(!high(&policy));
    }
}

TEST(a_limit_of_version_2) {
    dmi_policy policy = fresh();
    _dmi_fake_file_set("/proc/self/cgroup", "0::/app\n");
    _dmi_fake_file_set("/proc/self/mountinfo", MOUNT_V2);
    CHECK_EQ(_dmi_pressure_probe(), ENOTSUP);
    _dmi_fake_file_set(V2 "/app/memory.max", "1000\n");
    _dmi_fake_file_set(V2 "/app/memory.high", "max\n");
    _dmi_fake_file_set(V2 "/app/memory.current", "900\n");
    CHECK(!high(&policy));
    CHECK_EQ(_dmi_pressure_probe(), 0);
    _dmi_fake_file_set(V2 "/app/memory.current", "901\n");
    CHECK(high(&policy));
    policy.headroom = 0.05;
    CHECK(!high(&policy));
    _dmi_fake_file_set(V2 "/app/memory.high", "940\n"); /* the smaller of the two counts */
    CHECK(high(&policy));
    _dmi_fake_file_set(V2 "/app/memory.max", "max\n");
    CHECK(high(&policy));
    _dmi_fake_file_set(V2 "/app/memory.high", "max\n");
    CHECK(!high(&policy));
    CHECK_EQ(_dmi_pressure_probe(), ENOTSUP);
}

TEST(an_ancestor_counts) {
    dmi_policy policy = fresh();
    _dmi_fake_file_set("/proc/self/cgroup", "0::/pod/app/worker\n");
    _dmi_fake_file_set("/proc/self/mountinfo", MOUNT_V2);
    _dmi_fake_file_set(V2 "/pod/app/worker/memory.max", "1000\n");
    _dmi_fake_file_set(V2 "/pod/app/worker/memory.current", "10\n");
    _dmi_fake_file_set(V2 "/pod/memory.high", "2000\n");
    _dmi_fake_file_set(V2 "/pod/memory.current", "1900\n");
    CHECK(high(&policy));
    _dmi_fake_file_set(V2 "/pod/memory.current", "1800\n");
    CHECK(!high(&policy));
    /* The group that is mounted counts too, a neighbour does not. */
    _dmi_fake_file_set(V2 "/pod/other/memory.max", "10\n");
    _dmi_fake_file_set(V2 "/pod/other/memory.current", "10\n");
    CHECK(!high(&policy));
    _dmi_fake_file_set(V2 "/memory.max", "100\n");
    _dmi_fake_file_set(V2 "/memory.current", "99\n");
    CHECK(high(&policy));
}

TEST(a_limit_of_version_1) {
    dmi_policy policy = fresh();
    _dmi_fake_file_set("/proc/self/cgroup",
                       "9:name=systemd:/x\n4:cpu,memory:/jobs/one\n3:cpuset:/y\n0::/\n");
    _dmi_fake_file_set(
        "/proc/self/mountinfo",
        "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n"
        "35 31 0:32 / /cg/my\\040memory rw - cgroup cgroup rw,cpu,memory\n" MOUNT_V2);
    _dmi_fake_file_set("/cg/my memory/jobs/one/memory.limit_in_bytes", "9223372036854771712\n");
    _dmi_fake_file_set("/cg/my memory/jobs/one/memory.usage_in_bytes", "950\n");
    CHECK(!high(&policy));
    CHECK_EQ(_dmi_pressure_probe(), ENOTSUP); /* the largest number stands for none */
    _dmi_fake_file_set("/cg/my memory/jobs/memory.limit_in_bytes", "1000\n");
    _dmi_fake_file_set("/cg/my memory/jobs/memory.usage_in_bytes", "950\n");
    CHECK(high(&policy));
    CHECK_EQ(_dmi_pressure_probe(), 0);
    _dmi_fake_file_set("/cg/my memory/jobs/memory.usage_in_bytes", "90\n");
    CHECK(!high(&policy));
}

/* A container that sees its own group at the mount point, under the name the host gave it. */
TEST(a_mount_of_a_part) {
    dmi_policy policy = fresh();
    _dmi_fake_file_set("/proc/self/cgroup", "4:memory:/docker/abc/sub\n");
    _dmi_fake_file_set("/proc/self/mountinfo",
                       "32 31 0:29 /docker/abc " V1 " ro - cgroup cgroup rw,memory\n");
    _dmi_fake_file_set(V1 "/sub/memory.limit_in_bytes", "100");
    _dmi_fake_file_set(V1 "/sub/memory.usage_in_bytes", "100");
    CHECK(high(&policy));
    /* What is mounted there is somebody else's now: /docker/ab is not above /docker/abc. */
    _dmi_fake_file_set("/proc/self/mountinfo",
                       "32 31 0:29 /docker/ab " V1 " ro - cgroup cgroup rw,memory\n");
    _dmi_pressure_set_root(NULL);
    CHECK(!high(&policy));
}

TEST(a_cgroup_namespace) {
    dmi_policy policy = fresh();
    _dmi_fake_file_set("/proc/self/cgroup", "0::/\n");
    _dmi_fake_file_set("/proc/self/mountinfo", MOUNT_V2);
    _dmi_fake_file_set(V2 "/memory.max", "100\n");
    _dmi_fake_file_set(V2 "/memory.current", "95\n");
    CHECK(high(&policy));
    /* Outside of the namespace: the mount's groups are not around us. */
    _dmi_fake_file_set("/proc/self/cgroup", "0::/../elsewhere\n");
    CHECK(!high(&policy));
    /* The mount is from above the namespace. */
    _dmi_fake_file_set("/proc/self/cgroup", "0::/\n");
    _dmi_fake_file_set("/proc/self/mountinfo", "41 31 0:38 /.. " V2 " rw - cgroup2 cgroup2 rw\n");
    CHECK(high(&policy));
}

TEST(the_process_moves) {
    dmi_policy policy = fresh();
    _dmi_fake_file_set("/proc/self/cgroup", "0::/small\n");
    _dmi_fake_file_set("/proc/self/mountinfo", MOUNT_V2);
    _dmi_fake_file_set(V2 "/small/memory.max", "100\n");
    _dmi_fake_file_set(V2 "/small/memory.current", "99\n");
    CHECK(high(&policy));
    _dmi_fake_file_set("/proc/self/cgroup", "0::/wide\n");
    CHECK(!high(&policy));
    _dmi_fake_file_set("/proc/self/cgroup", NULL);
    CHECK(!high(&policy));
    _dmi_fake_file_set("/proc/self/cgroup", "0::/small\n");
    CHECK(high(&policy));
}

TEST(without_mountinfo_the_usual_places) {
    dmi_policy policy = fresh();
    _dmi_fake_file_set("/proc/self/cgroup", "4:memory:/a\n0::/b\n");
    _dmi_fake_file_set(V1 "/a/memory.limit_in_bytes", "100\n");
    _dmi_fake_file_set(V1 "/a/memory.usage_in_bytes", "91\n");
    CHECK(high(&policy));
    _dmi_fake_file_set(V1 "/a/memory.limit_in_bytes", NULL);
    CHECK(!high(&policy));
    _dmi_fake_file_set(V2 "/b/memory.max", "100\n");
    _dmi_fake_file_set(V2 "/b/memory.current", "91\n");
    CHECK(high(&policy));
}

TEST(garbage_in_the_cgroup_files) {
    static const char *const limits[] = {
        "", "\n", "maximum\n", "-1\n", "12x\n", "0x10\n", "99999999999999999999999\n"};
    for (size_t i = 0; i < sizeof limits / sizeof *limits; i++) {
        dmi_policy policy = fresh();
        _dmi_fake_file_set("/proc/self/cgroup", "0::/a\n");
        _dmi_fake_file_set("/proc/self/mountinfo", MOUNT_V2);
        _dmi_fake_file_set(V2 "/a/memory.current", "50\n");
        _dmi_fake_file_set(V2 "/a/memory.max", limits[i]);
        CHECK_EQ(_dmi_pressure_probe(), ENOTSUP);
        _dmi_fake_file_set(V2 "/a/memory.max", "50\n");
        CHECK(high(&policy));
        _dmi_fake_file_set(V2 "/a/memory.current", limits[i]);
        CHECK(!high(&policy));
    }
    static const char *const groups[] = {"0",         "0:",         "0::",  "::\n",
                                         "\n0::/a\n", "0:memory\n", "a b c"};
    static const char *const mounts[] = {"41 31", "41 31 0:38 / " V2 " rw",
                                         " - \n", "41 31 0:38 / " V2 " rw - cgroup2\n",
                                         "\n\n",  "41 31 0:38 / " V2 " rw - cgroup2 x"};
    for (size_t i = 0; i < sizeof groups / sizeof *groups; i++)
        for (size_t j = 0; j < sizeof mounts / sizeof *mounts; j++) {
            dmi_policy policy = fresh();
            _dmi_fake_file_set("/proc/self/cgroup", groups[i]);
            _dmi_fake_file_set("/proc/self/mountinfo", mounts[j]);
            CHECK_EQ(_dmi_pressure_probe(), ENOTSUP);
            CHECK(!high(&policy));
        }
}

TEST(a_limit_of_nothing) {
    dmi_policy policy = fresh();
    _dmi_fake_file_set("/proc/self/cgroup", "0::/a\n");
    _dmi_fake_file_set("/proc/self/mountinfo", MOUNT_V2);
    _dmi_fake_file_set(V2 "/a/memory.high", "0\n");
    _dmi_fake_file_set(V2 "/a/memory.current", "0\n");
    CHECK(!high(&policy));
    _dmi_fake_file_set(V2 "/a/memory.current", "1\n");
    CHECK(high(&policy));
}

TEST(a_path_too_long_is_no_limit) {
    static char own[6000];
    dmi_policy policy = fresh();
    memcpy(own, "0::", 3);
    for (size_t i = 3; i + 2 < sizeof own; i++) own[i] = i % 40 == 3 ? '/' : 'x';
    own[sizeof own - 2] = '\n';
    _dmi_fake_file_set("/proc/self/cgroup", own);
    _dmi_fake_file_set("/proc/self/mountinfo", MOUNT_V2);
    CHECK(!high(&policy));
    CHECK_EQ(_dmi_pressure_probe(), ENOTSUP);
}

TEST(once_a_second) {
    dmi_policy policy = fresh();
    psi("some avg10=0.00 avg60=0.00\n");
    CHECK(!high(&policy));
    uint64_t reads = _dmi_fake_file_reads();
    CHECK(reads > 0);
    psi("some avg10=50.00 avg60=0.00\n");
    _dmi_fake_clock_advance(SECOND - 1);
    for (int i = 0; i < 100; i++) CHECK(!_dmi_pressure_high(&policy));
    CHECK_EQ(_dmi_pressure_probe(), 0);
    CHECK_EQ(_dmi_fake_file_reads(), reads);
    _dmi_fake_clock_advance(1);
    CHECK(_dmi_pressure_high(&policy));
    CHECK(_dmi_fake_file_reads() > reads);
}

TEST(everything_below_the_root) {
    dmi_policy policy = fresh();
    psi("some avg10=99.00 avg60=0.00\n");
    _dmi_pressure_set_root("/elsewhere");
    CHECK(!high(&policy));
    _dmi_fake_file_set("/elsewhere/proc/pressure/memory", "some avg10=20.00 avg60=0.00\n");
    CHECK(high(&policy));
}

/* ---- a heap ----------------------------------------------------------------------------------------- */

static uint64_t committed(void *heap) {
    dmi_stats stats = {.size = sizeof stats};
    REQUIRE_EQ(dmi_heap_stats(heap, &stats, 0), 0);
    return stats.committed;
}

TEST(a_heap_keeps_and_releases) {
    enum { BLOCKS = 4096, SIZE = 1024 };
    static void *blocks[BLOCKS];
    dmi_policy policy = fresh();
    dmi_heap_options options = {
        .size = sizeof options, .policy = &policy, .flags = DMI_HEAP_MANUAL_CLOCK};
    errno = 0;
    CHECK(!dmi_heap_create(&options));
    CHECK_EQ(errno, ENOTSUP);
    _dmi_fake_clock_advance(SECOND);
    psi("some avg10=0.00 avg60=0.00\n");
    void *heap = dmi_heap_create(&options);
    REQUIRE(heap);
    for (size_t i = 0; i < BLOCKS; i++) REQUIRE((blocks[i] = dmi_heap_malloc(heap, SIZE)));
    for (size_t i = 0; i < BLOCKS; i++) dmi_free(blocks[i]);
    uint64_t kept = committed(heap);
    CHECK(kept >= (uint64_t)BLOCKS * SIZE);
    CHECK_EQ(dmi_heap_advance(heap, 3600), 0);
    CHECK_EQ(committed(heap), kept);
    psi("some avg10=50.00 avg60=0.00\n");
    CHECK_EQ(dmi_heap_advance(heap, 10), 0); /* the files are read by the OS's clock */
    CHECK_EQ(committed(heap), kept);
    _dmi_fake_clock_advance(SECOND);
    CHECK_EQ(dmi_heap_advance(heap, 10), 0);
    CHECK(committed(heap) < kept / 8);
    CHECK_EQ(dmi_heap_destroy(heap), 0);
}

TEST(a_live_heap_takes_the_policy_where_it_works) {
    dmi_policy policy = fresh();
    dmi_heap_options options = {.size = sizeof options, .flags = DMI_HEAP_MANUAL_CLOCK};
    void *heap = dmi_heap_create(&options);
    REQUIRE(heap);
    errno = 0;
    CHECK_EQ(dmi_heap_set_policy(heap, &policy), -1);
    CHECK_EQ(errno, ENOTSUP);
    _dmi_fake_clock_advance(SECOND);
    psi("some avg10=0.00 avg60=0.00\n");
    CHECK_EQ(dmi_heap_set_policy(heap, &policy), 0);
    dmi_heap_info info = {.size = sizeof info};
    CHECK_EQ(dmi_heap_get_info(heap, &info), 0);
    CHECK_EQ(info.policy.when, DMI_WHEN_PRESSURE);
    CHECK_EQ(dmi_heap_destroy(heap), 0);
}
