/* test_cfi_linux.c - rows of tables: entries written by hand, and the C library's own, whole, cut off and damaged. Under
 * the address sanitizer the copies end where they may be read, so that a step beyond is seen. */
#define _GNU_SOURCE
#include "os/linux_cfi.h"
#include "test.h"

#include <link.h>
#include <stdlib.h>
#include <string.h>

/* ---- by hand ------------------------------------------------------------------------------------------- */

#define CODE 0x100000 /* bytes from the header to the function */

typedef struct bytes {
    uint8_t at[512];
    size_t n;
} bytes;
static void put(bytes *b, size_t size, uint64_t value) {
    memcpy(b->at + b->n, &value, size);
    b->n += size;
}

/* A header, what entries have in common, and one entry of 256 bytes of code with those instructions. */
static void make(bytes *b, const char *letters, const uint8_t *instructions, size_t size) {
    memset(b, 0, sizeof *b);
    static const uint8_t header[] = {1, 0x1b, 0x03, 0x3b};
    for (size_t i = 0; i < 4; i++) put(b, 1, header[i]);
    put(b, 4, 16); /* .eh_frame: relative to here */
    put(b, 4, 1);
    put(b, 4, CODE);
    size_t entry_place = b->n;
    put(b, 4, 0);
    size_t common = b->n;
    put(b, 4, 0);
    put(b, 4, 0);
    put(b, 1, 1);
    for (const char *c = letters; *c; c++) put(b, 1, (uint8_t)*c);
    put(b, 1, 0);
    put(b, 1, 1);    /* a step of code */
    put(b, 1, 0x78); /* -8 */
    put(b, 1, 16);
    if (*letters) {
        put(b, 1, 1);
        put(b, 1, 0x1b);
    }
    static const uint8_t call[] = {0x0c, 7, 8, 0x90,
                                   1}; /* CFA = sp + 8, return address at CFA - 8 */
    for (size_t i = 0; i < sizeof call; i++) put(b, 1, call[i]);
    uint32_t length = (uint32_t)(b->n - common - 4);
    memcpy(b->at + common, &length, 4);
    size_t entry = b->n;
    memcpy(b->at + entry_place, &entry, 4);
    put(b, 4, 0);
    put(b, 4, b->n - common);
    if (*letters) put(b, 4, (uint64_t)CODE - b->n);
    else put(b, 8, (uintptr_t)b->at + CODE);
    put(b, *letters ? 4 : 8, 256);
    if (*letters) put(b, 1, 0);
    for (size_t i = 0; i < size; i++) put(b, 1, instructions[i]);
    length = (uint32_t)(b->n - entry - 4);
    memcpy(b->at + entry, &length, 4);
}

static dmi_cfi_found find(const bytes *b, size_t offset, dmi_cfi_row *row) {
    dmi_cfi_object object = {.header = (uintptr_t)b->at, .spans = 1};
    object.span[0].start = (uintptr_t)b->at;
    object.span[0].end = (uintptr_t)b->at + b->n;
    return _dmi_cfi_find(&object, (uintptr_t)b->at + CODE + offset, row);
}
#define MAKE(letters, ...)                                                                         \
    do {                                                                                           \
        static const uint8_t given[] = {__VA_ARGS__};                                              \
        make(&b, letters, given, sizeof given);                                                    \
    } while (0)

static bytes b;
static dmi_cfi_row row;

static void is(int line, size_t offset, unsigned cfa, int cfa_offset, unsigned fp, int fp_offset,
               unsigned ra) {
    dmi_cfi_found found = find(&b, offset, &row);
    if (found != DMI_CFI_ROW || _dmi_cfi_cfa(row) != cfa || row.cfa_offset != cfa_offset ||
        _dmi_cfi_fp(row) != fp || row.fp_offset != fp_offset || row.ra != ra)
        test_failed(__FILE__, line, "%d: %u %d, %u %d, %u", (int)found, _dmi_cfi_cfa(row),
                    row.cfa_offset, _dmi_cfi_fp(row), row.fp_offset, row.ra);
}
#define IS(...) is(__LINE__, __VA_ARGS__)

