/* test_watch.c - watched pages: the same places are handed out as without, in the same order; and who has a block is
 * known until it is freed. */
#include "heaps.h"

#include "block/watch.h"
#include "heap/alloc.h"
#include "heap/draw.h"
#include "os/probes.h"

#include <string.h>

#define SLOTS 3000
#define STEPS 60000

static void *slots[SLOTS];
static uintptr_t places[STEPS];
static uint32_t draw_late; /* in the midst of a run one page in so many is drawn; 0: none */

static uint64_t next(uint64_t *seed) {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

/* Where in its segment a block lies; which segment, by its number. */
static uintptr_t place_of(dmi_heap *heap, const void *block) {
    uintptr_t number = 0;
    for (dmi_segment *s = heap->space.segments; s; s = s->next, number++)
        if ((const char *)block >= s->base && (const char *)block < s->base + s->size)
            return (number << 40) + (uintptr_t)((const char *)block - s->base);
    return UINTPTR_MAX;
}

/* A random run; its blocks' places in order. In bursts, so that runs fill, empty, park and come back. */
static void play(void *handle, uint64_t seed, uintptr_t *out) {
    dmi_heap *heap = _dmi_heap_resolve(handle);
    memset(slots, 0, sizeof slots);
    for (size_t step = 0; step < STEPS; step++) {
        uint64_t r = next(&seed);
        size_t i = (r >> 32) % SLOTS;
        out[step] = 0;
        if (draw_late && step % 12000 == 10000) {
            _dmi_watch_begin(draw_late, 5);
            _dmi_draw_carved_pages();
            (void)heaps_check(handle);
        }
        bool shrinking = step / 7000 % 2;
        if (slots[i]) {
            dmi_heap_free(handle, slots[i]);
            slots[i] = NULL;
        } else if (!shrinking || r % 8 == 0) {
            slots[i] = dmi_heap_malloc(handle, r % 3 ? 16 + r % 9 * 24 : 16 + r % 6000);
            ENSURE(slots[i] != NULL);
            out[step] = place_of(heap, slots[i]);
        }
        if (step % 9000 == 8999) ENSURE_EQ(dmi_heap_advance(handle, 3), 0);
        if (step % 20000 == 0) (void)heaps_check(handle);
    }
    (void)heaps_check(handle);
    for (size_t i = 0; i < SLOTS; i++) dmi_heap_free(handle, slots[i]);
    ENSURE_EQ(dmi_heap_trim(handle, NULL), 0);
    ENSURE_EQ(heaps_check(handle).busy, 0);
}

TEST_EACH_PAGE(blocks_are_handed_out_at_the_places_where_they_would_be_without) {
    static uintptr_t watched[STEPS];
    static const char *const policies[] = {"never", "lazy", "lazy:how=decommit", "eager"};
    for (size_t p = 0; p < sizeof policies / sizeof *policies; p++) {
        for (uint32_t every = 1; every <= 3; every += 2) {
            void *plain = heaps_create(policies[p], 0);
            play(plain, 77 + p, places);
            ENSURE_EQ(dmi_heap_destroy(plain), 0);
            _dmi_watch_begin(every, 5);
            _dmi_watch_patience = UINT32_MAX; /* what sits out is not where it would be */
            void *heap = heaps_create(policies[p], 0);
            play(heap, 77 + p, watched);
            _dmi_watch_begin(0, 0);
            ENSURE_EQ(dmi_heap_destroy(heap), 0);
            for (size_t i = 0; i < STEPS; i++) ENSURE_EQ(watched[i], places[i]);
        }
    }
    ENSURE_EQ(_dmi_watch_count(), 0);
}

TEST_EACH_PAGE(pages_that_are_drawn_later_change_no_place_either) {
    static uintptr_t watched[STEPS];
    static const char *const policies[] = {"never", "lazy", "eager"};
    for (size_t p = 0; p < sizeof policies / sizeof *policies; p++) {
        void *plain = heaps_create(policies[p], 0);
        play(plain, 33 + p, places);
        ENSURE_EQ(dmi_heap_destroy(plain), 0);
        _dmi_watch_patience = UINT32_MAX;
        draw_late = 1 + (uint32_t)p % 2;
        void *heap = heaps_create(policies[p], 0);
        play(heap, 33 + p, watched);
        draw_late = 0;
        _dmi_watch_begin(0, 0);
        ENSURE_EQ(dmi_heap_destroy(heap), 0);
        for (size_t i = 0; i < STEPS; i++) ENSURE_EQ(watched[i], places[i]);
    }
    ENSURE_EQ(_dmi_watch_count(), 0);
}

static void hold(void *block, size_t size, const void *frame) {
    dmi_watch *watch = _dmi_watch_of(block);
    (void)size, (void)frame;
    if (watch) _dmi_watch_hold(watch, block, 7);
}
static void forget(const void *block) { (void)block; }

TEST_EACH_PAGE(of_a_page_that_is_drawn_later_every_free_block_is_seen_when_it_is_handed_out) {
    void *heap = heaps_create("never", 0), *kept[4000];
    for (size_t i = 0; i < 4000; i++) ENSURE((kept[i] = dmi_heap_malloc(heap, 64)) != NULL);
    for (size_t i = 0; i < 4000; i += 2) dmi_heap_free(heap, kept[i]);
    _dmi_watch_begin(1, 5);
    _dmi_draw_carved_pages();
    ENSURE(_dmi_watch_count() >= 4000 * 64 / 4096 - 1);
    (void)heaps_check(heap);
    static const dmi_observer observer = {hold, forget};
    atomic_store(&_dmi_observer, &observer);
    for (size_t i = 0; i < 4000; i += 2) ENSURE((kept[i] = dmi_heap_malloc(heap, 64)) != NULL);
    atomic_store(&_dmi_observer, NULL);
    for (size_t i = 0; i < 4000; i++) {
        dmi_watch *watch = _dmi_watch_of(kept[i]);
        if (!watch) continue; /* the free list's */
        uint32_t held = atomic_load(&watch->holder[_dmi_watch_index(watch, kept[i])]);
        ENSURE_EQ(held, i % 2 ? 0 : 7);
        dmi_heap_free(heap, kept[i]);
        kept[i] = NULL;
    }
    for (size_t i = 0; i < 4000; i++) dmi_heap_free(heap, kept[i]);
    _dmi_watch_begin(0, 0);
    ENSURE_EQ(heaps_check(heap).busy, 0);
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
}

static void fill_lists(void *heap, void **kept, size_t n) {
    for (size_t i = 0; i < n; i++) ENSURE((kept[i] = dmi_heap_malloc(heap, 64)) != NULL);
    for (size_t i = 0; i < n; i += 2) dmi_heap_free(heap, kept[i]); /* empty runs would go */
}

TEST_EACH_PAGE(an_agent_that_attaches_starts_the_sampler_and_one_that_leaves_stops_it) {
    static void *kept[30000];
    void *heap = heaps_create("never", 0);
    fill_lists(heap, kept, 30000);
    ENSURE(atomic_load(&_dmi_observer) == NULL);
    ENSURE_EQ(_dmi_watch_every(), 0);
    _dmi_os_probe_alloc_semaphore++; /* as the kernel does it */
    dmi_heap_free(heap, dmi_heap_malloc(heap, 64));
    ENSURE_EQ(_dmi_watch_every(), 0); /* a fast path does not look */
    ENSURE(dmi_heap_malloc(heap, 100000) != NULL);
    ENSURE(atomic_load(&_dmi_observer) != NULL);
    ENSURE(_dmi_watch_every() > 0);
    ENSURE(_dmi_watch_count() > 0 || PAGE > 4096);
    (void)heaps_check(heap);
    ENSURE_EQ(dmi_profile_write(NULL, NULL), -1); /* it is nobody's profile */
    ENSURE_EQ(dmi_profile_stop(), -1);
    /* A profile takes it over, and leaves it to the agent. */
    ENSURE_EQ(dmi_profile_start(NULL), 0);
    ENSURE_EQ(dmi_profile_start(NULL), -1);
    ENSURE_EQ(dmi_profile_stop(), 0);
    ENSURE(_dmi_watch_every() > 0);
    _dmi_os_probe_alloc_semaphore--;
    ENSURE(dmi_heap_malloc(heap, 100000) != NULL);
    ENSURE(atomic_load(&_dmi_observer) == NULL);
    ENSURE_EQ(_dmi_watch_every(), 0);
    _dmi_os_probe_free_semaphore = 1; /* either of them */
    fill_lists(heap, kept, 3000);
    ENSURE(dmi_heap_malloc(heap, 100000) != NULL);
    ENSURE(_dmi_watch_every() > 0);
    _dmi_os_probe_free_semaphore = 0;
    ENSURE(dmi_heap_malloc(heap, 100000) != NULL);
    ENSURE_EQ(_dmi_watch_every(), 0);
    ENSURE_EQ(dmi_heap_destroy_force(heap), 0);
}

static int count_blocks(void *argument, dmi_watch *watch) {
    *(size_t *)argument += watch->blocks;
    return 0;
}

TEST_EACH_PAGE(every_block_begins_on_one_page) {
    static const size_t sizes[] = {16, 48, 112, 1040, 3000, 5000, 30000};
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        void *heap = heaps_create("never", 0);
        for (int i = 0; i < 40; i++) ENSURE(dmi_heap_malloc(heap, sizes[k]));
        _dmi_watch_begin(1, 5);
        size_t n = 0, all = 0, known = 0;
        void *kept[4000];
        for (; n < 4000; n++) {
            kept[n] = dmi_heap_malloc(heap, sizes[k]);
            ENSURE(kept[n] != NULL);
            dmi_watch *watch = _dmi_watch_of(kept[n]);
            if (!watch) continue; /* carved before */
            ENSURE(_dmi_watch_index(watch, kept[n]) < watch->blocks);
            _dmi_watch_hold(watch, kept[n], (uint32_t)n + 1);
            known++;
        }
        ENSURE(known > 0 || PAGE > 4096);
        ENSURE_EQ(_dmi_watch_each(count_blocks, &all), 0);
        ENSURE(all >= known);
        for (size_t i = 0; i < n; i++) {
            dmi_watch *watch = _dmi_watch_of(kept[i]);
            if (!watch) continue;
            size_t index = _dmi_watch_index(watch, kept[i]);
            ENSURE_EQ(atomic_load(&watch->holder[index]), i + 1);
            dmi_heap_free(heap, kept[i]);
            ENSURE_EQ(atomic_load(&watch->holder[index]), 0);
        }
        _dmi_watch_begin(0, 0);
        ENSURE_EQ(dmi_heap_destroy(heap), 0);
    }
}

