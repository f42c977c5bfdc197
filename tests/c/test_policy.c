/* test_policy.c - the text form of policies: what is read, what is refused and why, what is written. */
#include <errno.h>
#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "decommit/number.h"
#include "decommit/policy.h"
#include "os/fake.h"
#include "test.h"

static int parse(const char *text, dmi_policy *policy, char error[256]) {
    memset(policy, 0xee, sizeof *policy);
    policy->size = sizeof *policy;
    error[0] = 0;
    errno = 0;
    return dmi_policy_parse(text, policy, error, 256);
}

static dmi_policy good(const char *text) {
    dmi_policy policy;
    char error[256];
    if (parse(text, &policy, error) != 0) {
        test_failed(__FILE__, __LINE__, "\"%s\" was refused: %s", text, error);
        _dmi_policy_set_default(&policy, DMI_WHEN_NEVER);
    }
    return policy;
}

static bool same(const dmi_policy *a, const dmi_policy *b) {
    return memcmp(a, b, sizeof *a) == 0; /* no padding: every byte is a field */
}

TEST(every_policy_has_its_defaults) {
    static const char *const names[] = {"never",     "eager",  "lazy",    "decay",
                                        "threshold", "budget", "pressure"};
    for (uint32_t when = 0; when < 7; when++) {
        dmi_policy policy = good(names[when]);
        CHECK_EQ(policy.size, sizeof policy);
        CHECK_EQ(policy.when, when);
        CHECK_EQ(policy.how, DMI_HOW_DEFAULT);
        CHECK(policy.delay == 1.0 && policy.half_life == 1.0 && policy.ratio == 0.1);
        CHECK(policy.psi == 10.0 && policy.headroom == 0.1);
        CHECK_EQ(policy.block, 4096);
        CHECK_EQ(policy.total, 65536);
        CHECK_EQ(policy.combine_or, 0);
        char text[64];
        CHECK_EQ(dmi_policy_format(&policy, text, sizeof text), strlen(names[when]));
        CHECK(strcmp(text, names[when]) == 0);
        dmi_policy made;
        _dmi_policy_set_default(&made, (dmi_when)when);
        CHECK(same(&made, &policy));
    }
}

TEST(values_are_read) {
    CHECK(good("lazy:delay=0.25").delay == 0.25);
    CHECK(good("lazy:delay=0").delay == 0);
    CHECK(good("lazy:delay=1e9").delay == 1e9);
    CHECK(good("lazy:delay=.5").delay == 0.5);
    CHECK(good("lazy:delay=5.").delay == 5);
    CHECK(good("decay:half_life=1e-3").half_life == 1e-3);
    CHECK(good("budget:ratio=0").ratio == 0);
    CHECK(good("budget:ratio=2.5E+1").ratio == 25);
    CHECK(good("pressure:psi=100:headroom=1").psi == 100);
    CHECK(good("pressure:headroom=0").headroom == 0);
    CHECK_EQ(good("threshold:block=4K").block, 4096);
    CHECK_EQ(good("threshold:block=0").block, 0);
    CHECK_EQ(good("threshold:total=3M").total, 3u << 20);
    CHECK_EQ(good("threshold:total=2G").total, UINT64_C(2) << 30);
    CHECK_EQ(good("threshold:total=140737488355327").total, 140737488355327);
    CHECK_EQ(good("threshold:combine=or").combine_or, 1);
    CHECK_EQ(good("threshold:combine=and").combine_or, 0);
    CHECK_EQ(good("never:how=offer").how, DMI_HOW_OFFER);
    CHECK_EQ(good("eager:how=decommit").how, DMI_HOW_DECOMMIT);
    CHECK_EQ(good("pressure:how=discard:psi=1").how, DMI_HOW_DISCARD);
}

