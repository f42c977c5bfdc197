/* policy.c - the table of policies, and their text form "when{:key=value}". */
#include "policy.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "../os/os.h"
#include "number.h"

/* ---- the table ----------------------------------------------------------------------------------- */

typedef enum form { NUMBER, BYTES, WORD } form;

typedef struct key {
    const char *name;
    size_t field; /* offset in dmi_policy: a double, a uint64_t or a uint32_t, as the form has it */
    form form;
    double least, most, usual; /* NUMBER, BYTES: range and default. WORD: the default's index */
    bool above;                /* NUMBER: least itself is refused */
    const char *const *words;  /* WORD: what each index is called; "" cannot be written */
    const char *accepted;      /* for error messages */
} key;

static const char *const combine_words[] = {"and", "or", NULL};
static const char *const how_words[] = {"", "discard", "decommit", "offer", NULL};

#define FIELD(member) .name = #member, .field = offsetof(dmi_policy, member)
/* 2^47: what a process can address. Exact as a double. */
#define BYTES_MOST 140737488355327.0

enum { DELAY, HALF_LIFE, BLOCK, TOTAL, COMBINE, RATIO, PSI, HEADROOM, HOW, KEYS };
static const key keys[KEYS] = {
    [DELAY] = {FIELD(delay), .form = NUMBER, .most = 1e9, .usual = 1,
               .accepted = "seconds, 0 to 1e9"},
    [HALF_LIFE] = {FIELD(half_life), .form = NUMBER, .most = 1e9, .usual = 1, .above = true,
                   .accepted = "seconds, above 0 and at most 1e9"},
    [BLOCK] = {FIELD(block), .form = BYTES, .most = BYTES_MOST, .usual = 4096,
               .accepted = "bytes below 2^47, K, M and G are powers of 1024"},
    [TOTAL] = {FIELD(total), .form = BYTES, .most = BYTES_MOST, .usual = 65536,
               .accepted = "bytes below 2^47, K, M and G are powers of 1024"},
    [COMBINE] = {.name = "combine",
                 .field = offsetof(dmi_policy, combine_or),
                 .form = WORD,
                 .words = combine_words,
                 .accepted = "and, or"},
    [RATIO] = {FIELD(ratio), .form = NUMBER, .most = 1e9, .usual = 0.1,
               .accepted = "a fraction of busy, 0 to 1e9"},
    [PSI] = {FIELD(psi), .form = NUMBER, .most = 100, .usual = 10, .above = true,
             .accepted = "percent, above 0 and at most 100"},
    [HEADROOM] = {FIELD(headroom), .form = NUMBER, .most = 1, .usual = 0.1,
                  .accepted = "a fraction, 0 to 1"},
    [HOW] = {FIELD(how), .form = WORD, .words = how_words, .accepted = "discard, decommit, offer"},
};

#define HAS(name) (1u << (name))

/* Every policy: its keys, and in one line when a free page goes. */
static const struct policy {
    const char *name;
    unsigned keys;
    const char *doc;
} policies[] = {
    [DMI_WHEN_NEVER] = {"never", HAS(HOW), "keep everything"},
    [DMI_WHEN_EAGER] = {"eager", HAS(HOW), "as soon as the page is free"},
    [DMI_WHEN_LAZY] = {"lazy", HAS(DELAY) | HAS(HOW), "once it stayed free for a delay"},
    [DMI_WHEN_DECAY] = {"decay", HAS(HALF_LIFE) | HAS(HOW),
                        "along a falling curve after each peak"},
    [DMI_WHEN_THRESHOLD] = {"threshold", HAS(BLOCK) | HAS(TOTAL) | HAS(COMBINE) | HAS(HOW),
                            "when a free block and the total are large enough"},
    [DMI_WHEN_BUDGET] = {"budget", HAS(RATIO) | HAS(HOW),
                         "when more than a fraction of busy is retained"},
    [DMI_WHEN_PRESSURE] = {"pressure", HAS(PSI) | HAS(HEADROOM) | HAS(HOW),
                           "when the machine runs short of memory"},
};
enum { POLICIES = sizeof policies / sizeof *policies };

static bool takes(const struct policy *which, size_t k) { return which->keys >> k & 1; }

/* ---- fields -------------------------------------------------------------------------------------- */

static void *at(dmi_policy *policy, const key *k) { return (char *)policy + k->field; }
static const void *seen(const dmi_policy *policy, const key *k) {
    return (const char *)policy + k->field;
}

static double number_of(const dmi_policy *policy, const key *k) {
    return *(const double *)seen(policy, k);
}
static uint64_t bytes_of(const dmi_policy *policy, const key *k) {
    return *(const uint64_t *)seen(policy, k);
}
static uint32_t word_of(const dmi_policy *policy, const key *k) {
    return *(const uint32_t *)seen(policy, k);
}