TEST_EACH_PAGE(a_page_that_is_hit_alone_lets_its_block_rest) {
    void *heap = heaps_create("never", 0);
    _dmi_watch_begin(1, 5);
    for (int i = 0; i < 440; i++) ENSURE(dmi_heap_malloc(heap, 48));
    /* As many blocks are free as a page has, and a few more: some sit out, and serve again when the others are gone. */
    void *last = NULL;
    size_t changes = 0;
    for (int i = 0; i < 20000; i++) {
        void *block = dmi_heap_malloc(heap, 48);
        changes += block != last;
        last = block;
        dmi_heap_free(heap, block);
    }
    ENSURE(changes > 3 && changes < 2000);
    (void)heaps_check(heap);
    void *more[500];
    for (size_t i = 0; i < 500; i++) {
        more[i] = dmi_heap_malloc(heap, 48);
        ENSURE(more[i] != NULL);
        for (size_t k = 0; k < i; k++) ENSURE(more[i] != more[k]);
    }
    (void)heaps_check(heap);
    _dmi_watch_begin(0, 0);
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
}

TEST_EACH_PAGE(half_of_the_pages_can_be_given_up_at_any_time) {
    void *heap = heaps_create("lazy", 0);
    _dmi_watch_begin(1, 5);
    void *kept[4000];
    for (size_t i = 0; i < 4000; i++) ENSURE((kept[i] = dmi_heap_malloc(heap, 256)) != NULL);
    for (size_t i = 0; i < 4000; i += 2) dmi_heap_free(heap, kept[i]);
    size_t before = _dmi_watch_count();
    _dmi_watch_thin();
    size_t after = _dmi_watch_count();
    ENSURE(before > 200 && after > before / 4 && after < before - before / 4);
    (void)heaps_check(heap);
    for (size_t i = 0; i < 4000; i += 2) ENSURE((kept[i] = dmi_heap_malloc(heap, 256)) != NULL);
    (void)heaps_check(heap);
    for (size_t i = 0; i < 4000; i++) dmi_heap_free(heap, kept[i]);
    _dmi_watch_begin(0, 0);
    ENSURE_EQ(dmi_heap_trim(heap, NULL), 0);
    ENSURE_EQ(heaps_check(heap).busy, 0);
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
}

static void free_twice(void *heap) {
    void *block = dmi_heap_malloc(heap, 48);
    dmi_heap_free(heap, block);
    dmi_heap_free(heap, block);
}

TEST_EACH_PAGE(a_second_free_is_found_on_a_watched_page) {
    void *heap = heaps_create("never", 0);
    _dmi_watch_begin(1, 5);
    for (int i = 0; i < 400; i++) ENSURE(dmi_heap_malloc(heap, 48));
    CHECK_DIES(free_twice, heap);
    _dmi_watch_begin(0, 0);
    ENSURE_EQ(dmi_heap_destroy(heap), 0);
}
