/* test_walk.c - the walker: the same through every reader, whatever an image holds, in chunks, and beside
 * threads at work. */
#include <errno.h>

#include "heaps.h"
#include "images.h"

/* A heap with everything in it: blocks of buckets, half of them free, blocks of the back end, large and
 * virtual ones, given-back and offered pages. */
static void *sample(const char *policy, uint32_t flags, uint64_t seed, size_t steps) {
    static heaps_block table[700];
    void *heap = heaps_create(policy, flags);
    memset(table, 0, sizeof table);
    for (size_t i = 0; i < steps; i++) (void)heaps_step(heap, table, 700, &seed);
    for (size_t i = 0; i < 3; i++) ENSURE(dmi_heap_malloc(heap, (size_t)20 << 20));
    for (size_t i = 0; i < 700; i += 2) {
        dmi_heap_free(heap, table[i].at);
        table[i].at = NULL;
    }
    ENSURE_EQ(dmi_heap_advance(heap, 5), 0);
    return heap;
}

typedef struct list {
    dmi_range *ranges;
    size_t count, capacity;
} list;

static int collect(void *argument, const dmi_range *range) {
    list *l = argument;
    if (l->count == l->capacity) {
        l->capacity = l->capacity * 2 + 100;
        l->ranges = realloc(l->ranges, l->capacity * sizeof *l->ranges);
        ENSURE(l->ranges);
    }
    l->ranges[l->count++] = *range;
    return 0;
}

static list walk_own(void *heap) {
    list l = {0};
    ENSURE_EQ(dmi_heap_walk(heap, collect, &l), 0);
    return l;
}

static void same(const list *a, const list *b) {
    ENSURE_EQ(a->count, b->count);
    for (size_t i = 0; i < a->count; i++)
        ENSURE(memcmp(&a->ranges[i], &b->ranges[i], sizeof *a->ranges) == 0);
}

static const char *const policies[] = {"never", "lazy", "eager", "lazy:how=decommit",
                                       "lazy:how=offer"};

TEST_EACH_PAGE(an_image_shows_what_the_process_shows) {
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        void *heap = sample(policies[i], i == 0 ? DMI_HEAP_HARDENED : 0, i + 1, 3000);
        list own = walk_own(heap), first = {0}, second = {0};
        ENSURE(own.count > 100);
        images_image *image = images_new();
        dmi_heap *record = _dmi_heap_resolve(heap);
        /* Once read through from this process, then from the copy alone. */
        ENSURE_EQ(images_walk(image, record, collect, &first), 0);
        image->closed = true;
        ENSURE_EQ(images_walk(image, record, collect, &second), 0);
        same(&own, &first);
        same(&own, &second);
        images_delete(image);
        free(own.ranges);
        free(first.ranges);
        free(second.ranges);
    }
}

TEST_EACH_PAGE(what_keeps_a_byte_is_told_for_every_range) {
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        void *heap = sample(policies[i], i % 2 ? DMI_HEAP_HUGE_PAGES : 0, i + 11, 2000);
        dmi_stats s = heaps_check(heap);
        list own = walk_own(heap);
        uint64_t sums[32] = {0}, retained = 0;
        for (size_t k = 0; k < own.count; k++) {
            const dmi_range *r = &own.ranges[k];
            uint32_t reason = DMI_RANGE_REASON(r->flags);
            ENSURE(reason <= DMI_REASON_overhead && !(r->flags & DMI_RANGE_DAMAGED));
            ENSURE_EQ(reason == 0, r->state == DMI_STATE_BUSY || r->state == DMI_STATE_UNCOMMITTED);
            sums[reason] += r->size;
            if (reason) retained += r->size;
        }
        ENSURE_EQ(retained, s.committed - s.busy);
        ENSURE_EQ(sums[DMI_REASON_overhead], s.overhead);
        ENSURE_EQ(sums[DMI_REASON_offered], s.offered);
        /* A block that shares one of its pages counts as a whole for one reason. */
        uint64_t reclaimable = s.reclaimable + s.reason_in_flight;
        uint64_t told = retained - sums[DMI_REASON_overhead] - sums[DMI_REASON_offered] -
                        sums[DMI_REASON_pinned];
        ENSURE(told >= reclaimable && (told == 0) == (reclaimable == 0));
        free(own.ranges);
    }
}

