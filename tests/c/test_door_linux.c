/* test_door.c - doors: a program's other allocator gets back what was its, and threads choose their heap. */
#include <dmi/door.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "heaps.h"

/* The other allocator counts what it is asked. */
static struct {
    size_t frees, reallocs;
    void *context;
} asked;
static bool refuse;

static void other_free(void *context, void *block) {
    asked.frees++;
    asked.context = context;
    free(block);
}
static void *other_realloc(void *context, void *block, size_t size) {
    asked.reallocs++;
    asked.context = context;
    return refuse ? NULL : realloc(block, size);
}

static int token;
static dmi_door door = {
    .size = sizeof door, .other = &token, .other_realloc = other_realloc, .other_free = other_free};

static void *heap_of_this_test(void) {
    void *heap = dmi_heap_create(NULL);
    ENSURE(heap != NULL);
    ENSURE_EQ(dmi_door_set(heap), 0);
    memset(&asked, 0, sizeof asked);
    return heap;
}
static void leave(void *heap) {
    ENSURE_EQ(dmi_door_set(NULL), 0);
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
}
static void *heap_of(const void *block) {
    dmi_found found = {.size = sizeof found};
    return dmi_find(block, &found) == 0 ? found.heap : NULL;
}

TEST(without_a_heap_nothing_is_served) {
    errno = 0;
    CHECK(dmi_door_malloc(&door, 16) == NULL && errno == ENOMEM);
    CHECK(dmi_door_calloc(&door, 1, 16) == NULL && errno == ENOMEM);
    CHECK(dmi_door_calloc(&door, 1, (size_t)1 << 20) == NULL && errno == ENOMEM);
    CHECK(dmi_door_set((void *)(uintptr_t)12345) == -1 && errno == EINVAL);
    CHECK(dmi_door_heap() == NULL);
}

TEST(blocks_of_every_size_come_from_the_heap) {
    void *heap = heap_of_this_test();
    for (size_t size = 0; size < (size_t)40 << 20; size = size * 3 / 2 + 1) {
        unsigned char *block = dmi_door_malloc(&door, size);
        ENSURE(block != NULL && dmi_usable_size(block) >= size);
        CHECK(heap_of(block) == heap);
        memset(block, 0xa5, size);
        dmi_door_free(&door, block);
        block = dmi_door_calloc(&door, 1, size);
        ENSURE(block != NULL);
        for (size_t i = 0; i < size; i += size / 97 + 1) CHECK_EQ(block[i], 0);
        dmi_door_free(&door, block);
    }
    CHECK(dmi_door_calloc(&door, SIZE_MAX / 2, 3) == NULL);
    dmi_door_free(&door, NULL);
    CHECK_EQ(asked.frees, 0);
    CHECK_EQ(heaps_stats(heap).busy_blocks, 0);
    leave(heap);
}

TEST(blocks_of_the_other_allocator_go_back_to_it) {
    void *heap = heap_of_this_test();
    for (size_t size = 1; size < 300000; size = size * 2 + 1) {
        void *theirs = malloc(size);
        ENSURE(theirs != NULL);
        dmi_door_free(&door, theirs);
    }
    CHECK_EQ(asked.frees, 18);
    CHECK(asked.context == &token);
    CHECK_EQ(heaps_stats(heap).busy_blocks, 0);
    leave(heap);
}

TEST(a_block_of_the_other_allocator_moves_when_it_is_resized) {
    void *heap = heap_of_this_test();
    char *theirs = malloc(100);
    ENSURE(theirs != NULL);
    memset(theirs, 'x', 100);
    char *ours = dmi_door_realloc(&door, theirs, 5000);
    ENSURE(ours != NULL && heap_of(ours) == heap);
    for (int i = 0; i < 100; i++) CHECK_EQ(ours[i], 'x');
    CHECK_EQ(asked.reallocs, 1);
    CHECK_EQ(asked.frees, 1);
    /* When it cannot be resized it stays as it was. */
    theirs = malloc(64);
    ENSURE(theirs != NULL);
    refuse = true;
    CHECK(dmi_door_realloc(&door, theirs, 128) == NULL);
    refuse = false;
    CHECK_EQ(asked.frees, 1);
    free(theirs);
    dmi_door_free(&door, ours);
    leave(heap);
}