/* Each text is refused, and the message holds both words. */
TEST(errors_name_what_was_wrong_and_what_is_accepted) {
    static const struct {
        const char *text, *wrong, *accepted;
    } cases[] = {
        {"", "missing", "never, eager, lazy, decay, threshold, budget, pressure"},
        {"lazzy", "'lazzy'", "never, eager, lazy"},
        {"Lazy", "'Lazy'", "lazy"},
        {" lazy", "' lazy'", "lazy"},
        {"lazy ", "'lazy '", "lazy"},
        {"lazy,eager", "'lazy,eager'", "never"},
        {":delay=1", "missing", "never"},
        {"lazy:", "''", "delay, how"},
        {"lazy::delay=1", "''", "delay, how"},
        {"lazy:delay=1:", "''", "delay, how"},
        {"lazy:psi=1", "'psi'", "delay, how"},
        {"never:delay=1", "'delay'", "how"},
        {"threshold:ratio=1", "'ratio'", "block, total, combine, how"},
        {"lazy:delay", "delay has no value", "seconds"},
        {"lazy:delay=", "delay has no value", "seconds"},
        {"lazy:delay=1:delay=1", "twice", "once"},
        {"lazy:delay=-1", "'-1'", "0 to 1e9"},
        {"lazy:delay=+1", "'+1'", "0 to 1e9"},
        {"lazy:delay=nan", "'nan'", "0 to 1e9"},
        {"lazy:delay=inf", "'inf'", "0 to 1e9"},
        {"lazy:delay=1e999", "'1e999'", "0 to 1e9"},
        {"lazy:delay=1e99999999999", "delay", "0 to 1e9"},
        {"lazy:delay=1000000000.0001", "delay", "0 to 1e9"},
        {"lazy:delay=0x1p3", "'0x1p3'", "0 to 1e9"},
        {"lazy:delay=1,5", "'1,5'", "0 to 1e9"},
        {"lazy:delay=1s", "'1s'", "0 to 1e9"},
        {"lazy:delay=1 ", "'1 '", "0 to 1e9"},
        {"lazy:delay=.", "'.'", "0 to 1e9"},
        {"lazy:delay=1e", "'1e'", "0 to 1e9"},
        {"lazy:delay=1e+", "'1e+'", "0 to 1e9"},
        {"lazy:delay=e5", "'e5'", "0 to 1e9"},
        {"lazy:delay=1.2.3", "'1.2.3'", "0 to 1e9"},
        {"lazy:delay=0.1|1", "'0.1|1'", "0 to 1e9"},
        {"lazy:delay=1=2", "'1=2'", "0 to 1e9"},
        {"decay:half_life=0", "'0'", "above 0"},
        {"decay:half_life=1e-400", "'1e-400'", "above 0"},
        {"pressure:psi=0", "'0'", "above 0 and at most 100"},
        {"pressure:psi=100.1", "'100.1'", "at most 100"},
        {"pressure:headroom=1.01", "'1.01'", "0 to 1"},
        {"budget:ratio=-0.1", "'-0.1'", "fraction"},
        {"threshold:block=-1", "'-1'", "bytes"},
        {"threshold:block=4k", "'4k'", "K, M and G"},
        {"threshold:block=4KB", "'4KB'", "K, M and G"},
        {"threshold:block=4T", "'4T'", "K, M and G"},
        {"threshold:block=K", "'K'", "K, M and G"},
        {"threshold:block=1.5M", "'1.5M'", "bytes"},
        {"threshold:block=1e3", "'1e3'", "bytes"},
        {"threshold:total=140737488355328", "total", "2^47"},
        {"threshold:total=131072G", "'131072G'", "2^47"},
        {"threshold:total=18446744073709551616", "total", "2^47"},
        {"threshold:total=99999999999999999999999999999G", "total", "2^47"},
        {"threshold:combine=xor", "'xor'", "and, or"},
        {"lazy:how=default", "'default'", "discard, decommit, offer"},
        {"lazy:how=", "how has no value", "discard, decommit, offer"},
        {"lazy:how=\033[2J", "'?[2J'", "discard"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        dmi_policy policy, before;
        char error[256];
        memset(&before, 0xee, sizeof before);
        before.size = sizeof before;
        if (parse(cases[i].text, &policy, error) != -1 || errno != EINVAL)
            test_failed(__FILE__, __LINE__, "\"%s\" was accepted", cases[i].text);
        if (!strstr(error, cases[i].wrong) || !strstr(error, cases[i].accepted) ||
            !strstr(error, "accepted: "))
            test_failed(__FILE__, __LINE__, "\"%s\": %s", cases[i].text, error);
        CHECK(same(&policy, &before)); /* a failure writes nothing */
    }
}

TEST(messages_are_cut_to_their_room) {
    char long_text[4000];
    memset(long_text, 'x', sizeof long_text - 1);
    long_text[sizeof long_text - 1] = 0;
    dmi_policy policy = {.size = sizeof policy};
    for (size_t room = 0; room < 40; room++) {
        char error[64];
        memset(error, '#', sizeof error);
        CHECK_EQ(dmi_policy_parse(long_text, &policy, error, room), -1);
        CHECK(error[room] == '#');
        if (room) CHECK_EQ(strlen(error), room - 1);
    }
    CHECK_EQ(dmi_policy_parse(long_text, &policy, NULL, 100), -1);
    char error[256];
    /* 30 bytes end inside the last of fifteen two-byte letters and one of three. */
    CHECK_EQ(dmi_policy_parse("lazy:delay=aääääääääääääääääää", &policy, error, sizeof error), -1);
    CHECK(strstr(error, "'aääääääääääääää...'"));
}

TEST(sizes_of_structs_are_obeyed) {
    struct {
        dmi_policy policy;
        unsigned char behind[16];
    } newer;
    memset(&newer, 0x5a, sizeof newer);
    newer.policy.size = sizeof newer;
    CHECK_EQ(dmi_policy_parse("lazy:delay=2", &newer.policy, NULL, 0), 0);
    CHECK_EQ(newer.policy.size, sizeof newer); /* a newer caller's struct keeps its size */
    for (size_t i = 0; i < sizeof newer.behind; i++) CHECK_EQ(newer.behind[i], 0x5a);
    CHECK_EQ(_dmi_policy_check(&newer.policy, NULL, 0), 0);
    char error[256] = "";
    dmi_policy policy;
    _dmi_policy_set_default(&policy, DMI_WHEN_LAZY);
    policy.size = sizeof policy - 1;
    CHECK_EQ(dmi_policy_parse("lazy", &policy, error, sizeof error), -1);
    CHECK(strstr(error, "size"));
    CHECK_EQ(_dmi_policy_check(&policy, error, sizeof error), EINVAL);
    CHECK(strstr(error, "size is"));
    CHECK_EQ(dmi_policy_format(&policy, error, sizeof error), -1);
    CHECK_EQ(dmi_policy_parse("lazy", NULL, error, sizeof error), -1);
    policy.size = sizeof policy;
    CHECK_EQ(dmi_policy_parse(NULL, &policy, error, sizeof error), -1);
}

TEST(a_struct_is_checked_where_its_policy_uses_it) {
    char error[256];
    dmi_policy policy;
#define REFUSED(when_, field, value, word)                                                         \
    do {                                                                                           \
        _dmi_policy_set_default(&policy, when_);                                                   \
        policy.field = value;                                                                      \
        CHECK_EQ(_dmi_policy_check(&policy, error, sizeof error), EINVAL);                         \
        CHECK(strstr(error, word));                                                                \
        CHECK_EQ(dmi_policy_format(&policy, error, sizeof error), -1);                             \
    } while (0)
    REFUSED(DMI_WHEN_LAZY, when, 7, "never, eager");
    REFUSED(DMI_WHEN_LAZY, how, 4, "discard, decommit, offer");
    REFUSED(DMI_WHEN_LAZY, delay, (double)NAN, "seconds");
    REFUSED(DMI_WHEN_LAZY, delay, -0.001, "seconds");
    REFUSED(DMI_WHEN_LAZY, delay, 1.1e9, "seconds");
    REFUSED(DMI_WHEN_LAZY, delay, (double)INFINITY, "seconds");
    REFUSED(DMI_WHEN_DECAY, half_life, 0, "above 0");
    REFUSED(DMI_WHEN_THRESHOLD, block, UINT64_C(1) << 47, "bytes");
    REFUSED(DMI_WHEN_THRESHOLD, total, UINT64_MAX, "bytes");
    REFUSED(DMI_WHEN_THRESHOLD, combine_or, 2, "and, or");
    REFUSED(DMI_WHEN_BUDGET, ratio, (double)NAN, "fraction");
    REFUSED(DMI_WHEN_PRESSURE, psi, 0, "percent");
    REFUSED(DMI_WHEN_PRESSURE, headroom, 1.5, "fraction");
#undef REFUSED
    _dmi_policy_set_default(&policy, DMI_WHEN_NEVER);
    policy.delay = policy.ratio = (double)NAN; /* never has no use for them */
    policy.block = UINT64_MAX;
    policy.combine_or = 9;
    CHECK_EQ(_dmi_policy_check(&policy, error, sizeof error), 0);
}

TEST(the_default_how_is_the_systems) {
    dmi_policy policy;
    _dmi_os_use(&_dmi_fake_backend);
    _dmi_policy_set_default(&policy, DMI_WHEN_LAZY);
    _dmi_fake_strict_set(false);
    CHECK_EQ(_dmi_policy_how(&policy), DMI_HOW_DISCARD);
    _dmi_fake_strict_set(true);
    CHECK_EQ(_dmi_policy_how(&policy), DMI_HOW_DECOMMIT);
    policy.how = DMI_HOW_OFFER;
    CHECK_EQ(_dmi_policy_how(&policy), DMI_HOW_OFFER);
    _dmi_fake_strict_set(false);
    _dmi_os_use(&_dmi_os_native);
}

static void written(const char *text, const char *expected) {
    dmi_policy policy = good(text);
    char out[256];
    int length = dmi_policy_format(&policy, out, sizeof out);
    if (length != (int)strlen(out) || strcmp(out, expected) != 0)
        test_failed(__FILE__, __LINE__, "\"%s\" was written as \"%s\"", text, out);
}

TEST(only_what_is_no_default_is_written) {
    written("lazy:delay=1:how=offer", "lazy:how=offer");
    written("lazy:how=offer:delay=0.1", "lazy:delay=0.1:how=offer");
    written("lazy:delay=1000000000", "lazy:delay=1000000000");
    written("lazy:delay=0.000001", "lazy:delay=1e-6");
    written("lazy:delay=0.00001", "lazy:delay=0.00001");
    written("lazy:delay=1.5e-7", "lazy:delay=1.5e-7");
    written("lazy:delay=123456.789", "lazy:delay=123456.789");
    written("threshold:block=4096:total=65536:combine=and", "threshold");
    written("threshold:block=8192:total=1536:combine=or",
            "threshold:block=8K:total=1536:combine=or");
    written("threshold:block=1048576:total=3G", "threshold:block=1M:total=3G");
    written("threshold:block=0:total=4096G", "threshold:block=0:total=4096G");
    written("pressure:headroom=0.10:psi=1e1", "pressure");
    char out[8];
    dmi_policy policy = good("lazy:delay=0.125");
    CHECK_EQ(dmi_policy_format(&policy, out, sizeof out), 16); /* as snprintf does */
    CHECK(strcmp(out, "lazy:de") == 0);
    CHECK_EQ(dmi_policy_format(&policy, NULL, 0), 16);
}

TEST(random_policies_read_back_as_they_were_written) {
    uint64_t seed = 7;
    for (int round = 0; round < 5000; round++) {
        dmi_policy policy, back;
        char text[256], error[256];
        _dmi_policy_set_default(&policy, (dmi_when)(test_random(&seed) % 7));
        policy.how = (uint32_t)(test_random(&seed) % 4);
        double unit = (double)(test_random(&seed) >> 11) / 9007199254740992.0;
        double scale[] = {1, 1e-9, 1e9, 100};
        double any = unit * scale[test_random(&seed) % 4];
        if (policy.when == DMI_WHEN_LAZY) policy.delay = any;
        if (policy.when == DMI_WHEN_DECAY) policy.half_life = any + 1e-12;
        if (policy.when == DMI_WHEN_BUDGET) policy.ratio = any;
        if (policy.when == DMI_WHEN_PRESSURE) {
            policy.psi = 1e-9 + unit * 99;
            policy.headroom = unit;
        }
        if (policy.when == DMI_WHEN_THRESHOLD) {
            policy.block = test_random(&seed) >> (17 + test_random(&seed) % 40);
            policy.total = (test_random(&seed) >> 50) << (test_random(&seed) % 33);
            policy.combine_or = (uint32_t)(test_random(&seed) % 2);
        }
        int length = dmi_policy_format(&policy, text, sizeof text);
        REQUIRE_EQ(length, strlen(text));
        REQUIRE_EQ(parse(text, &back, error), 0);
        REQUIRE(same(&policy, &back));
    }
}

/* ---- numbers, against the C library's, which is exact too ------------------------------------------ */

static void like_strtod(const char *text) {
    double got = -1, expected = strtod(text, NULL);
    bool read = _dmi_number_read(text, strlen(text), &got);
    if (read != (expected <= DBL_MAX) || (read && memcmp(&got, &expected, sizeof got) != 0))
        test_failed(__FILE__, __LINE__, "%s: read %d as %.17g, not %.17g", text, read, got,
                    expected);
}

TEST(numbers_are_rounded_correctly) {
    static const char *const hard[] = {
        "0",
        "0.0",
        "0e5",
        "1",
        "9007199254740993",
        "9007199254740992.99999999999999999999",
        "9007199254740993.00000000000000000001",
        "2.2250738585072011e-308",
        "2.2250738585072014e-308",
        "4.9406564584124654e-324",
        "2.4703282292062327e-324",
        "2.4703282292062328e-324",
        "1e-324",
        "1e-399",
        "1e-400",
        "1e-401",
        "1e-2000",
        "1.7976931348623157e308",
        "1.7976931348623158e308",
        "1.7976931348623159e308",
        "1e308",
        "1e309",
        "1e310",
        "1e311",
        "0.000000000000000000000000000001e340",
        "8.5e22",
        "0.500000000000000166533453693773481063544750213623046875",
        "1000000000000000000000000000000000000000000000000000000000000000e-400",
        "9999999999999999999999999999999999999999999999999999999999999999e245",
        "9999999999999999999999999999999999999999999999999999999999999999e244"};
    for (size_t i = 0; i < sizeof hard / sizeof *hard; i++) like_strtod(hard[i]);
    double value;
    CHECK(!_dmi_number_read("10000000000000000000000000000000000000000000000000000000000000000", 65,
                            &value)); /* 65 digits */
}

TEST(random_numbers_are_rounded_correctly) {
    uint64_t seed = 11;
    char text[128];
    for (int round = 0; round < 6000; round++) {
        size_t digits = 1 + test_random(&seed) % 40, length = 0;
        size_t point = test_random(&seed) % (digits + 1);
        for (size_t i = 0; i < digits; i++) {
            if (i == point) text[length++] = '.';
            text[length++] = (char)('0' + test_random(&seed) % 10);
        }
        int exponent = (int)(test_random(&seed) % 720) - 380;
        snprintf(text + length, sizeof text - length, "e%d", exponent);
        like_strtod(text);
    }
    /* Halfway between two doubles, and one digit beside it. */
    for (int round = 0; round < 6000; round++) {
        uint64_t bits = test_random(&seed) >> 11 | UINT64_C(1) << 52;
        snprintf(text, sizeof text, "%llu5e-1", (unsigned long long)bits);
        like_strtod(text);
        snprintf(text, sizeof text, "%llu", (unsigned long long)(bits << 1 | 1));
        like_strtod(text);
    }
}

TEST(random_numbers_are_written_as_short_as_they_read_back) {
    uint64_t seed = 13;
    for (int round = 0; round < 4000; round++) {
        uint64_t bits = test_random(&seed) & INT64_MAX;
        double value, back;
        memcpy(&value, &bits, sizeof value);
        if (round % 2) value = (double)(test_random(&seed) % 1000000) / 1000;
        if (!(value <= DBL_MAX)) continue;
        char text[DMI_NUMBER_TEXT], shorter[64];
        size_t length = _dmi_number_write(value, text);
        REQUIRE_EQ(length, strlen(text));
        REQUIRE(_dmi_number_read(text, length, &back));
        REQUIRE(memcmp(&back, &value, sizeof back) == 0);
        size_t digits = 0;
        bool leading = true;
        for (const char *c = text; *c && *c != 'e'; c++) {
            if (*c == '.' || (leading && *c == '0')) continue;
            leading = false;
            digits++;
        }
        if (digits < 2 || (!strchr(text, '.') && !strchr(text, 'e'))) continue;
        snprintf(shorter, sizeof shorter, "%.*e", (int)digits - 2, value);
        REQUIRE(strtod(shorter, NULL) < value || strtod(shorter, NULL) > value);
    }
    char text[DMI_NUMBER_TEXT];
    CHECK(_dmi_number_write(0, text) == 1 && strcmp(text, "0") == 0);
    (void)_dmi_number_write(DBL_MAX, text);
    CHECK(strcmp(text, "1.7976931348623157e308") == 0);
}

TEST(a_decimal_comma_changes_nothing) {
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8",  "fr_FR.UTF-8",
                                        "de_DE",       "nl_NL.UTF-8", "German_Germany.1252",
                                        "de-DE"};
    const char *set = NULL;
    for (size_t i = 0; i < sizeof names / sizeof *names && !set; i++)
        set = setlocale(LC_ALL, names[i]);
    if (!set) test_skip("no locale with a decimal comma is installed");
    dmi_policy policy = good("lazy:delay=0.125");
    char text[64];
    (void)dmi_policy_format(&policy, text, sizeof text);
    setlocale(LC_ALL, "C");
    CHECK(policy.delay == 0.125);
    CHECK(strcmp(text, "lazy:delay=0.125") == 0);
}