TEST_EACH_PAGE(chunks_make_the_whole_walk) {
    void *heap = sample("never", 0, 5, 4000);
    for (size_t i = 0; i < 60000; i++) ENSURE(dmi_heap_malloc(heap, i % 5 ? 16 : 48));
    list own = walk_own(heap);
    dmi_range *out = malloc(DMI_WALK_CHUNK * sizeof *out);
    uint64_t from = 0;
    size_t seen = 0, count, calls = 0;
    ENSURE(out && dmi_heap_walk_chunk(heap, &from, out, DMI_WALK_CHUNK - 1, &count) == -1);
    ENSURE_EQ(errno, EINVAL);
    while (from != UINT64_MAX) {
        ENSURE_EQ(dmi_heap_walk_chunk(heap, &from, out, DMI_WALK_CHUNK, &count), 0);
        for (size_t i = 0; i < count; i++) {
            const dmi_range *whole = &own.ranges[seen];
            ENSURE_EQ(out[i].address, whole->address);
            ENSURE_EQ(out[i].state, whole->state);
            if (out[i].size < whole->size) { /* cut where the chunk ended */
                ENSURE(i == count - 1 && out[i].state == DMI_STATE_UNCOMMITTED);
                own.ranges[seen].address += out[i].size;
                own.ranges[seen].size -= out[i].size;
                continue;
            }
            ENSURE(memcmp(&out[i], whole, sizeof *out) == 0);
            seen++;
        }
        calls++;
    }
    ENSURE_EQ(seen, own.count);
    ENSURE(calls > 3);
    ENSURE_EQ(dmi_heap_walk_chunk(heap, &from, out, DMI_WALK_CHUNK, &count), 0);
    ENSURE_EQ(count, 0);
    free(out);
    free(own.ranges);
}

/* ---- heaps from outside -------------------------------------------------------------------------------- */

typedef struct outsider {
    const void *handle; /* the heap that counts */
    dmi_outside_heap heap;
    uint64_t places, reserved, committed, uncommitted_ranges, virtuals, heaps;
} outsider;

static int see(void *argument, const dmi_outside_heap *heap, const dmi_segment_info *place) {
    outsider *o = argument;
    ENSURE(heap->size == sizeof *heap && memchr(heap->name, 0, sizeof heap->name));
    if (!place) {
        ENSURE_EQ(heap->reserved, heap->uncommitted + heap->committed);
        ENSURE_EQ(heap->committed, heap->busy + heap->free_lfh + heap->free_list +
                                       heap->free_pages + heap->offered + heap->overhead);
        o->heaps++;
    }
    if (heap->handle != (uintptr_t)o->handle) return 0;
    if (!place) {
        o->heap = *heap;
        return 0;
    }
    ENSURE(place->committed <= place->reserved);
    o->places++;
    o->reserved += place->reserved;
    o->committed += place->committed;
    o->uncommitted_ranges += place->uncommitted_ranges;
    o->virtuals += place->is_virtual;
    return 0;
}

static int stop_at_once(void *argument, const dmi_outside_heap *heap,
                        const dmi_segment_info *place) {
    (void)argument;
    (void)heap;
    return place ? 7 : 8;
}

TEST_EACH_PAGE(heaps_seen_from_outside_hold_what_they_say) {
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        void *heap = sample(policies[i], i == 1 ? DMI_HEAP_HARDENED : 0, i + 31, 3000);
        if (i == 0) dmi_heap_free(heap, dmi_heap_malloc(heap, (size_t)30 << 20)); /* it is kept */
        images_image *image = images_new();
        outsider o = {.handle = heap};
        ENSURE_EQ(dmi_outside_heaps(images_read, image, image->root, see, &o), 0);
        dmi_stats s = heaps_check(heap);
        ENSURE(o.heaps >= i + 1 && o.places > 3);
        ENSURE_EQ(o.places, s.segments + s.virtual_blocks);
        ENSURE_EQ(o.virtuals, s.virtual_blocks);
        ENSURE_EQ(o.reserved, s.reserved);
        ENSURE_EQ(o.committed, s.committed);
        ENSURE_EQ(o.uncommitted_ranges, s.uncommitted_ranges);
        ENSURE_EQ(o.heap.reserved, s.reserved);
        ENSURE_EQ(o.heap.committed, s.committed);
        ENSURE_EQ(o.heap.busy, s.busy);
        ENSURE_EQ(o.heap.free_lfh, s.free_lfh);
        ENSURE_EQ(o.heap.free_list, s.free_list);
        ENSURE_EQ(o.heap.free_pages, s.free_pages);
        ENSURE_EQ(o.heap.offered, s.offered);
        ENSURE_EQ(o.heap.overhead, s.overhead);
        ENSURE_EQ(o.heap.busy_blocks, s.busy_blocks);
        ENSURE_EQ(dmi_outside_heaps(images_read, image, image->root, stop_at_once, NULL), 7);
        image->closed = true;
        ENSURE_EQ(dmi_outside_heaps(images_read, image, 64, see, &o), -1);
        ENSURE_EQ(errno, 14);
        images_delete(image);
    }
}

