/* test_address.c - the tables of an address space, over a made-up one and where the OS has none. */
#include <dmi/dmi.h>
#include <errno.h>
#include <string.h>

#include "os/fake.h"
#include "test.h"

enum { PID = 77, END = 0x7fff0000 };

/* One of each kind; the sizes are powers of two, so that every sum tells what went into it. */
static const dmi_region space[] = {
    {0x0, 0x10000, 0, DMI_USAGE_FREE, DMI_MEM_FREE, 0, 0, ""},
    {0x10000, 0x1000, 0x10000, DMI_USAGE_IMAGE, DMI_MEM_COMMIT, DMI_MEM_IMAGE, 0x20, "a.exe"},
    {0x11000, 0x2000, 0x10000, DMI_USAGE_IMAGE, DMI_MEM_RESERVE, DMI_MEM_IMAGE, 0, "a.exe"},
    {0x13000, 0x4000, 0x13000, DMI_USAGE_MAPPED_FILE, DMI_MEM_COMMIT, DMI_MEM_MAPPED, 2, "b"},
    {0x17000, 0x8000, 0x17000, DMI_USAGE_STACK, DMI_MEM_RESERVE, DMI_MEM_PRIVATE, 0, ""},
    {0x1f000, 0x20000, 0x1f000, DMI_USAGE_DMI, DMI_MEM_COMMIT, DMI_MEM_PRIVATE, 4, ""},
    {0x3f000, 0x40000, 0x3f000, DMI_USAGE_HEAP, DMI_MEM_COMMIT, DMI_MEM_PRIVATE, 4, ""},
    {0x7f000, 0x80000, 0x7f000, 99, DMI_MEM_RESERVE, DMI_MEM_PRIVATE, 0, ""}, /* a later kind */
    {0xff000, END - 0xff000, 0, DMI_USAGE_FREE, DMI_MEM_FREE, 0, 0, ""},
};
enum { REGIONS = sizeof space / sizeof *space };

static void use_fake(void) {
    _dmi_fake_setup(_dmi_os_native.page_size(), 0);
    _dmi_fake_regions_set(PID, space, REGIONS, END);
    _dmi_os_use(&_dmi_fake_backend);
}

TEST(every_region_counts_once_in_each_table) {
    use_fake();
    const uint64_t pids[] = {0, PID};
    for (size_t i = 0; i < 2; i++) {
        dmi_address_tables t = {.size = sizeof t};
        REQUIRE_EQ(dmi_address_summary(pids[i], &t), 0);
        CHECK_EQ(t.size, sizeof t);
        CHECK_EQ(t.regions, REGIONS);
        CHECK_EQ(t.total, END);
        CHECK_EQ(t.committed, 0x1000 + 0x4000 + 0x20000 + 0x40000);
        CHECK_EQ(t.reserved, 0x2000 + 0x8000 + 0x80000);
        CHECK_EQ(t.image, 0x1000 + 0x2000);
        CHECK_EQ(t.mapped, 0x4000);
        CHECK_EQ(t.private_, 0x8000 + 0x20000 + 0x40000 + 0x80000);
        CHECK_EQ(t.usage[DMI_USAGE_IMAGE], 0x3000);
        CHECK_EQ(t.usage[DMI_USAGE_MAPPED_FILE], 0x4000);
        CHECK_EQ(t.usage[DMI_USAGE_STACK], 0x8000);
        CHECK_EQ(t.usage[DMI_USAGE_DMI], 0x20000);
        CHECK_EQ(t.usage[DMI_USAGE_HEAP], 0x40000);
        CHECK_EQ(t.usage[DMI_USAGE_OTHER], 0x80000);
        CHECK_EQ(t.usage[DMI_USAGE_FREE], t.free);
        CHECK_EQ(t.free + t.committed + t.reserved, t.total);
        CHECK_EQ(t.free + t.image + t.mapped + t.private_, t.total);
    }
    _dmi_os_use(&_dmi_os_native);
}

TEST(an_array_that_is_too_short_is_filled_and_told) {
    use_fake();
    dmi_region out[REGIONS + 1];
    size_t count = 0;
    uint64_t total = 0;
    memset(out, 0x5a, sizeof out);
    REQUIRE_EQ(dmi_address_regions(PID, out, 3, &count, &total), 0);
    CHECK_EQ(count, REGIONS);
    CHECK_EQ(total, END);
    CHECK(memcmp(out, space, 3 * sizeof *out) == 0);
    CHECK_EQ((unsigned char)out[3].name[0], 0x5a);
    REQUIRE_EQ(dmi_address_regions(PID, out, REGIONS + 1, &count, NULL), 0);
    CHECK(memcmp(out, space, sizeof space) == 0);
    CHECK_EQ((unsigned char)out[REGIONS].name[0], 0x5a);
    REQUIRE_EQ(dmi_address_regions(PID, NULL, 100, &count, NULL), 0);
    CHECK_EQ(count, REGIONS);
    REQUIRE_EQ(dmi_address_regions(PID, NULL, 0, NULL, NULL), 0);
    _dmi_os_use(&_dmi_os_native);
}

TEST(what_cannot_be_told_is_an_error_and_changes_nothing) {
    use_fake();
    dmi_address_tables t = {.size = sizeof t, .total = 5};
    size_t count = 6;
    errno = 0;
    CHECK_EQ(dmi_address_summary(PID + 1, &t), -1);
    CHECK_EQ(errno, ESRCH);
    CHECK_EQ(t.total, 5);
    errno = 0;
    CHECK_EQ(dmi_address_regions(PID + 1, NULL, 0, &count, NULL), -1);
    CHECK_EQ(errno, ESRCH);
    CHECK_EQ(count, 6);
    errno = 0;
    t.size = sizeof t - 1;
    CHECK_EQ(dmi_address_summary(PID, &t), -1);
    CHECK_EQ(errno, EINVAL);
    CHECK_EQ(dmi_address_summary(PID, NULL), -1);
    /* A later version's struct is filled as far as this one knows. */
    struct {
        dmi_address_tables known;
        uint64_t later;
    } longer = {.known.size = sizeof longer, .later = 9};
    CHECK_EQ(dmi_address_summary(PID, &longer.known), 0);
    CHECK_EQ(longer.known.size, sizeof longer.known);
    CHECK_EQ(longer.later, 9);
    _dmi_os_use(&_dmi_os_native);
}

/* test_os_windows.c has the other half. */
TEST(a_system_that_has_files_for_it_says_so) {
    dmi_address_tables t = {.size = sizeof t};
    errno = 0;
    int result = dmi_address_summary(0, &t);
    if (strcmp(_dmi_os_native.name, "windows") == 0) {
        CHECK_EQ(result, 0);
    } else {
        CHECK_EQ(result, -1);
        CHECK_EQ(errno, ENOSYS);
    }
}