TEST(a_block_of_the_other_allocator_stays_there_without_memory) {
    memset(&asked, 0, sizeof asked);
    char *theirs = malloc(40);
    ENSURE(theirs != NULL);
    memcpy(theirs, "kept", 5);
    /* No heap is set: it is resized all the same. */
    char *still = dmi_door_realloc(&door, theirs, 80);
    ENSURE(still != NULL);
    CHECK(strcmp(still, "kept") == 0);
    CHECK_EQ(asked.frees, 0);
    free(still);
}

TEST(realloc_keeps_the_contents_and_the_heap) {
    void *heap = heap_of_this_test(), *second = dmi_heap_create(NULL);
    ENSURE(second != NULL);
    unsigned char *block = dmi_door_realloc(&door, NULL, 1);
    ENSURE(block != NULL);
    block[0] = 7;
    size_t have = 1;
    for (size_t size = 3; size < (size_t)8 << 20; size = size * 5 / 2) {
        (void)dmi_door_enter(size & 2 ? second : NULL); /* whichever was entered */
        block = dmi_door_realloc(&door, block, size);
        ENSURE(block != NULL && heap_of(block) == heap);
        for (size_t i = 0; i < have; i += have / 101 + 1) CHECK_EQ(block[i], (7 + i) % 251);
        for (size_t i = 0; i < size; i++) block[i] = (unsigned char)((7 + i) % 251);
        have = size;
    }
    (void)dmi_door_enter(NULL);
    block = dmi_door_realloc(&door, block, 10);
    for (size_t i = 0; i < 10; i++) CHECK_EQ(block[i], (7 + i) % 251);
    block = dmi_door_realloc(&door, block, 0);
    ENSURE(block != NULL);
    CHECK_EQ(block[0], 7);
    dmi_door_free(&door, block);
    CHECK_EQ(dmi_heap_destroy(second), 0);
    leave(heap);
}

/* Enough for its bucket to be active: then the fast path has a slot. */
static void use(void *heap) {
    void *blocks[40];
    for (int i = 0; i < 40; i++) {
        blocks[i] = dmi_door_malloc(&door, 48);
        ENSURE(blocks[i] && heap_of(blocks[i]) == heap);
    }
    for (int i = 0; i < 40; i++) dmi_door_free(&door, blocks[i]);
}

static void *thread_main(void *argument) {
    void **heaps = argument;
    CHECK(dmi_door_heap() == heaps[0]);
    use(heaps[0]);
    CHECK(dmi_door_enter(heaps[1]) == NULL);
    use(heaps[1]);
    return NULL;
}

TEST(each_thread_has_entered_its_own) {
    void *heap = heap_of_this_test();
    void *heaps[3] = {heap, dmi_heap_create(NULL), dmi_heap_create(NULL)};
    ENSURE(heaps[1] && heaps[2]);
    for (int round = 0; round < 5; round++) {
        CHECK(dmi_door_enter(heaps[2]) == NULL);
        use(heaps[2]);
        pthread_t thread;
        ENSURE_EQ(pthread_create(&thread, NULL, thread_main, heaps), 0);
        pthread_join(thread, NULL);
        use(heaps[2]);
        CHECK(dmi_door_enter(NULL) == heaps[2]);
        use(heap);
    }
    CHECK_EQ(heaps_stats(heaps[1]).busy_blocks, 0);
    CHECK_EQ(dmi_heap_destroy(heaps[1]), 0);
    CHECK_EQ(dmi_heap_destroy(heaps[2]), 0);
    leave(heap);
}

TEST(a_heap_that_is_gone_is_left) {
    void *heap = heap_of_this_test(), *gone = dmi_heap_create(NULL);
    ENSURE(gone != NULL);
    (void)dmi_door_enter(gone);
    use(gone);
    CHECK_EQ(dmi_heap_destroy(gone), 0);
    use(heap);
    CHECK(dmi_door_heap() == heap);
    (void)dmi_door_enter(NULL);
    leave(heap);
}

TEST(trimming_a_thread_that_sleeps_leaves_its_door_usable) {
    void *heap = heap_of_this_test();
    void *kept[200];
    for (int i = 0; i < 200; i++) ENSURE((kept[i] = dmi_door_malloc(&door, 500)) != NULL);
    CHECK_EQ(dmi_heap_trim(heap, NULL), 0);
    for (int i = 0; i < 200; i++) dmi_door_free(&door, kept[i]);
    use(heap);
    CHECK_EQ(heaps_stats(heap).busy_blocks, 0);
    leave(heap);
}