/* ---- images that somebody damaged ---------------------------------------------------------------------- */

typedef struct order {
    uint64_t next, ranges, damaged;
} order;

static int in_order(void *argument, const dmi_range *range) {
    order *o = argument;
    ENSURE(range->size > 0 && range->address >= o->next);
    ENSURE(range->address + range->size > range->address);
    ENSURE(range->kind >= DMI_RANGE_LFH && range->kind <= DMI_RANGE_OVERHEAD);
    ENSURE(range->state >= DMI_STATE_BUSY && range->state <= DMI_STATE_OVERHEAD);
    o->next = range->address + range->size;
    o->damaged += (range->flags & DMI_RANGE_DAMAGED) != 0;
    ENSURE(++o->ranges < 20000000);
    return 0;
}

TEST_EACH_PAGE(no_damage_to_an_image_leads_the_walk_astray) {
    void *heap = sample("lazy:how=decommit", 0, 9, 1500);
    (void)sample("lazy", DMI_HEAP_HUGE_PAGES, 10, 500);
    images_image *image = images_new();
    dmi_heap *record = _dmi_heap_resolve(heap);
    order whole = {0};
    ENSURE_EQ(images_walk(image, record, in_order, &whole), 0);
    ENSURE(whole.ranges > 300 && whole.damaged == 0);
    outsider all = {.handle = heap};
    ENSURE_EQ(dmi_outside_heaps(images_read, image, image->root, see, &all), 0);
    image->closed = true;
    const char *times = getenv("DMI_FUZZ");
    uint64_t seed = 12345, damaged = 0, refused = 0;
    for (size_t i = 0; i < (times ? strtoull(times, NULL, 0) : 1500); i++) {
        images_damage(image, &seed);
        order found = {0};
        image->reads = 0;
        if (images_walk(image, record, in_order, &found) || found.ranges == 0) refused++;
        ENSURE(image->reads < 5000000);
        damaged += found.damaged != 0;
        outsider o = {.handle = heap};
        image->reads = 0;
        (void)dmi_outside_heaps(images_read, image, image->root, see, &o);
        ENSURE(image->reads < 5000000);
        images_repair(image);
    }
    ENSURE(damaged && refused);
    order again = {0};
    ENSURE_EQ(images_walk(image, record, in_order, &again), 0);
    ENSURE_EQ(again.ranges, whole.ranges);
    images_delete(image);
}

static const char *refused(const void *layout) {
    images_image *image = images_new();
    dmi_image opened;
    int error = _dmi_image_open(&opened, &image->reader, image->copies, (uintptr_t)layout);
    const char *why = error == ENOTSUP ? opened.differs : error ? "an error" : "";
    images_delete(image); /* the first look is what the image keeps */
    return why;
}

TEST_EACH_PAGE(a_layout_that_cannot_be_is_refused_by_name) {
    (void)heaps_create("never", 0);
    static dmi_layout other;
    other = dmi_layout_root;
    ENSURE(strcmp(refused(&other), "") == 0);
    other.version = DMI_LAYOUT_VERSION + 1;
    ENSURE(strcmp(refused(&other), "version") == 0);
    other.version = 1;
    ENSURE(strcmp(refused(&other), "version") == 0);
    other = dmi_layout_root;
    other.field_count = 1u << 20;
    ENSURE(strcmp(refused(&other), "field_count") == 0);
    other = dmi_layout_root;
    ENSURE(strcmp(other.fields[12].name, "segment.space") == 0);
    other.fields[12].offset = 1u << 20; /* outside of its struct */
    ENSURE(strcmp(refused(&other), "segment.space") == 0);
    other = dmi_layout_root;
    other.fields[12].name[0] = 'x'; /* not told of */
    ENSURE(strcmp(refused(&other), "segment.space") == 0);
    other = dmi_layout_root;
    other.fields[0].size = UINT32_MAX;
    ENSURE(strcmp(refused(&other), "dmi_heap") == 0);
    for (size_t i = 0; i < dmi_layout_root.field_count; i++) /* every entry was filled in */
        ENSURE(dmi_layout_root.fields[i].name[0] && dmi_layout_root.fields[i].size);
}

