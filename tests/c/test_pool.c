/* test_pool.c - metadata objects: zeroed, apart from each other, given back, accounted for. */
#include "floors.h"
#include "segment/pool.h"

enum { OBJECTS = 3000 };

static bool all_are(const unsigned char *object, size_t size, unsigned char value) {
    for (size_t i = 0; i < size; i++)
        if (object[i] != value) return false;
    return true;
}

static void random_objects(size_t item, size_t chunk, bool failures, uint64_t seed) {
    static unsigned char *objects[OBJECTS];
    dmi_pool pool = {.name = "test", .item = item, .chunk = chunk};
    size_t live = 0, most = 0, before = _dmi_fake_committed();
    memset(objects, 0, sizeof objects);
    for (floors_step = 0; floors_step < 12000; floors_step++) {
        size_t limit = floors_step / 2000 % 2 ? 30 : OBJECTS, i = test_random(&seed) % limit;
        unsigned char fill = (unsigned char)(1 + i % 255);
        if (failures && test_random(&seed) % 4 == 0)
            _dmi_os_fail_at(1 + test_random(&seed) % 2, test_random(&seed) % 2);
        if (objects[i]) {
            ENSURE(all_are(objects[i], item, fill)); /* nobody else wrote here */
            ENSURE(_dmi_pool_owns(&pool, objects[i]));
            _dmi_pool_free(&pool, objects[i]);
            ENSURE(
                _dmi_pool_owns(&pool, objects[i])); /* an object of its kind, once and for ever */
            objects[i] = NULL;
            live--;
        } else {
            objects[i] = _dmi_pool_alloc(&pool);
            ENSURE(objects[i] || pool.used == chunk * DMI_POOL_CHUNKS || _dmi_os_fallible_calls());
            if (objects[i]) {
                ENSURE(all_are(objects[i], item, 0));
                memset(objects[i], fill, item);
                if (++live > most) most = live;
            }
        }
        _dmi_os_fail_at(0, false);
        ENSURE_EQ(_dmi_fake_committed() - before, pool.live_bytes);
        if (!failures) ENSURE_EQ(pool.used, most); /* a freed one is used first */
        ENSURE(pool.used >= most && pool.freed <= pool.used - live);
    }
    ENSURE(pool.used > 20 || chunk < 2);
    for (size_t i = 0; i < pool.used; i++) {
        char *object = _dmi_pool_at(&pool, i);
        ENSURE(_dmi_pool_owns(&pool, object));
        for (size_t at = 1; at < item; at += 31) ENSURE(!_dmi_pool_owns(&pool, object + at));
    }
    ENSURE(!_dmi_pool_owns(&pool, &pool) && !_dmi_pool_owns(&pool, NULL));
    ENSURE(!_dmi_pool_owns(&pool, (char *)_dmi_pool_at(&pool, pool.used - 1) + item));
}

TEST_EACH_PAGE(small_objects) { random_objects(64, 1000, false, 1); }
TEST_EACH_PAGE(objects_that_cross_pages) { random_objects(1344, 60, false, 2); }
TEST_EACH_PAGE(objects_of_whole_pages) { random_objects(8192, 50, false, 3); }
TEST_EACH_PAGE(small_objects_with_failures) { random_objects(192, 70, true, 4); }
TEST_EACH_PAGE(objects_of_whole_pages_with_failures) { random_objects(8192, 50, true, 5); }

/* Who looks at one without a lock, while it is freed and used again, sees no word change but those that are written. */
TEST_EACH_PAGE(a_stable_pool_leaves_objects_as_they_were_freed) {
    dmi_pool pool = {.name = "test", .item = 192, .chunk = 30, .stable = true};
    unsigned char *first = _dmi_pool_alloc(&pool);
    ENSURE(all_are(first, 192, 0));
    memset(first, 7, 192);
    _dmi_pool_free(&pool, first);
    ENSURE(all_are(first, 192, 7));
    ENSURE(_dmi_pool_alloc(&pool) == first && all_are(first, 192, 7));
    ENSURE(all_are(_dmi_pool_alloc(&pool), 192, 0));
}

TEST_EACH_PAGE(a_full_pool_says_no) {
    dmi_pool pool = {.name = "test", .item = 64, .chunk = 3};
    void *last = NULL;
    for (size_t i = 0; i < 3 * DMI_POOL_CHUNKS; i++)
        ENSURE((last = _dmi_pool_alloc(&pool)) != NULL);
    ENSURE(!_dmi_pool_alloc(&pool));
    _dmi_pool_free(&pool, last);
    ENSURE(_dmi_pool_alloc(&pool) == last);
    ENSURE(!_dmi_pool_alloc(&pool));
}