TEST(a_function_that_links_its_frame) {
    /* push rbp; mov rbp, rsp; ...; pop rbp; ret */
    MAKE("zR", 0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 0x02, 0x50, 0x0a, 0xc6, 0x0c, 7, 8, 0x41,
         0x0b);
    IS(0, DMI_CFA_SP, 8, DMI_FP_SAME, 0, 0);
    IS(1, DMI_CFA_SP, 16, DMI_FP_AT_CFA, -16, 0);
    IS(4, DMI_CFA_FP, 16, DMI_FP_AT_CFA, -16, 0);
    IS(83, DMI_CFA_FP, 16, DMI_FP_AT_CFA, -16, 0);
    IS(84, DMI_CFA_SP, 8, DMI_FP_SAME, 0, 0);
    IS(85, DMI_CFA_FP, 16, DMI_FP_AT_CFA, -16, 0);
    CHECK_EQ(find(&b, 256, &row), DMI_CFI_NO_ENTRY);
    CHECK_EQ(find(&b, (size_t)-1, &row), DMI_CFI_NO_ENTRY);
    MAKE("", 0x41, 0x0e, 0xd0, 4); /* addresses of 64 bits */
    IS(1, DMI_CFA_SP, 592, DMI_FP_SAME, 0, 0);
}

TEST(frames_of_signals_of_the_linker_and_of_aligned_stacks) {
    MAKE("zRS", 0x0f, 4, 0x77, 0xa0, 1, 6, 0x10, 7, 3, 0x77, 0xa0, 1, 0x10, 6, 3, 0x77, 0xf8, 0,
         0x10, 16, 3, 0x77, 0xa8, 1);
    IS(0, DMI_CFA_AT_SP, 160, DMI_FP_AT_SP, 120, 21);
    CHECK(_dmi_cfi_signal(row));
    MAKE("zR", 0x0f, 11, 0x77, 8, 0x80, 0, 0x3f, 0x1a, 0x3b, 0x2a, 0x33, 0x24, 0x22);
    IS(0, DMI_CFA_PLT, 11, DMI_FP_SAME, 0, 0);
    CHECK(!_dmi_cfi_signal(row));
    MAKE("zR", 0x0f, 3, 0x76, 0x78, 6, 0x10, 6, 2, 0x76, 0);
    IS(0, DMI_CFA_AT_FP, -8, DMI_FP_AT_FP, 0, 0);
    MAKE("zR", 0x07, 16);
    CHECK_EQ(find(&b, 0, &row), DMI_CFI_ROW);
    CHECK_EQ(row.ra, DMI_RA_NONE);
}

TEST(what_is_not_understood_is_said_to_be_so) {
    static const uint8_t unknown[][6] = {
        {0x0c, 3, 16},                     /* by another register */
        {0x0f, 3, 0x77, 8, 0x23},          /* another expression */
        {0x0f, 40, 0x77},                  /* one that is cut off */
        {0x07, 7},                         /* the stack pointer is not known */
        {0x09, 16, 1},                     /* the return address is in a register */
        {0x11, 16, 0x7e},                  /* it is at another place */
        {0x0b},                            /* back to a state that nobody remembered */
        {0x3f},                            /* no instruction */
        {0x0e, 0x80, 0x80, 0x80},          /* a number without an end */
        {0x0d, 6, 0x0e, 0xff, 0xff, 0xff}, /* ... */
    };
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        size_t n = 6;
        while (n > 1 && unknown[i][n - 1] == 0) n--;
        make(&b, "zR", unknown[i], n);
        CHECK_EQ(find(&b, 0, &row), DMI_CFI_UNKNOWN);
    }
    static const char *const letters[] = {"eh", "zX", "zRX"};
    for (size_t i = 0; i < 3; i++) {
        make(&b, letters[i], unknown[0], 1);
        CHECK_EQ(find(&b, 0, &row), DMI_CFI_UNKNOWN);
    }
    /* The frame pointer may be lost without harm to the rest. */
    MAKE("zR", 0x07, 6);
    IS(0, DMI_CFA_SP, 8, DMI_FP_UNKNOWN, 0, 0);
    MAKE("zR", 0x09, 6, 3);
    IS(0, DMI_CFA_SP, 8, DMI_FP_UNKNOWN, 0, 0);
}

