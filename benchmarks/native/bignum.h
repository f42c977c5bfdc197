/* bignum.h - natural numbers of any size for cfrac: each is one tiny malloc'd block that never
 * changes; every operation returns a new one. Slow on purpose where it costs blocks: that is the
 * workload.
 *
 * Digits are base 65,536, least significant first, without leading zeros; zero has no digit.
 */
#ifndef BIGNUM_H
#define BIGNUM_H

#include "bench.h"

typedef struct number {
    uint16_t length;
    uint16_t digit[];
} number;

static uint64_t number_blocks; /* how many were allocated */

static inline number *number_new(size_t length) {
    number *made = malloc(sizeof *made + length * sizeof made->digit[0]);
    if (!made) bench_fail("out of memory");
    number_blocks++;
    made->length = (uint16_t)length;
    memset(made->digit, 0, length * sizeof made->digit[0]);
    return made;
}

static inline number *number_trim(number *n) {
    while (n->length > 0 && n->digit[n->length - 1] == 0) n->length--;
    return n;
}

static inline number *number_of(uint64_t value) {
    number *made = number_new(4);
    for (size_t i = 0; i < 4; i++) made->digit[i] = (uint16_t)(value >> (16 * i));
    return number_trim(made);
}

static inline number *number_copy(const number *n) {
    number *made = number_new(n->length);
    memcpy(made->digit, n->digit, n->length * sizeof n->digit[0]);
    return made;
}

/* *target = value, and what *target held is freed: values may be made from it first. */
static inline void number_set(number **target, number *value) {
    free(*target);
    *target = value;
}

static inline int number_is_zero(const number *n) { return n->length == 0; }

static inline int number_is_one(const number *n) { return n->length == 1 && n->digit[0] == 1; }

static inline int number_compare(const number *a, const number *b) {
    if (a->length != b->length) return a->length < b->length ? -1 : 1;
    for (size_t i = a->length; i-- > 0;)
        if (a->digit[i] != b->digit[i]) return a->digit[i] < b->digit[i] ? -1 : 1;
    return 0;
}

static inline number *number_add(const number *a, const number *b) {
    size_t length = (a->length > b->length ? a->length : b->length) + (size_t)1;
    number *sum = number_new(length);
    uint32_t carry = 0;
    for (size_t i = 0; i < length; i++) {
        carry += (i < a->length ? a->digit[i] : 0u) + (i < b->length ? b->digit[i] : 0u);
        sum->digit[i] = (uint16_t)carry;
        carry >>= 16;
    }
    return number_trim(sum);
}

/* a >= b. */
static inline number *number_subtract(const number *a, const number *b) {
    number *difference = number_new(a->length);
    int32_t borrow = 0;
    for (size_t i = 0; i < a->length; i++) {
        int32_t digit = (int32_t)a->digit[i] - (i < b->length ? b->digit[i] : 0) - borrow;
        borrow = digit < 0;
        difference->digit[i] = (uint16_t)(digit + (borrow ? 65536 : 0));
    }
    return number_trim(difference);
}

static inline number *number_multiply(const number *a, const number *b) {
    number *product = number_new((size_t)a->length + b->length);
    for (size_t i = 0; i < a->length; i++) {
        uint32_t carry = 0;
        for (size_t k = 0; k < b->length; k++) {
            carry += (uint32_t)a->digit[i] * b->digit[k] + product->digit[i + k];
            product->digit[i + k] = (uint16_t)carry;
            carry >>= 16;
        }
        product->digit[i + b->length] = (uint16_t)carry;
    }
    return number_trim(product);
}

/* a mod small, without a block; small > 0. */
static inline uint32_t number_mod_small(const number *a, uint32_t small) {
    uint64_t rest = 0;
    for (size_t i = a->length; i-- > 0;) rest = ((rest << 16) | a->digit[i]) % small;
    return (uint32_t)rest;
}

/* a / small; small > 0. */
static inline number *number_divide_small(const number *a, uint32_t small) {
    number *quotient = number_new(a->length);
    uint64_t rest = 0;
    for (size_t i = a->length; i-- > 0;) {
        rest = (rest << 16) | a->digit[i];
        quotient->digit[i] = (uint16_t)(rest / small);
        rest %= small;
    }
    return number_trim(quotient);
}

