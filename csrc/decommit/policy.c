/* policy.c - checking policies, and their text form "when{:key=value}". */
#include "policy.h"

#include <errno.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "../os/os.h"
#include "number.h"
#include "policies.h"

#define HAS(index) (1u << (index))

static bool accepts(const dmi_policy_row *which, size_t k) { return which->keys >> k & 1; }

/* ---- fields -------------------------------------------------------------------------------------- */

static void *at(dmi_policy *policy, const dmi_policy_key *k) { return (char *)policy + k->field; }
static const void *const_at(const dmi_policy *policy, const dmi_policy_key *k) {
    return (const char *)policy + k->field;
}

static double number_of(const dmi_policy *policy, const dmi_policy_key *k) {
    return *(const double *)const_at(policy, k);
}
static uint64_t bytes_of(const dmi_policy *policy, const dmi_policy_key *k) {
    return *(const uint64_t *)const_at(policy, k);
}
static uint32_t word_of(const dmi_policy *policy, const dmi_policy_key *k) {
    return *(const uint32_t *)const_at(policy, k);
}

static void set_usual(dmi_policy *policy, const dmi_policy_key *k) {
    if (k->form == DMI_KEY_NUMBER) *(double *)at(policy, k) = k->usual;
    else if (k->form == DMI_KEY_BYTES) *(uint64_t *)at(policy, k) = (uint64_t)k->usual;
    else *(uint32_t *)at(policy, k) = (uint32_t)k->usual;
}

static bool is_usual(const dmi_policy *policy, const dmi_policy_key *k) {
    if (k->form == DMI_KEY_NUMBER)
        return !(number_of(policy, k) < k->usual || number_of(policy, k) > k->usual);
    if (k->form == DMI_KEY_BYTES) return bytes_of(policy, k) == (uint64_t)k->usual;
    return word_of(policy, k) == (uint32_t)k->usual;
}

/* Written so that a NaN is out of range. */
static bool in_range(const dmi_policy *policy, const dmi_policy_key *k) {
    if (k->form == DMI_KEY_BYTES) return bytes_of(policy, k) <= (uint64_t)k->most;
    if (k->form == DMI_KEY_WORD) {
        uint32_t words = 0;
        while (k->words[words]) words++;
        return word_of(policy, k) < words;
    }
    double value = number_of(policy, k);
    return (k->above ? value > k->least : value >= k->least) && value <= k->most;
}

void _dmi_policy_set_default(dmi_policy *policy, dmi_when when) {
    memset(policy, 0, sizeof *policy);
    policy->size = sizeof *policy;
    policy->when = (uint32_t)when;
    for (size_t k = 0; k < DMI_KEYS; k++) set_usual(policy, &_dmi_policy_keys[k]);
}

dmi_how _dmi_policy_how(const dmi_policy *policy) {
    if (policy->how != DMI_HOW_DEFAULT) return (dmi_how)policy->how;
    return _dmi_os_strict_default() ? DMI_HOW_DECOMMIT : DMI_HOW_DISCARD;
}

int _dmi_policy_probe(const dmi_policy *policy) {
    const dmi_policy_row *which = &_dmi_policies[policy->when];
    return which->probe ? which->probe() : 0;
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
    for (size_t i = 0; i < DMI_POLICIES; i++)
        put(out, "%s%s", i ? ", " : "", _dmi_policies[i].name);
}

