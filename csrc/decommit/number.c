/* number.c - decimal numbers as text: read and written exactly, without the C locale, whose decimal
 * point a host program may have changed in the middle of anything. */
#include "number.h"

#include <float.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* Exponents beyond these are too large or 0 whatever DMI_NUMBER_DIGITS digits stand before them. */
enum { EXPONENT_MOST = 310, EXPONENT_LEAST = -400 };

/* Unsigned integers of up to 2,048 bits: 5^400 has 929, 64 digits have 213, an alignment 64 more. */
enum { WORDS = 64 };
typedef struct big {
    uint32_t word[WORDS]; /* least significant first */
} big;

static void times_plus(big *n, uint32_t factor, uint32_t term) {
    uint64_t carry = term;
    for (size_t i = 0; i < WORDS; i++) {
        carry += (uint64_t)n->word[i] * factor;
        n->word[i] = (uint32_t)carry;
        carry >>= 32;
    }
}

static void times_power_of_5(big *n, int power) {
    for (; power >= 13; power -= 13) times_plus(n, 1220703125, 0); /* 5^13, the most that fits */
    for (; power > 0; power--) times_plus(n, 5, 0);
}

static int bits_of(const big *n) {
    for (int i = WORDS; i-- > 0;)
        if (n->word[i]) return i * 32 + 32 - __builtin_clz(n->word[i]);
    return 0;
}

static void shift_left(big *n, int bits) {
    int words = bits / 32, rest = bits % 32;
    for (int i = WORDS; i-- > 0;) {
        uint64_t high = i >= words ? n->word[i - words] : 0;
        uint64_t low = i > words ? n->word[i - words - 1] : 0;
        n->word[i] = (uint32_t)((high << 32 | low) << rest >> 32);
    }
}

static bool at_least(const big *a, const big *b) {
    for (int i = WORDS; i-- > 0;)
        if (a->word[i] != b->word[i]) return a->word[i] > b->word[i];
    return true;
}

static void subtract(big *a, const big *b) {
    int64_t borrow = 0;
    for (size_t i = 0; i < WORDS; i++) {
        borrow += (int64_t)a->word[i] - b->word[i];
        a->word[i] = (uint32_t)borrow;
        borrow >>= 32;
    }
}

/* above / below * 2^exponent, rounded to nearest, ties to even. Both are not 0. */
static double quotient(big *above, big *below, int exponent) {
    /* Align, so that the quotient lies in [1, 2). */
    int shift = bits_of(above) - bits_of(below);
    if (shift > 0) shift_left(below, shift);
    else shift_left(above, -shift);
    if (!at_least(above, below)) {
        shift_left(above, 1);
        shift--;
    }
    exponent += shift;
    /* A double has 53 bits, and fewer below 2^-1022. One bit more is made, for rounding. */
    int bits = exponent >= -1022 ? 53 : 53 + exponent + 1022;
    if (bits < 0) return 0;
    uint64_t q = 0;
    for (int i = 0; i <= bits; i++) {
        bool one = at_least(above, below);
        if (one) subtract(above, below);
        q = q << 1 | one;
        shift_left(above, 1);
    }
    bool half = q & 1, more = bits_of(above) != 0;
    q >>= 1;
    if (half && (more || (q & 1))) q++;
    return ldexp((double)q, exponent - bits + 1);
}

static bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool _dmi_number_read(const char *text, size_t length, double *value) {
    const char *at = text, *end = text + length;
    big above = {{0}}, below = {{1}};
    size_t digits = 0;
    int exponent = 0;
    bool point = false;
    for (; at < end && (is_digit(*at) || (*at == '.' && !point)); at++) {
        if (*at == '.') {
            point = true;
            continue;
        }
        if (++digits > DMI_NUMBER_DIGITS) return false;
        times_plus(&above, 10, (uint32_t)(*at - '0'));
        exponent -= point;
    }
    if (digits == 0) return false;
    if (at < end && (*at == 'e' || *at == 'E')) {
        bool minus = ++at < end && *at == '-';
        if (at < end && (*at == '-' || *at == '+')) at++;
        if (at == end) return false;
        int written = 0;
        for (; at < end && is_digit(*at); at++)
            if (written < 100000) written = written * 10 + (*at - '0');
        exponent += minus ? -written : written;
    }
    if (at != end) return false;
    *value = 0;
    if (bits_of(&above) == 0 || exponent < EXPONENT_LEAST) return true;
    if (exponent > EXPONENT_MOST) return false;
    times_power_of_5(exponent > 0 ? &above : &below, exponent > 0 ? exponent : -exponent);
    *value = quotient(&above, &below, exponent);
    return *value <= DBL_MAX;
}

size_t _dmi_number_write(double value, char text[DMI_NUMBER_TEXT]) {
    char digits[20] = "0", shown[48];
    size_t count = 1;
    int exponent = 0;
    for (int precision = 0; value > 0 && precision < 17; precision++) {
        snprintf(shown, sizeof shown, "%.*e", precision, value);
        /* Digits before the e, whatever stands for a point between them. */
        count = 0;
        const char *at = shown;
        for (; *at != 'e'; at++)
            if (is_digit(*at)) digits[count++] = *at;
        bool minus = at[1] == '-';
        exponent = 0;
        for (at += 2; *at; at++) exponent = exponent * 10 + (*at - '0');
        if (minus) exponent = -exponent;
        int length =
            snprintf(shown, sizeof shown, "%.*se%d", (int)count, digits, exponent - (int)count + 1);
        double back;
        if (_dmi_number_read(shown, (size_t)length, &back) && back == value) break;
    }
    int length;
    if (exponent < -5 || exponent > 15)
        length = snprintf(text, DMI_NUMBER_TEXT, "%c%s%.*se%d", digits[0], count > 1 ? "." : "",
                          (int)count - 1, digits + 1, exponent);
    else if (exponent < 0)
        length = snprintf(text, DMI_NUMBER_TEXT, "0.%.*s%.*s", -exponent - 1, "00000", (int)count,
                          digits);
    else if ((int)count <= exponent + 1)
        length = snprintf(text, DMI_NUMBER_TEXT, "%.*s%.*s", (int)count, digits,
                          exponent + 1 - (int)count, "0000000000000000");
    else
        length = snprintf(text, DMI_NUMBER_TEXT, "%.*s.%.*s", exponent + 1, digits,
                          (int)count - exponent - 1, digits + exponent + 1);
    return (size_t)length;
}
