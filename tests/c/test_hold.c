/* test_hold.c - whoever holds a heap keeps it; others may not destroy it, and are told who it is. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "heaps.h"

static void *heap_of_this_test(void) {
    void *heap = dmi_heap_create(NULL);
    ENSURE(heap != NULL);
    return heap;
}

TEST(a_held_heap_is_not_destroyed) {
    void *heap = heap_of_this_test();
    void *block = dmi_heap_malloc(heap, 100);
    CHECK_EQ(dmi_heap_hold(heap, "reader"), 0);
    CHECK_EQ(dmi_heap_hold(heap, "reader"), 0);
    CHECK_EQ(dmi_heap_hold(heap, "writer"), 0);
    CHECK(dmi_heap_destroy(heap) == -1 && errno == EBUSY);
    CHECK_EQ(dmi_heap_unhold(heap, "reader"), 0);
    CHECK_EQ(dmi_heap_unhold(heap, "writer"), 0);
    CHECK(dmi_heap_destroy(heap) == -1 && errno == EBUSY);
    CHECK_EQ(dmi_heap_valid(heap), 1);
    memset(block, 1, 100);
    CHECK_EQ(dmi_heap_unhold(heap, "reader"), 0);
    CHECK_EQ(dmi_heap_destroy(heap), 0);
    CHECK_EQ(dmi_heap_valid(heap), 0);
}

TEST(holders_are_listed_by_name_and_number) {
    void *heap = heap_of_this_test();
    char who[48];
    uint64_t holds = 99;
    CHECK(dmi_heap_holder(heap, 0, who, sizeof who, &holds) == -1 && errno == ENOENT);
    CHECK_EQ(holds, 99);
    CHECK_EQ(dmi_heap_hold(heap, "first"), 0);
    CHECK_EQ(dmi_heap_hold(heap, "second"), 0);
    CHECK_EQ(dmi_heap_hold(heap, "third"), 0);
    CHECK_EQ(dmi_heap_hold(heap, "third"), 0);
    CHECK_EQ(dmi_heap_unhold(heap, "second"), 0);
    CHECK_EQ(dmi_heap_holder(heap, 0, who, sizeof who, &holds), 0);
    CHECK(strcmp(who, "first") == 0 && holds == 1);
    CHECK_EQ(dmi_heap_holder(heap, 1, who, sizeof who, &holds), 0);
    CHECK(strcmp(who, "third") == 0 && holds == 2);
    CHECK_EQ(dmi_heap_holder(heap, 1, who, 4, NULL), 0); /* cut to size */
    CHECK(strcmp(who, "thi") == 0);
    CHECK_EQ(dmi_heap_holder(heap, 1, NULL, 0, NULL), 0);
    CHECK(dmi_heap_holder(heap, 2, who, sizeof who, &holds) == -1 && errno == ENOENT);
    CHECK_EQ(dmi_heap_destroy_force(heap), 0);
}

TEST(wrong_use_is_refused) {
    void *heap = heap_of_this_test();
    CHECK(dmi_heap_hold(heap, NULL) == -1 && errno == EINVAL);
    CHECK(dmi_heap_hold(heap, "") == -1 && errno == EINVAL);
    CHECK(dmi_heap_unhold(heap, "nobody") == -1 && errno == ENOENT);
    CHECK_EQ(dmi_heap_hold(heap, "me"), 0);
    CHECK(dmi_heap_unhold(heap, "you") == -1 && errno == ENOENT);
    CHECK_EQ(dmi_heap_destroy_force(heap), 0);
    CHECK(dmi_heap_unhold(heap, "me") == -1 && errno == EINVAL); /* gone by force */
    CHECK(dmi_heap_hold(heap, "me") == -1 && errno == EINVAL);
    CHECK(dmi_heap_holder(heap, 0, NULL, 0, NULL) == -1 && errno == EINVAL);
    CHECK(dmi_heap_destroy_force(heap) == -1 && errno == EINVAL);
    CHECK(dmi_heap_destroy_force(dmi_heap_default()) == -1 && errno == EPERM);
}

TEST(a_heap_in_the_place_of_one_destroyed_by_force_is_held_by_nobody) {
    for (int i = 0; i < 200; i++) {
        void *heap = heap_of_this_test();
        CHECK(dmi_heap_holder(heap, 0, NULL, 0, NULL) == -1 && errno == ENOENT);
        CHECK_EQ(dmi_heap_hold(heap, "me"), 0);
        CHECK_EQ(dmi_heap_destroy_force(heap), 0);
    }
}

TEST(no_number_of_holders_is_too_many) {
    void *heap = heap_of_this_test();
    char name[64], who[64];
    uint64_t holds, all = 0;
    for (int i = 0; i < 40; i++) {
        /* Names that are cut at 47 bytes are still names of their own up to there. */
        snprintf(name, sizeof name, "%02d-a-name-that-is-longer-than-any-name-may-be-here", i);
        CHECK_EQ(dmi_heap_hold(heap, name), 0);
    }
    size_t n = 0;
    while (dmi_heap_holder(heap, n, who, sizeof who, &holds) == 0) {
        CHECK_EQ(strlen(who), n == DMI_HEAP_HOLDERS - 1 ? strlen("others") : 47);
        all += holds;
        n++;
    }
    CHECK_EQ(n, DMI_HEAP_HOLDERS);
    CHECK_EQ(all, 40);
    for (int i = 39; i >= 0; i--) {
        CHECK(dmi_heap_destroy(heap) == -1 && errno == EBUSY);
        snprintf(name, sizeof name, "%02d-a-name-that-is-longer-than-any-name-may-be-here", i);
        CHECK_EQ(dmi_heap_unhold(heap, name), 0);
    }
    CHECK_EQ(dmi_heap_destroy(heap), 0);
}

static void hold_and_let_go(void *heap) {
    for (int i = 0; i < 20000; i++) {
        CHECK_EQ(dmi_heap_hold(heap, i % 2 ? "odd" : "even"), 0);
        CHECK_EQ(dmi_heap_unhold(heap, i % 2 ? "odd" : "even"), 0);
    }
}

TEST(holds_of_many_threads_add_up) {
    void *heap = heap_of_this_test();
    test_thread *threads[4];
    CHECK_EQ(dmi_heap_hold(heap, "even"), 0);
    for (int i = 0; i < 4; i++) threads[i] = test_thread_start(hold_and_let_go, heap);
    for (int i = 0; i < 1000; i++) CHECK(dmi_heap_destroy(heap) == -1 && errno == EBUSY);
    for (int i = 0; i < 4; i++) test_thread_join(threads[i]);
    uint64_t holds = 0;
    CHECK_EQ(dmi_heap_holder(heap, 0, NULL, 0, &holds), 0);
    CHECK_EQ(holds, 1);
    CHECK_EQ(dmi_heap_unhold(heap, "even"), 0);
    CHECK_EQ(dmi_heap_destroy(heap), 0);
}
