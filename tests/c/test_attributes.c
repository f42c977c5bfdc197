/* test_attributes.c - names and huge page advice of reservations. */
#include "test.h"

#include "os/attributes.h"

#include <string.h>

#define SIZE ((size_t)1 << 20)

/* Addresses are numbers to the table: nothing lies there. */
static char *at(uintptr_t number) { return (char *)(number << 24); }

static void put(const void *address, size_t size, const char *name, bool huge) {
    _dmi_attributes_set(address, size, (dmi_attributes){name, huge});
}

/* Is everything of [address, address+size) known by that name, and nothing beside it? */
static void expect(const char *address, size_t size, const char *name, bool huge) {
    const size_t offsets[] = {0, size / 2, size - 1};
    for (size_t i = 0; i < 3; i++) {
        dmi_attributes found = _dmi_attributes_get(address + offsets[i]);
        CHECK_EQ(found.huge, huge);
        CHECK(name ? found.name && !strcmp(found.name, name) : !found.name);
    }
}

static void expect_none(const char *address) {
    dmi_attributes found = _dmi_attributes_get(address);
    CHECK(!found.name && !found.huge);
}

TEST(what_was_given_is_found_at_each_address) {
    put(at(5), SIZE, "five", false);
    put(at(3), SIZE, NULL, true);
    put(at(4), SIZE, "four", true);
    put(at(9), SIZE, NULL, false); /* nothing to remember */
    expect(at(5), SIZE, "five", false);
    expect(at(3), SIZE, NULL, true);
    expect(at(4), SIZE, "four", true);
    expect_none(at(9));
    expect_none(at(4) - 1);
    expect_none(at(4) + SIZE);
    expect_none(at(2));
    for (uintptr_t i = 3; i < 6; i++) _dmi_attributes_clear(at(i), SIZE);
    for (uintptr_t i = 3; i < 6; i++) expect_none(at(i));
    _dmi_attributes_clear(at(3), SIZE); /* it is gone already */
}

TEST(either_end_of_a_reservation_may_go) {
    put(at(5), 4 * SIZE, "five", false);
    _dmi_attributes_clear(at(5), SIZE);
    _dmi_attributes_clear(at(5) + 3 * SIZE, SIZE);
    expect_none(at(5) + SIZE - 1);
    expect(at(5) + SIZE, 2 * SIZE, "five", false);
    expect_none(at(5) + 3 * SIZE);
    /* A hole in the middle is not noted. */
    _dmi_attributes_clear(at(5) + SIZE + 4096, 4096);
    expect(at(5) + SIZE, 2 * SIZE, "five", false);
    _dmi_attributes_clear(at(5) + SIZE, 2 * SIZE);
    expect_none(at(5) + SIZE);
}

TEST(a_reservation_is_split_and_joined) {
    CHECK(_dmi_attributes_split(at(5), SIZE)); /* nothing is known of it, so nothing is to do */
    CHECK(_dmi_attributes_join(at(5), at(5) + SIZE));
    put(at(5), 4 * SIZE, "five", true);
    put(at(7), SIZE, "seven", true);
    CHECK(_dmi_attributes_split(at(5), SIZE));
    CHECK(_dmi_attributes_split(at(8), SIZE)); /* not known */
    expect(at(5), SIZE, "five", true);
    expect(at(5) + SIZE, 3 * SIZE, "five", true);
    _dmi_attributes_clear(at(5), SIZE); /* as a whole, beside the other */
    expect_none(at(5));
    expect(at(5) + SIZE, 3 * SIZE, "five", true);
    put(at(5), SIZE, "five", true);
    CHECK(_dmi_attributes_join(at(5), at(5) + SIZE));
    expect(at(5), 4 * SIZE, "five", true);
    CHECK(_dmi_attributes_join(at(5), at(5) + SIZE)); /* they are one already */
    /* What differs stays two. */
    CHECK(!_dmi_attributes_join(at(5), at(7)));
    CHECK(!_dmi_attributes_join(at(5), at(8)));
    CHECK(!_dmi_attributes_join(at(8), at(5)));
    CHECK(_dmi_attributes_join(at(8), at(9)));
    put(at(6), SIZE, "five", false);
    CHECK(!_dmi_attributes_join(at(5), at(6)));
    for (uintptr_t i = 5; i < 8; i++) _dmi_attributes_clear(at(i), 4 * SIZE);
    expect_none(at(5));
}

TEST(the_table_grows_and_keeps_its_order) {
    enum { COUNT = 5000 };
    uint64_t seed = 7;
    static uintptr_t order[COUNT];
    for (size_t i = 0; i < COUNT; i++) order[i] = i + 1;
    for (size_t i = COUNT; i-- > 1;) {
        size_t k = (size_t)(test_random(&seed) % (i + 1));
        uintptr_t other = order[i];
        order[i] = order[k];
        order[k] = other;
    }
    for (size_t i = 0; i < COUNT; i++) put(at(order[i]), 2 * SIZE, "many", order[i] % 2);
    for (size_t i = 0; i < COUNT; i++) expect(at(i + 1), 2 * SIZE, "many", (i + 1) % 2);
    for (size_t i = 0; i < COUNT; i += 3) CHECK(_dmi_attributes_split(at(i + 1), SIZE));
    for (size_t i = 0; i < COUNT; i++) {
        expect(at(i + 1), 2 * SIZE, "many", (i + 1) % 2);
        expect_none(at(i + 1) + 2 * SIZE);
    }
    for (size_t i = 0; i < COUNT; i++) {
        _dmi_attributes_clear(at(order[i]) + SIZE, SIZE);
        _dmi_attributes_clear(at(order[i]), SIZE);
    }
    for (size_t i = 0; i < COUNT; i++) expect_none(at(i + 1));
}

TEST(names_are_kept_up_to_a_number_and_a_length) {
    char name[100];
    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = 0;
    put(at(5), SIZE, name, true); /* too long */
    expect(at(5), SIZE, NULL, true);
    put(at(6), SIZE, "", true);
    expect(at(6), SIZE, NULL, true);
    for (uintptr_t i = 0; i < 100; i++) {
        memcpy(name, "name 00", sizeof "name 00");
        name[5] = (char)('0' + i / 10);
        name[6] = (char)('0' + i % 10);
        put(at(100 + i), SIZE, name, true);
    }
    expect(at(100), SIZE, "name 00", true);
    expect(at(199), SIZE, NULL, true); /* there is no place for so many */
    put(at(300), SIZE, "name 00", false);
    expect(at(300), SIZE, "name 00", false);
    _dmi_attributes_clear(at(5), SIZE);
    _dmi_attributes_clear(at(6), SIZE);
    _dmi_attributes_clear(at(300), SIZE);
    for (uintptr_t i = 0; i < 100; i++) _dmi_attributes_clear(at(100 + i), SIZE);
}