static void set_usual(dmi_policy *policy, const key *k) {
    if (k->form == NUMBER) *(double *)at(policy, k) = k->usual;
    else if (k->form == BYTES) *(uint64_t *)at(policy, k) = (uint64_t)k->usual;
    else *(uint32_t *)at(policy, k) = (uint32_t)k->usual;
}

static bool is_usual(const dmi_policy *policy, const key *k) {
    if (k->form == NUMBER)
        return !(number_of(policy, k) < k->usual || number_of(policy, k) > k->usual);
    if (k->form == BYTES) return bytes_of(policy, k) == (uint64_t)k->usual;
    return word_of(policy, k) == (uint32_t)k->usual;
}

/* Written so that a NaN is out of range. */
static bool in_range(const dmi_policy *policy, const key *k) {
    if (k->form == BYTES) return bytes_of(policy, k) <= (uint64_t)k->most;
    if (k->form == WORD) {
        uint32_t words = 0;
        while (k->words[words]) words++;
        return word_of(policy, k) < words;
    }
    double value = number_of(policy, k);
    return (k->above ? value > k->least : value >= k->least) && value <= k->most;
}

void _dmi_policy_default(dmi_policy *policy, dmi_when when) {
    memset(policy, 0, sizeof *policy);
    policy->size = sizeof *policy;
    policy->when = (uint32_t)when;
    for (size_t k = 0; k < KEYS; k++) set_usual(policy, &keys[k]);
}

dmi_how _dmi_policy_how(const dmi_policy *policy) {
    if (policy->how != DMI_HOW_DEFAULT) return (dmi_how)policy->how;
    return _dmi_os_strict_default() ? DMI_HOW_DECOMMIT : DMI_HOW_DISCARD;
}

/* ---- error messages ------------------------------------------------------------------------------ */

/* Text that is cut where its room ends, and knows how long it would be. */
typedef struct writer {
    char *text;
    size_t room, length;
} writer;

__attribute__((format(printf, 2, 3))) static void put(writer *out, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    size_t left = out->length < out->room ? out->room - out->length : 0;
    int more = vsnprintf(left ? out->text + out->length : NULL, left, format, arguments);
    va_end(arguments);
    if (more > 0) out->length += (size_t)more;
}

static void put_policies(writer *out) {
    for (size_t i = 0; i < POLICIES; i++) put(out, "%s%s", i ? ", " : "", policies[i].name);
}

static void put_keys(writer *out, const struct policy *which) {
    const char *comma = "";
    for (size_t k = 0; k < KEYS; k++)
        if (takes(which, k)) {
            put(out, "%s%s", comma, keys[k].name);
            comma = ", ";
        }
}

/* What a caller wrote, short enough for a message, and without what a terminal would obey. */
typedef struct quote {
    char text[36];
} quote;

static quote quoted(const char *text, size_t length) {
    quote q;
    size_t shown = length > 30 ? 30 : length;
    for (size_t i = 0; i < shown; i++)
        q.text[i] = (unsigned char)text[i] < ' ' || text[i] == 127 ? '?' : text[i];
    if (length > shown) {
        /* Not in the middle of a UTF-8 character. */
        while (shown && ((unsigned char)text[shown] & 0xc0) == 0x80) shown--;
        memcpy(q.text + shown, "...", 3);
        shown += 3;
    }
    q.text[shown] = 0;
    return q;
}

/* ---- checking and reading ------------------------------------------------------------------------ */

int _dmi_policy_check(const dmi_policy *policy, char *error, size_t error_size) {
    writer out = {error, error ? error_size : 0, 0};
    if (policy->size < sizeof *policy) {
        put(&out, "size is too small for a dmi_policy; accepted: %u or more",
            (unsigned)sizeof *policy);
        return EINVAL;
    }
    if (policy->when >= POLICIES) {
        put(&out, "no policy has the number %u; accepted: 0 to %d, which are ",
            (unsigned)policy->when, POLICIES - 1);
        put_policies(&out);
        return EINVAL;
    }
    const struct policy *which = &policies[policy->when];
    for (size_t k = 0; k < KEYS; k++)
        if (takes(which, k) && !in_range(policy, &keys[k])) {
            put(&out, "%s: %s is out of range; accepted: %s", which->name, keys[k].name,
                keys[k].accepted);
            return EINVAL;
        }
    return 0;
}

static bool read_bytes(const char *text, size_t length, uint64_t *value) {
    unsigned shift = 0;
    if (length > 1) {
        char unit = text[length - 1];
        shift = unit == 'K' ? 10 : unit == 'M' ? 20 : unit == 'G' ? 30 : 0;
        if (shift) length--;
    }
    if (length == 0) return false;
    *value = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9') return false;
        *value = *value * 10 + (uint64_t)(text[i] - '0');
        if (*value > (uint64_t)BYTES_MOST) return false;
    }
    if (*value > (uint64_t)BYTES_MOST >> shift) return false;
    *value <<= shift;
    return true;
}