/* The table of another build: in another order, with pointers and members that we know nothing of. */
TEST_EACH_PAGE(another_layout_is_read_by_its_table) {
    static struct {
        dmi_layout head;
        dmi_layout_field more[8];
    } other;
    size_t pointers = offsetof(dmi_layout, fields), count = dmi_layout_root.field_count;
    memcpy(&other, &dmi_layout_root, pointers);
    dmi_layout_field *fields = (dmi_layout_field *)(void *)((char *)&other + pointers + 16);
    for (size_t i = 0; i < count; i++) fields[i] = dmi_layout_root.fields[count - 1 - i];
    fields[count] = (dmi_layout_field){"run.unheard_of", 4, 4};
    other.head.field_count = (uint32_t)count + 1;
    other.head.size = (uint32_t)(sizeof(dmi_layout) + 16 + sizeof(dmi_layout_field));
    for (size_t i = 0; i < sizeof policies / sizeof *policies; i++) {
        void *heap = sample(policies[i], i == 0 ? DMI_HEAP_HARDENED : 0, i + 1, 2000);
        list own = walk_own(heap), read = {0};
        ENSURE(own.count > 100);
        images_image *image = images_new();
        image->root = (uintptr_t)&other;
        ENSURE_EQ(images_walk(image, _dmi_heap_resolve(heap), collect, &read), 0);
        same(&own, &read);
        outsider o = {.handle = heap};
        ENSURE_EQ(dmi_outside_heaps(images_read, image, image->root, see, &o), 0);
        outsider plain = {.handle = heap};
        ENSURE_EQ(dmi_outside_heaps(images_read, image, (uintptr_t)&dmi_layout_root, see, &plain),
                  0);
        ENSURE(o.heap.busy_blocks && memcmp(&o, &plain, sizeof o) == 0);
        images_delete(image);
        free(own.ranges);
        free(read.ranges);
    }
}

/* ---- beside threads ---------------------------------------------------------------------------------------- */

enum { THREADS = 4, STABLE = 3000, SLOTS = 400, SHARED = 64 };

static struct {
    void *heap;
    _Atomic bool stop;
    _Atomic int ready;
    _Atomic(void *) shared[SHARED]; /* blocks that change hands */
    struct {
        void *at[STABLE];
    } stable[THREADS];
} busy;

static void churn(void *argument) {
    size_t me = (size_t)(uintptr_t)argument;
    uint64_t seed = me + 77;
    void **slots = calloc(SLOTS, sizeof *slots);
    ENSURE(slots);
    for (size_t i = 0; i < STABLE; i++) {
        size_t size = i % 300 == 0 ? 200000 : test_random(&seed) % (i % 7 ? 300 : 5000);
        busy.stable[me].at[i] = dmi_heap_malloc(busy.heap, size);
        ENSURE(busy.stable[me].at[i]);
        if (i % 2) dmi_heap_free(busy.heap, dmi_heap_malloc(busy.heap, size));
    }
    busy.ready++;
    while (!busy.stop) {
        uint64_t r = test_random(&seed);
        void **slot = &slots[(r >> 8) % SLOTS];
        if (*slot && r % 3 == 0) *slot = atomic_exchange(&busy.shared[(r >> 20) % SHARED], *slot);
        dmi_heap_free(busy.heap, *slot);
        size_t size = r % 64 == 1   ? 100000 + r % 1000000
                      : r % 64 == 2 ? ((size_t)17 << 20)
                      : r % 64 < 20 ? 5000 + r % 20000
                                    : (r >> 32) % 400;
        *slot = dmi_heap_malloc(busy.heap, size);
        ENSURE(*slot);
        memset(*slot, 0, size < 64 ? size : 64);
        if (r % 4096 == 3) /* now and then all of it, so that whole runs come and go */
            for (size_t i = 0; i < SLOTS; i++) {
                dmi_heap_free(busy.heap, slots[i]);
                slots[i] = NULL;
            }
    }
    for (size_t i = 0; i < SLOTS; i++) dmi_heap_free(busy.heap, slots[i]);
    free(slots);
}

/* Every block that lives throughout is there, once, busy, and with its size. */
static void all_there(const dmi_range *ranges, size_t count) {
    for (size_t i = 0; i < count; i++) {
        ENSURE(!(ranges[i].flags & DMI_RANGE_DAMAGED) && ranges[i].size);
        if (i) ENSURE(ranges[i].address >= ranges[i - 1].address + ranges[i - 1].size);
    }
    for (size_t t = 0; t < THREADS; t++)
        for (size_t i = 0; i < STABLE; i++) {
            uint64_t address = (uintptr_t)busy.stable[t].at[i];
            size_t low = 0, high = count;
            while (high - low > 1) {
                size_t middle = low + (high - low) / 2;
                if (ranges[middle].address <= address) low = middle;
                else high = middle;
            }
            ENSURE_EQ(ranges[low].address, address);
            ENSURE_EQ(ranges[low].state, DMI_STATE_BUSY);
            ENSURE_EQ(ranges[low].size, dmi_usable_size(busy.stable[t].at[i]));
        }
}