static void put_keys(writer *out, const dmi_policy_row *which) {
    const char *comma = "";
    for (size_t k = 0; k < DMI_KEYS; k++)
        if (accepts(which, k)) {
            put(out, "%s%s", comma, _dmi_policy_keys[k].name);
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
    if (policy->when >= DMI_POLICIES) {
        put(&out, "no policy has the number %u; accepted: 0 to %d, which are ",
            (unsigned)policy->when, DMI_POLICIES - 1);
        put_policies(&out);
        return EINVAL;
    }
    const dmi_policy_row *which = &_dmi_policies[policy->when];
    for (size_t k = 0; k < DMI_KEYS; k++)
        if (accepts(which, k) && !in_range(policy, &_dmi_policy_keys[k])) {
            put(&out, "%s: %s is out of range; accepted: %s", which->name, _dmi_policy_keys[k].name,
                _dmi_policy_keys[k].accepted);
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
        if (*value > (uint64_t)DMI_KEY_BYTES_MOST) return false;
    }
    if (*value > (uint64_t)DMI_KEY_BYTES_MOST >> shift) return false;
    *value <<= shift;
    return true;
}

static bool is_word(const char *word, const char *text, size_t length) {
    return length != 0 && strlen(word) == length && memcmp(word, text, length) == 0;
}

static bool read_value(dmi_policy *policy, const dmi_policy_key *k, const char *text,
                       size_t length) {
    switch (k->form) {
    case DMI_KEY_NUMBER:
        if (!_dmi_number_read(text, length, at(policy, k))) return false;
        break;
    case DMI_KEY_BYTES:
        if (!read_bytes(text, length, at(policy, k))) return false;
        break;
    case DMI_KEY_WORD: {
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
    const dmi_policy_row *which = &_dmi_policies[policy->when];
    const char *equals = memchr(text, '=', length);
    size_t name = equals ? (size_t)(equals - text) : length;
    size_t k = 0;
    while (k < DMI_KEYS && !(accepts(which, k) && is_word(_dmi_policy_keys[k].name, text, name)))
        k++;
    if (k == DMI_KEYS) {
        put(out, "%s (%s) has no key '%s'; accepted: ", which->name, which->doc,
            quoted(text, name).text);
        put_keys(out, which);
        return false;
    }
    if (*given & HAS(k)) {
        put(out, "%s: %s is given twice; accepted: once", which->name, _dmi_policy_keys[k].name);
        return false;
    }
    *given |= HAS(k);
    const char *value = equals ? equals + 1 : text + length;
    size_t rest = (size_t)(text + length - value);
    if (equals && read_value(policy, &_dmi_policy_keys[k], value, rest)) return true;
    if (rest == 0) put(out, "%s: %s has no value", which->name, _dmi_policy_keys[k].name);
    else
        put(out, "%s: %s cannot be '%s'", which->name, _dmi_policy_keys[k].name,
            quoted(value, rest).text);
    put(out, "; accepted: %s", _dmi_policy_keys[k].accepted);
    return false;
}

static bool read_policy(dmi_policy *policy, const char *text, writer *out) {
    size_t length = strcspn(text, ":"), when = 0;
    while (when < DMI_POLICIES && !is_word(_dmi_policies[when].name, text, length)) when++;
    if (when == DMI_POLICIES) {
        if (length) put(out, "no policy is called '%s'; accepted: ", quoted(text, length).text);
        else put(out, "the name of the policy is missing; accepted: ");
        put_policies(out);
        return false;
    }
    _dmi_policy_set_default(policy, (dmi_when)when);
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

static void put_value(writer *out, const dmi_policy *policy, const dmi_policy_key *k) {
    if (k->form == DMI_KEY_NUMBER) {
        char number[DMI_NUMBER_TEXT];
        (void)_dmi_number_write(number_of(policy, k), number);
        put(out, "%s", number);
    } else if (k->form == DMI_KEY_WORD) {
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
    const dmi_policy_row *which = &_dmi_policies[policy->when];
    writer out = {text, text ? text_size : 0, 0};
    put(&out, "%s", which->name);
    for (size_t k = 0; k < DMI_KEYS; k++) {
        if (!accepts(which, k) || is_usual(policy, &_dmi_policy_keys[k])) continue;
        put(&out, ":%s=", _dmi_policy_keys[k].name);
        put_value(&out, policy, &_dmi_policy_keys[k]);
    }
    return (int)out.length;
}