static bool is_word(const char *word, const char *text, size_t length) {
    return length != 0 && strlen(word) == length && memcmp(word, text, length) == 0;
}

static bool read_value(dmi_policy *policy, const key *k, const char *text, size_t length) {
    switch (k->form) {
    case NUMBER:
        if (!_dmi_number_read(text, length, at(policy, k))) return false;
        break;
    case BYTES:
        if (!read_bytes(text, length, at(policy, k))) return false;
        break;
    case WORD: {
        uint32_t i = 0;
        while (k->words[i] && !is_word(k->words[i], text, length)) i++;
        *(uint32_t *)at(policy, k) = i;
        break;
    }
    }
    return in_range(policy, k);
}

/* One "key=value" of the policy; given: the keys seen so far. False with a message. */
static bool read_part(dmi_policy *policy, unsigned *given, const char *text, size_t length,
                      writer *out) {
    const struct policy *which = &policies[policy->when];
    const char *equals = memchr(text, '=', length);
    size_t name = equals ? (size_t)(equals - text) : length;
    size_t k = 0;
    while (k < KEYS && !(takes(which, k) && is_word(keys[k].name, text, name))) k++;
    if (k == KEYS) {
        put(out, "%s (%s) has no key '%s'; accepted: ", which->name, which->doc,
            quoted(text, name).text);
        put_keys(out, which);
        return false;
    }
    if (*given & HAS(k)) {
        put(out, "%s: %s is given twice; accepted: once", which->name, keys[k].name);
        return false;
    }
    *given |= HAS(k);
    const char *value = equals ? equals + 1 : text + length;
    size_t rest = (size_t)(text + length - value);
    if (equals && read_value(policy, &keys[k], value, rest)) return true;
    if (rest == 0) put(out, "%s: %s has no value", which->name, keys[k].name);
    else put(out, "%s: %s cannot be '%s'", which->name, keys[k].name, quoted(value, rest).text);
    put(out, "; accepted: %s", keys[k].accepted);
    return false;
}

static bool read_policy(dmi_policy *policy, const char *text, writer *out) {
    size_t length = strcspn(text, ":"), when = 0;
    while (when < POLICIES && !is_word(policies[when].name, text, length)) when++;
    if (when == POLICIES) {
        if (length) put(out, "no policy is called '%s'; accepted: ", quoted(text, length).text);
        else put(out, "the name of the policy is missing; accepted: ");
        put_policies(out);
        return false;
    }
    _dmi_policy_default(policy, (dmi_when)when);
    unsigned given = 0;
    for (text += length; *text; text += length) {
        length = strcspn(++text, ":");
        if (!read_part(policy, &given, text, length, out)) return false;
    }
    return true;
}

int dmi_policy_parse(const char *text, dmi_policy *policy, char *error, size_t error_size) {
    writer out = {error, error ? error_size : 0, 0};
    dmi_policy read;
    if (!policy || policy->size < sizeof read) {
        put(&out, "the policy's size is not set; accepted: %u or more", (unsigned)sizeof read);
    } else if (!text) {
        put(&out, "there is no text; accepted: when{:key=value}");
    } else if (read_policy(&read, text, &out)) {
        read.size = policy->size;
        *policy = read;
        return 0;
    }
    errno = EINVAL;
    return -1;
}

/* ---- writing --------------------------------------------------------------------------------------- */

static void put_value(writer *out, const dmi_policy *policy, const key *k) {
    if (k->form == NUMBER) {
        char number[DMI_NUMBER_TEXT];
        (void)_dmi_number_write(number_of(policy, k), number);
        put(out, "%s", number);
    } else if (k->form == WORD) {
        put(out, "%s", k->words[word_of(policy, k)]);
    } else {
        uint64_t bytes = bytes_of(policy, k);
        size_t unit = 0;
        while (bytes && bytes % 1024 == 0 && unit < 3) {
            bytes /= 1024;
            unit++;
        }
        put(out, "%llu%.*s", (unsigned long long)bytes, unit ? 1 : 0, &"?KMG"[unit]);
    }
}

int dmi_policy_format(const dmi_policy *policy, char *text, size_t text_size) {
    if (!policy || _dmi_policy_check(policy, NULL, 0)) {
        errno = EINVAL;
        return -1;
    }
    const struct policy *which = &policies[policy->when];
    writer out = {text, text ? text_size : 0, 0};
    put(&out, "%s", which->name);
    for (size_t k = 0; k < KEYS; k++) {
        if (!takes(which, k) || is_usual(policy, &keys[k])) continue;
        put(&out, ":%s=", keys[k].name);
        put_value(&out, policy, &keys[k]);
    }
    return (int)out.length;
}