static size_t in_chunks(dmi_range *out, size_t capacity) {
    uint64_t from = 0;
    size_t total = 0, count;
    while (from != UINT64_MAX) {
        ENSURE(capacity - total >= DMI_WALK_CHUNK);
        ENSURE_EQ(dmi_heap_walk_chunk(busy.heap, &from, out + total, DMI_WALK_CHUNK, &count), 0);
        total += count;
    }
    return total;
}

static void closes(uint32_t what) {
    dmi_stats s = {.size = sizeof s};
    ENSURE_EQ(dmi_heap_stats(busy.heap, &s, what), 0);
    ENSURE_EQ(s.reserved, s.uncommitted + s.committed);
    ENSURE_EQ(s.committed,
              s.busy + s.free_lfh + s.free_list + s.free_pages + s.offered + s.overhead);
    ENSURE_EQ(s.reserved, s.segment_reserved + s.virtual_committed);
    ENSURE_EQ(s.committed, s.segment_committed + s.virtual_committed);
    ENSURE(s.busy_blocks >= THREADS * STABLE);
    if (what) ENSURE_EQ(s.free_lfh + s.free_list + s.free_pages, s.reclaimable + s.pinned);
}

static void look_beside_threads(const char *text, unsigned milliseconds) {
    dmi_policy policy = heaps_policy(text);
    dmi_heap_options options = {.size = sizeof options, .policy = &policy};
    memset(&busy, 0, sizeof busy);
    busy.heap = dmi_heap_create(&options);
    test_thread *threads[THREADS];
    for (size_t i = 0; i < THREADS; i++)
        threads[i] = test_thread_start(churn, (void *)(uintptr_t)i);
    while (busy.ready < THREADS) test_yield();
    size_t capacity = 400000, count = 0;
    dmi_range *out = malloc(capacity * sizeof *out);
    ENSURE(out);
    uint64_t until = _dmi_os_clock() + (uint64_t)milliseconds * 1000000, seed = 4, rounds = 0;
    while (_dmi_os_clock() < until) {
        ENSURE_EQ(dmi_heap_walk_array(busy.heap, out, capacity, &count), 0);
        ENSURE(count <= capacity);
        all_there(out, count);
        all_there(out, in_chunks(out, capacity));
        for (size_t i = 0; i < 20; i++) closes(i % 10 ? 0 : DMI_STATS_DETAIL);
        for (size_t i = 0; i < 100; i++) {
            dmi_found found = {.size = sizeof found};
            char *block = busy.stable[test_random(&seed) % THREADS].at[test_random(&seed) % STABLE];
            size_t usable = dmi_usable_size(block);
            ENSURE_EQ(dmi_find(block + test_random(&seed) % usable, &found), 0);
            ENSURE_EQ(found.range.address, (uintptr_t)block);
            ENSURE_EQ(found.range.state, DMI_STATE_BUSY);
            ENSURE_EQ(found.range.size, usable);
        }
        dmi_fault fault = {.size = sizeof fault};
        if (dmi_heap_validate(busy.heap, &fault))
            test_failed(__FILE__, __LINE__, "%s", fault.message);
        rounds++;
    }
    busy.stop = true;
    for (size_t i = 0; i < THREADS; i++) test_thread_join(threads[i]);
    for (size_t i = 0; i < SHARED; i++) dmi_heap_free(busy.heap, busy.shared[i]);
    CHECK(rounds > 0);
    (void)heaps_check;
    closes(DMI_STATS_DETAIL);
    free(out);
    CHECK_EQ(dmi_heap_destroy(busy.heap), 0);
}

TEST(looking_beside_four_threads_misses_and_doubles_nothing) {
    const char *milliseconds = getenv("DMI_WALK_MS");
    unsigned each = milliseconds ? (unsigned)strtoul(milliseconds, NULL, 0) : 700;
    look_beside_threads("never", each);
    look_beside_threads("lazy:delay=0.01", each);
    look_beside_threads("eager", each);
    look_beside_threads("lazy:delay=0.01:how=decommit", each);
}
