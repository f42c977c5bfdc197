/* test_bucket.c - the size classes keep the rule of bucket.h for every request there is. */
#include "block/bucket.h"
#include "block/lfh.h"
#include "test.h"

TEST(sizes_rise_by_the_rule) {
    size_t size = 0;
    for (unsigned b = 0; b < DMI_BUCKETS; b++) {
        /* 16 apart up to 128, then an eighth of the doubling. */
        size_t step = 16;
        for (size_t low = 128; low * 2 <= size; low *= 2) step *= 2;
        size += step;
        CHECK_EQ(_dmi_bucket_size[b], size);
    }
    CHECK_EQ(size, DMI_BUCKET_MAX);
}

TEST(every_request_gets_the_smallest_block_that_fits) {
    for (size_t n = 0; n <= DMI_BUCKET_MAX; n++) {
        unsigned b = _dmi_bucket(n);
        size_t got = _dmi_bucket_size[b];
        REQUIRE(b < DMI_BUCKETS);
        REQUIRE(got >= n);
        REQUIRE(b == 0 || _dmi_bucket_size[b - 1] < n);
        REQUIRE(got % 16 == 0);
        if (n) REQUIRE(got - n < 16 || (got - n) * 8 <= n);
    }
}

TEST(subsegments_fit_their_limits) {
    for (unsigned b = 0; b < DMI_BUCKETS; b++) {
        size_t size = _dmi_bucket_size[b], before = 0;
        for (size_t have = 0; have <= (size_t)64 << 20; have += 65536) {
            size_t run = _dmi_bucket_run(b, have);
            CHECK(run / size <= DMI_RUN_BLOCKS_MAX);
            CHECK(run / size >= 4);
            CHECK(run / 4096 <= DMI_RUN_PAGES_MAX);
            CHECK_EQ(run % 4096, 0);
            CHECK_EQ(run % size, 0); /* nothing is lost at the end */
            CHECK(run >= before);
            CHECK(have == 0 || run <= 2 * have); /* in proportion to what there is */
            before = run;
        }
    }
}
