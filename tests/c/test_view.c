/* test_view.c - the view of the memory of others. */
#include "test.h"

#include "floors.h"
#include "foreign/view.h"

#include <errno.h>

#define BASE UINT64_C(0x7f0000000000)

/* Memory from BASE on, given in pieces no larger than asked. */
typedef struct memory {
    const uint64_t *words;
    size_t size; /* bytes */
    size_t wanted[64];
    size_t looks;
    dmi_piece instead; /* given in place of what is there, when size is not 0 */
    int error;
} memory;

static int look(void *context, uint64_t address, size_t wanted, dmi_piece *piece) {
    memory *m = context;
    if (m->looks < 64) m->wanted[m->looks] = wanted;
    m->looks++;
    if (m->error) return m->error;
    if (m->instead.size || m->instead.goes_on) {
        *piece = m->instead;
        return 0;
    }
    if (address < BASE || address - BASE >= m->size) return 0;
    size_t left = m->size - (size_t)(address - BASE);
    *piece = (dmi_piece){(const unsigned char *)m->words + (address - BASE), address,
                         left < wanted ? left : wanted, 0};
    return 0;
}

static uint64_t words[1 << 20];

TEST(a_walk_along_memory_asks_for_more_each_time) {
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) words[i] = i;
    memory m = {.words = words, .size = sizeof words};
    dmi_view view;
    _dmi_view_open(&view, look, &m, 1000);
    for (uint64_t at = 0; at < sizeof words; at += 16) {
        const uint64_t *pair = _dmi_view_pair(&view, BASE + at);
        REQUIRE(pair != NULL);
        REQUIRE_EQ(pair[0], at / 8);
        REQUIRE_EQ(pair[1], at / 8 + 1);
    }
    CHECK_EQ(m.looks, view.looks);
    CHECK_EQ(m.wanted[0], DMI_VIEW_LEAST);
    for (size_t i = 1; i < m.looks; i++) {
        size_t more = 2 * m.wanted[i - 1];
        CHECK_EQ(m.wanted[i], more < DMI_VIEW_MOST ? more : DMI_VIEW_MOST);
    }
    CHECK(m.looks < 20);
    /* A jump is a new beginning. */
    CHECK(_dmi_view_pair(&view, BASE) != NULL);
    CHECK_EQ(m.wanted[m.looks - 1], DMI_VIEW_LEAST);
    /* What is forgotten is read again, also where the piece was. */
    size_t before = m.looks;
    CHECK(_dmi_view_pair(&view, BASE + 16) != NULL);
    CHECK_EQ(m.looks, before);
    _dmi_view_forget(&view);
    CHECK(_dmi_view_pair(&view, BASE + 16) != NULL);
    CHECK_EQ(m.looks, before + 1);
}

TEST(where_nothing_is_the_view_says_where_to_go_on) {
    memory m = {.words = words, .size = 4096};
    dmi_view view;
    _dmi_view_open(&view, look, &m, 1000);
    CHECK_PTR(_dmi_view_pair(&view, BASE + 4096), NULL);
    CHECK_EQ(view.error, 0);
    CHECK_EQ(view.piece.goes_on, BASE + 4096 + 16);
    m.instead.goes_on = BASE + 65536;
    CHECK_PTR(_dmi_view_pair(&view, BASE + 4096), NULL);
    CHECK_EQ(view.piece.goes_on, BASE + 65536);
    /* A place that is not behind the asked one would be a circle. */
    m.instead.goes_on = BASE;
    CHECK_PTR(_dmi_view_pair(&view, BASE + 4096), NULL);
    CHECK_EQ(view.piece.goes_on, BASE + 4096 + 16);
}

TEST(a_window_that_cannot_be_is_no_window) {
    const unsigned char *bytes = (const unsigned char *)words;
    const dmi_piece bad[] = {
        {bytes, BASE, 8, 0},           /* too small */
        {bytes, BASE + 16, 4096, 0},   /* begins behind the address */
        {bytes, BASE - 4096, 4096, 0}, /* ends before it */
        {bytes, BASE - 4096, 4104, 0}, /* ends within the pair */
        {bytes + 1, BASE, 4096, 0},    /* its words are not aligned */
        {NULL, BASE, 4096, 0},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memory m = {.instead = bad[i]};
        dmi_view view;
        _dmi_view_open(&view, look, &m, 1000);
        CHECK_PTR(_dmi_view_pair(&view, BASE), NULL);
        CHECK_EQ(view.error, 0);
        CHECK_PTR(view.piece.bytes, NULL);
    }
}

TEST(an_error_and_too_many_looks_end_it) {
    memory m = {.words = words, .size = sizeof words};
    dmi_view view;
    _dmi_view_open(&view, look, &m, 2);
    CHECK(_dmi_view_pair(&view, BASE) != NULL);
    CHECK(_dmi_view_pair(&view, BASE + (1 << 20)) != NULL);
    CHECK_PTR(_dmi_view_pair(&view, BASE), NULL);
    CHECK_EQ(view.error, EFBIG);
    CHECK_EQ(m.looks, 2);

    _dmi_view_open(&view, look, &m, 1000);
    CHECK(_dmi_view_pair(&view, BASE) != NULL);
    m.error = EPERM;
    _dmi_view_forget(&view);
    CHECK_PTR(_dmi_view_pair(&view, BASE), NULL);
    CHECK_EQ(view.error, EPERM);
    /* It stays: the source is not asked again. */
    m.error = 0;
    size_t looks = m.looks;
    CHECK_PTR(_dmi_view_pair(&view, BASE), NULL);
    CHECK_EQ(view.error, EPERM);
    CHECK_EQ(m.looks, looks);
}
