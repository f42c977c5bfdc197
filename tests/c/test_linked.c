/* test_linked.c - tables of lists, found by their contents. */
#include "test.h"

#include "floors.h"
#include "foreign/linked.h"

#include <string.h>

#define BASE UINT64_C(0x7f0000001000)
#define WORDS 512

static uint64_t words[WORDS];

static uint64_t address_of(size_t i) { return BASE + 8 * i; }

/* Nothing that looks like a list or a page. */
static void fill(void) {
    for (size_t i = 0; i < WORDS; i++) words[i] = 3 * i + 1;
}

static void put_empty(size_t i) { words[i] = words[i + 1] = address_of(i) - 16; }

TEST(a_table_is_as_long_as_its_empty_lists) {
    fill();
    for (size_t i = 10; i < 10 + 2 * 20; i += 2) put_empty(i);
    dmi_linked found[4];
    REQUIRE_EQ(_dmi_linked_find(words, WORDS, BASE, 20, 0, found, 4), 1);
    CHECK_EQ(found[0].first, address_of(10));
    CHECK_EQ(found[0].last, address_of(48));
    CHECK_EQ(found[0].pairs, 20);
    CHECK_EQ(_dmi_linked_find(words, WORDS, BASE, 21, 0, found, 4), 0);
    /* One word that differs makes two tables of it, or one with a hole. */
    words[20] += 16;
    CHECK_EQ(_dmi_linked_find(words, WORDS, BASE, 6, 0, found, 4), 1);
    CHECK_EQ(found[0].pairs, 14);
    CHECK_EQ(_dmi_linked_find(words, WORDS, BASE, 5, 0, found, 4), 2);
    CHECK_EQ(_dmi_linked_find(words, WORDS, BASE, 6, 1, found, 4), 1);
    CHECK_EQ(found[0].first, address_of(10));
    CHECK_EQ(found[0].pairs, 19);
}

TEST(only_so_many_lists_between_two_may_be_in_use) {
    for (size_t apart = 1; apart < 12; apart++)
        for (uint64_t holes = 0; holes < 12; holes++) {
            fill();
            put_empty(100);
            put_empty(100 + 2 * apart);
            dmi_linked found[2];
            bool joined = apart <= holes + 1;
            CHECK_EQ(_dmi_linked_find(words, WORDS, BASE, 2, holes, found, 2), joined);
            CHECK_EQ(_dmi_linked_find(words, WORDS, BASE, 1, holes, found, 2), joined ? 1 : 2);
        }
}

TEST(a_table_at_either_end_is_found) {
    fill();
    for (size_t i = 0; i < 16; i += 2) put_empty(i);
    for (size_t i = WORDS - 16; i < WORDS; i += 2) put_empty(i);
    dmi_linked found[2];
    REQUIRE_EQ(_dmi_linked_find(words, WORDS, BASE, 8, 3, found, 2), 2);
    CHECK_EQ(found[0].first, BASE);
    CHECK_EQ(found[1].last, address_of(WORDS - 2));
    /* More than there is room for are counted all the same. */
    memset(found, 0, sizeof found);
    CHECK_EQ(_dmi_linked_find(words, WORDS, BASE, 8, 3, found, 1), 2);
    CHECK_EQ(found[1].first, 0);
    CHECK_EQ(_dmi_linked_find(words, 1, BASE, 1, 3, found, 2), 0);
    CHECK_EQ(_dmi_linked_find(words, 0, BASE, 1, 3, found, 2), 0);
}

TEST(lists_of_pages_are_found_also_where_none_is_empty) {
    fill();
    for (size_t i = 200; i < 260; i++) words[i] = UINT64_C(0x7fff00000000) + 4096 * i;
    put_empty(230); /* its second word leads 24 before itself */
    dmi_linked found[2];
    REQUIRE_EQ(_dmi_linked_pages(words, WORDS, BASE, 60, found, 2), 1);
    CHECK_EQ(found[0].first, address_of(200));
    CHECK_EQ(found[0].last, address_of(259));
    CHECK_EQ(found[0].pairs, 60);
    CHECK_EQ(_dmi_linked_pages(words, WORDS, BASE, 61, found, 2), 0);
    /* Neither nothing nor what no process can have is a page. */
    words[220] = 0;
    words[240] = UINT64_C(1) << 48;
    CHECK_EQ(_dmi_linked_pages(words, WORDS, BASE, 19, found, 2), 3);
    CHECK_EQ(_dmi_linked_pages(words, WORDS, BASE, 20, found, 0), 1);
    CHECK_EQ(_dmi_linked_pages(words, 200, BASE, 1, found, 2), 0);
}
