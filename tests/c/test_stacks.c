/* test_stacks.c - the tree of stacks: what is entered comes back, once each, from any number of threads; and what finds
 * no room is counted. */
#include "profile/stacks.h"
#include "test.h"

enum { DEPTH = 12 };

static uint32_t enter_as(dmi_stack_kind kind, const uint64_t *innermost_first, size_t n) {
    uint32_t node = 0;
    for (size_t i = n; i-- > 0;) {
        dmi_frame frame = {.key = innermost_first[i]};
        node = _dmi_stacks_enter(node, &frame, kind);
        if (node == 0) break;
    }
    return _dmi_stacks_number(node, kind);
}

static uint32_t enter(const uint64_t *innermost_first, size_t n) {
    return enter_as(DMI_STACK_WHOLE, innermost_first, n);
}

static void holds(uint32_t number, const uint64_t *innermost_first, size_t n) {
    const dmi_stack *stack = _dmi_stacks_get(number);
    REQUIRE(stack != NULL);
    uint32_t node = stack->node, frame;
    size_t i = 0;
    for (; _dmi_stacks_walk(&node, &frame); i++) {
        uint64_t key;
        dmi_frame_text text;
        REQUIRE(i < n && _dmi_frames_get(frame, &key, &text));
        CHECK_EQ(key, innermost_first[i]);
    }
    CHECK_EQ(i, n);
    CHECK_EQ(node, 0);
}

TEST(a_stack_has_one_number_and_its_frames_come_back) {
    REQUIRE_EQ(_dmi_stacks_setup(), 0);
    const uint64_t one[] = {11, 12, 13}, other[] = {21, 12, 13}, part[] = {12, 13},
                   turned[] = {13, 12};
    uint32_t first = enter(one, 3);
    CHECK(first != 0);
    CHECK_EQ(enter(one, 3), first);
    uint32_t numbers[] = {first, enter(other, 3), enter(part, 2), enter(turned, 2)};
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < i; k++) CHECK(numbers[i] != numbers[k]);
    holds(numbers[0], one, 3);
    holds(numbers[1], other, 3);
    holds(numbers[2], part, 2);
    holds(numbers[3], turned, 2);
    CHECK(_dmi_stacks_get(0) == NULL);
    CHECK(_dmi_stacks_get(UINT32_MAX >> 1) == NULL);
}

static uint32_t of_thread[4][1000];
static void enter_all(void *argument) {
    uint32_t *numbers = argument;
    for (uint64_t i = 0; i < 1000; i++) {
        uint64_t keys[DEPTH];
        for (uint64_t k = 0; k < DEPTH; k++) keys[k] = 1000 + k * 16 + (i >> k) % 8;
        numbers[i] = enter(keys, DEPTH);
    }
}

TEST(threads_that_enter_the_same_stacks_get_the_same_numbers) {
    REQUIRE_EQ(_dmi_stacks_setup(), 0);
    test_thread *threads[4];
    for (int i = 0; i < 4; i++) threads[i] = test_thread_start(enter_all, of_thread[i]);
    for (int i = 0; i < 4; i++) test_thread_join(threads[i]);
    for (uint64_t i = 0; i < 1000; i++) {
        uint64_t keys[DEPTH];
        for (uint64_t k = 0; k < DEPTH; k++) keys[k] = 1000 + k * 16 + (i >> k) % 8;
        for (int t = 1; t < 4; t++) CHECK_EQ(of_thread[t][i], of_thread[0][i]);
        holds(of_thread[0][i], keys, DEPTH);
    }
}

/* Ten thousand stacks of 60 frames that share all but their last two: 600,000 frames. */
TEST(what_is_shared_stands_there_once_and_what_finds_no_room_is_counted) {
    REQUIRE_EQ(_dmi_stacks_setup(), 0);
    _dmi_stacks_reset();
    uint64_t keys[60], lost = 0;
    for (uint64_t k = 0; k < 60; k++) keys[k] = 5000 + k;
    for (uint64_t i = 0; i < 10000; i++) {
        keys[0] = 6000 + i % 100;
        keys[1] = 7000 + i / 100;
        CHECK(enter(keys, 60) != 0);
    }
    for (uint64_t i = 0; i < 100000; i++) {
        keys[0] = 100000 + i % 1000;
        keys[1] = 200000 + i / 1000;
        lost += enter(keys, 60) == 0;
    }
    CHECK(lost > 10000 && lost < 100000);
    CHECK_EQ(_dmi_stacks_lost(), 0); /* whoever asked may leave frames out */
    for (int less = DMI_STACK_SHORT; less >= DMI_STACK_LINE; less--) {
        dmi_stack_kind kind = (dmi_stack_kind)less;
        for (uint64_t i = 0; i < 100; i++) {
            keys[0] = 300000 + i + 1000 * kind;
            holds(enter_as(kind, keys, 8), keys, 8);
        }
        CHECK_EQ(_dmi_stacks_lost(), 0);
        _dmi_stacks_reset();
        lost = 0;
        for (uint64_t i = 0; i < 100000; i++) {
            keys[0] = 400000 + i;
            lost += enter_as(kind, keys, 8) == 0;
        }
        CHECK(lost > 0);
        CHECK_EQ(_dmi_stacks_lost(), kind == DMI_STACK_LINE ? lost : 0);
    }
    keys[0] = 6000;
    keys[1] = 7000;
    holds(enter(keys, 60), keys, 60); /* those that are there still are */
    CHECK(_dmi_stacks_metadata() < (size_t)7 << 19);
}