/* a shifted left by 0 to 15 bits, one digit longer and not trimmed. */
static inline number *number_shift(const number *a, unsigned bits) {
    number *shifted = number_new((size_t)a->length + 1);
    uint32_t carry = 0;
    for (size_t i = 0; i < a->length; i++) {
        carry |= (uint32_t)a->digit[i] << bits;
        shifted->digit[i] = (uint16_t)carry;
        carry >>= 16;
    }
    shifted->digit[a->length] = (uint16_t)carry;
    return shifted;
}

/* Quotient of a / b, the remainder through *rest (may be NULL); b > 0. Schoolbook division: the
 * divisor is scaled until its top bit is set, so that a guess from two digits is at most two too
 * high. */
static inline number *number_divide(const number *a, const number *b, number **rest) {
    if (number_compare(a, b) < 0) {
        if (rest) *rest = number_copy(a);
        return number_of(0);
    }
    if (b->length == 1) {
        if (rest) *rest = number_of(number_mod_small(a, b->digit[0]));
        return number_divide_small(a, b->digit[0]);
    }
    unsigned bits = 0;
    while (!((b->digit[b->length - 1] << bits) & 0x8000)) bits++;
    number *u = number_shift(a, bits), *v = number_shift(b, bits);
    size_t n = b->length, m = (size_t)a->length - n;
    number *quotient = number_new(m + 1);
    for (size_t j = m + 1; j-- > 0;) {
        uint32_t top = (uint32_t)u->digit[j + n] << 16 | u->digit[j + n - 1];
        uint32_t guess = top / v->digit[n - 1], left = top % v->digit[n - 1];
        while (guess > 0xffff ||
               (uint64_t)guess * v->digit[n - 2] > ((uint64_t)left << 16 | u->digit[j + n - 2])) {
            guess--;
            left += v->digit[n - 1];
            if (left > 0xffff) break;
        }
        int64_t borrow = 0;
        for (size_t i = 0; i <= n; i++) {
            int64_t digit =
                (int64_t)u->digit[i + j] - borrow - (i < n ? (int64_t)guess * v->digit[i] : 0);
            u->digit[i + j] = (uint16_t)(digit & 0xffff);
            borrow = -(digit >> 16);
        }
        if (borrow) {
            guess--;
            uint32_t carry = 0;
            for (size_t i = 0; i <= n; i++) {
                carry += (uint32_t)u->digit[i + j] + (i < n ? v->digit[i] : 0u);
                u->digit[i + j] = (uint16_t)carry;
                carry >>= 16;
            }
        }
        quotient->digit[j] = (uint16_t)guess;
    }
    if (rest) {
        number *left = number_new(n);
        for (size_t i = 0; i < n; i++) {
            uint32_t pair = (uint32_t)u->digit[i] | (uint32_t)u->digit[i + 1] << 16;
            left->digit[i] = (uint16_t)(pair >> bits);
        }
        *rest = number_trim(left);
    }
    free(u);
    free(v);
    return number_trim(quotient);
}

/* a * b mod m. */
static inline number *number_multiply_mod(const number *a, const number *b, const number *m) {
    number *product = number_multiply(a, b), *rest;
    free(number_divide(product, m, &rest));
    free(product);
    return rest;
}

/* The largest r with r * r <= a: Newton from above. */
static inline number *number_root(const number *a) {
    if (number_is_zero(a)) return number_of(0);
    number *guess = number_new((size_t)a->length / 2 + 2);
    guess->digit[guess->length - 1] = 1;
    for (;;) {
        number *quotient = number_divide(a, guess, NULL);
        number *sum = number_add(guess, quotient);
        free(quotient);
        number *next = number_divide_small(sum, 2);
        free(sum);
        if (number_compare(next, guess) >= 0) {
            free(next);
            return guess;
        }
        number_set(&guess, next);
    }
}

static inline number *number_gcd(const number *a, const number *b) {
    number *x = number_copy(a), *y = number_copy(b);
    while (!number_is_zero(y)) {
        number *rest;
        free(number_divide(x, y, &rest));
        free(x);
        x = y;
        y = rest;
    }
    free(y);
    return x;
}

/* NULL when text is not a decimal number of at most 200 digits. */
static inline number *number_read(const char *text) {
    size_t length = strlen(text);
    if (length == 0 || length > 200) return NULL;
    number *value = number_of(0), *ten = number_of(10);
    for (; *text; text++) {
        if (*text < '0' || *text > '9') {
            free(value);
            free(ten);
            return NULL;
        }
        number *digit = number_of((uint64_t)(*text - '0'));
        number *scaled = number_multiply(value, ten);
        number_set(&value, number_add(scaled, digit));
        free(scaled);
        free(digit);
    }
    free(ten);
    return value;
}

#endif