TEST(headers_that_promise_too_much) {
    MAKE("zR", 0);
    CHECK_EQ(find(&b, 0, &row), DMI_CFI_ROW);
    for (size_t i = 0; i < 4; i++) {
        b.at[i] ^= 0x40;
        CHECK_EQ(find(&b, 0, &row), DMI_CFI_UNKNOWN);
        b.at[i] ^= 0x40;
    }
    const uint32_t counts[] = {70, 0x10000000, UINT32_MAX};
    for (size_t i = 0; i < 3; i++) {
        memcpy(b.at + 8, &counts[i], 4);
        CHECK_EQ(find(&b, 0, &row), DMI_CFI_UNKNOWN);
    }
    const int32_t entries[] = {INT32_MIN, INT32_MAX, -4, 509};
    uint32_t one = 1;
    memcpy(b.at + 8, &one, 4);
    for (size_t i = 0; i < 4; i++) {
        memcpy(b.at + 16, &entries[i], 4);
        CHECK_EQ(find(&b, 0, &row), DMI_CFI_UNKNOWN);
    }
}

/* ---- the C library's ----------------------------------------------------------------------------------- */

static struct original {
    uintptr_t header, start, end; /* the segment that both tables lie in */
    uintptr_t code, code_end;
} libc;

static int look(struct dl_phdr_info *info, size_t size, void *unused) {
    (void)size, (void)unused;
    if (!strstr(info->dlpi_name, "libc.so")) return 0;
    for (size_t i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uintptr_t from = info->dlpi_addr + p->p_vaddr;
        if (p->p_type == PT_GNU_EH_FRAME) libc.header = from;
        if (p->p_type == PT_LOAD && p->p_flags & PF_X) {
            libc.code = from;
            libc.code_end = from + p->p_filesz;
        }
    }
    for (size_t i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *p = &info->dlpi_phdr[i];
        uintptr_t from = info->dlpi_addr + p->p_vaddr;
        if (p->p_type != PT_LOAD || libc.header < from || libc.header >= from + p->p_filesz)
            continue;
        libc.start = from;
        libc.end = from + p->p_filesz;
    }
    return 1;
}

/* A copy of the tables that ends where memory of its own does. size: of the segment, from the header on. */
static dmi_cfi_object copy(size_t size, uint8_t **made) {
    *made = malloc(size);
    REQUIRE(*made != NULL);
    memcpy(*made, (void *)libc.header, size);
    dmi_cfi_object object = {.header = (uintptr_t)*made, .spans = 1};
    object.span[0].start = (uintptr_t)*made;
    object.span[0].end = (uintptr_t)*made + size;
    return object;
}

TEST(tables_that_are_cut_off_or_damaged_say_the_same_or_nothing) {
    enum { ASKED = 300 };
    (void)dl_iterate_phdr(look, NULL);
    if (!libc.start) test_skip("no C library with tables");
    size_t whole = libc.end - libc.header;
    uint64_t seed = 7;
    static dmi_cfi_row truth[ASKED];
    static dmi_cfi_found found[ASKED];
    uintptr_t asked[ASKED];
    uint8_t *made;
    dmi_cfi_object object = copy(whole, &made);
    size_t rows = 0;
    for (size_t i = 0; i < ASKED; i++) {
        asked[i] = libc.code - libc.header + test_random(&seed) % (libc.code_end - libc.code);
        found[i] = _dmi_cfi_find(&object, object.header + asked[i], &truth[i]);
        rows += found[i] == DMI_CFI_ROW;
    }
    free(made);
#if defined(__x86_64__) /* the registers of the rows are those of that processor */
    CHECK(rows > ASKED * 9 / 10);
#endif
    for (size_t round = 0; round < 200; round++) {
        size_t size = round < 40 ? round + 1 : 1 + test_random(&seed) % whole;
        object = copy(size, &made);
        for (size_t i = 0; i < ASKED; i++) {
            dmi_cfi_row now;
            dmi_cfi_found what = _dmi_cfi_find(&object, object.header + asked[i], &now);
            if (what == DMI_CFI_ROW) CHECK(memcmp(&now, &truth[i], sizeof now) == 0);
            else CHECK(what == DMI_CFI_UNKNOWN || what == found[i]);
        }
        free(made);
    }
    /* Whatever damage makes of them, nothing is read beyond their end, and it ends. */
    object = copy(whole, &made);
    for (size_t round = 0; round < 3000; round++) {
        for (size_t k = 0; k < 40; k++)
            made[test_random(&seed) % whole] = (uint8_t)test_random(&seed);
        for (size_t i = 0; i < 20; i++) {
            dmi_cfi_row now;
            (void)_dmi_cfi_find(&object, object.header + asked[i * 7], &now);
        }
    }
    free(made);
}
