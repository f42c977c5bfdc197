/* cfrac.c - factors a number by its continued fraction: millions of blocks of 2 to 30 bytes, nearly
 * all of them dead at once, among a few hundred that stay.
 *
 * cfrac [number, decimal]
 *
 * The method (Morrison and Brillhart, 1975): the convergents A/B of the root of k*N leave A^2 =
 * (-1)^n Q (mod N) with Q below 2*sqrt(k*N). Those whose Q splits into small primes are relations;
 * a product of relations in which every exponent is even is a congruence of squares, and often a
 * factor. An operation is one number allocated.
 */
#include "bignum.h"

#define PRIMES 150
#define RELATIONS (PRIMES + 24)
#define ROW_WORDS ((PRIMES + 1 + 63) / 64) /* one bit more: the sign */
#define TAG_WORDS ((RELATIONS + 63) / 64)

typedef struct relation {
    number *a;                    /* the convergent mod N */
    uint8_t exponent[PRIMES + 1]; /* of Q; the first is the sign's */
} relation;

/* A row of the elimination: parity of the exponents, and which relations it is the product of. */
typedef struct row {
    uint64_t parity[ROW_WORDS];
    uint64_t members[TAG_WORDS];
} row;

static uint32_t primes[PRIMES + 1];
static relation relations[RELATIONS];
static row rows[RELATIONS];

static uint32_t power_mod(uint32_t base, uint32_t exponent, uint32_t modulus) {
    uint64_t result = 1, square = base % modulus;
    for (; exponent; exponent >>= 1, square = square * square % modulus)
        if (exponent & 1) result = result * square % modulus;
    return (uint32_t)result;
}

/* The primes that can divide a Q: those of which k*N is a square. */
static void choose_primes(const number *kn) {
    size_t count = 1;
    for (uint32_t p = 2; count <= PRIMES; p++) {
        int is_prime = 1;
        for (uint32_t d = 2; d * d <= p && is_prime; d++) is_prime = p % d != 0;
        if (!is_prime) continue;
        uint32_t residue = number_mod_small(kn, p);
        if (p == 2 || residue == 0 || power_mod(residue, (p - 1) / 2, p) == 1) primes[count++] = p;
    }
}

/* Divide q by the primes as often as they go. 1 when nothing is left. */
static int split(const number *q, int negative, uint8_t *exponent) {
    memset(exponent, 0, PRIMES + 1);
    exponent[0] = (uint8_t)negative;
    number *left = number_copy(q);
    for (size_t i = 1; i <= PRIMES && !number_is_one(left); i++) {
        /* A Q that three dozen primes have not made shorter by a digit rarely splits at all. */
        if (i == 36 && left->length == q->length) break;
        while (number_mod_small(left, primes[i]) == 0) {
            number_set(&left, number_divide_small(left, primes[i]));
            exponent[i]++;
        }
    }
    int whole = number_is_one(left);
    free(left);
    return whole;
}

/* Expand the root of k*N until there are enough relations, or the fraction begins to repeat.
 * Returns how many were found. */
static size_t collect(const number *n, const number *kn) {
    number *root = number_root(kn);
    number *p = number_of(0), *q = number_of(1), *q_before = number_copy(kn);
    number *term = number_copy(root), *a_before = number_of(1), *a;
    free(number_divide(root, n, &a));
    size_t found = 0;
    for (int negative = 1; found < RELATIONS; negative = !negative) {
        /* P' = term * Q - P;  Q' = Q_before + term * (P - P') */
        number *product = number_multiply(term, q);
        number *p_next = number_subtract(product, p);
        free(product);
        number *q_next;
        int up = number_compare(p, p_next) >= 0;
        number *change = up ? number_subtract(p, p_next) : number_subtract(p_next, p);
        product = number_multiply(term, change);
        q_next = up ? number_add(q_before, product) : number_subtract(q_before, product);
        free(product);
        free(change);
        number_set(&q_before, q);
        q = q_next;
        number_set(&p, p_next);

        if (number_is_zero(q)) break; /* k*N is a square: its fraction ends */
        if (split(q, negative, relations[found].exponent)) relations[found++].a = number_copy(a);
        if (number_is_one(q)) break;

        /* term = (root + P) / Q;  A' = term * A + A_before mod N */
        number *sum = number_add(root, p);
        number_set(&term, number_divide(sum, q, NULL));
        free(sum);
        product = number_multiply(term, a);
        sum = number_add(product, a_before);
        free(product);
        number *a_next;
        free(number_divide(sum, n, &a_next));
        free(sum);
        number_set(&a_before, a);
        a = a_next;
    }
    free(root);
    free(p);
    free(q);
    free(q_before);
    free(term);
    free(a);
    free(a_before);
    return found;
}

/* The product of a row's relations is x^2 = y^2 (mod n): gcd(x - y, n) when it splits n, else
 * NULL. */
static number *try_row(const row *r, size_t count, const number *n) {
    unsigned total[PRIMES + 1] = {0};
    number *x = number_of(1), *y = number_of(1);
    for (size_t i = 0; i < count; i++) {
        if (!(r->members[i / 64] >> (i % 64) & 1)) continue;
        number_set(&x, number_multiply_mod(x, relations[i].a, n));
        for (size_t k = 0; k <= PRIMES; k++) total[k] += relations[i].exponent[k];
    }
    for (size_t k = 1; k <= PRIMES; k++) {
        number *prime = number_of(primes[k]);
        for (unsigned e = 0; e < total[k] / 2; e++)
            number_set(&y, number_multiply_mod(y, prime, n));
        free(prime);
    }
    number *difference = number_compare(x, y) >= 0 ? number_subtract(x, y) : number_subtract(y, x);
    number *factor = number_gcd(difference, n);
    free(difference);
    free(x);
    free(y);
    if (number_is_one(factor) || number_compare(factor, n) == 0) {
        free(factor);
        return NULL;
    }
    return factor;
}

/* Gauss over two elements; each row that becomes empty is tried. */
static number *eliminate(size_t count, const number *n) {
    memset(rows, 0, sizeof rows);
    for (size_t i = 0; i < count; i++) {
        rows[i].members[i / 64] |= (uint64_t)1 << (i % 64);
        for (size_t k = 0; k <= PRIMES; k++)
            if (relations[i].exponent[k] & 1) rows[i].parity[k / 64] |= (uint64_t)1 << (k % 64);
    }
    char used[RELATIONS] = {0};
    for (size_t k = 0; k <= PRIMES; k++) {
        uint64_t bit = (uint64_t)1 << (k % 64);
        size_t pivot = 0;
        while (pivot < count && (used[pivot] || !(rows[pivot].parity[k / 64] & bit))) pivot++;
        if (pivot == count) continue;
        used[pivot] = 1;
        for (size_t i = 0; i < count; i++) {
            if (i == pivot || used[i] || !(rows[i].parity[k / 64] & bit)) continue;
            for (size_t w = 0; w < ROW_WORDS; w++) rows[i].parity[w] ^= rows[pivot].parity[w];
            for (size_t w = 0; w < TAG_WORDS; w++) rows[i].members[w] ^= rows[pivot].members[w];
        }
    }
    number *factor = NULL;
    for (size_t i = 0; i < count && !factor; i++)
        if (!used[i]) factor = try_row(&rows[i], count, n);
    return factor;
}

int main(int argc, char **argv) {
    const char *text = argc > 1 ? argv[1] : "24622154172376689537386518301783";
    double start = bench_now();
    number *n = number_read(text);
    if (!n || number_mod_small(n, 2) == 0 || number_is_one(n)) {
        fprintf(stderr, "cfrac: '%s' is not an odd decimal number above 1\n", text);
        free(n);
        return 2;
    }
    number *factor = NULL;
    for (uint32_t k = 1; k < 200 && !factor; k++) {
        number *multiplier = number_of(k), *kn = number_multiply(n, multiplier);
        free(multiplier);
        choose_primes(kn);
        size_t count = collect(n, kn);
        free(kn);
        factor = eliminate(count, n);
        for (size_t i = 0; i < count; i++) free(relations[i].a);
    }
    if (!factor) bench_fail("no factor was found");
    number *rest, *cofactor = number_divide(n, factor, &rest);
    number *product = number_multiply(cofactor, factor);
    if (!number_is_zero(rest) || number_compare(product, n) != 0) bench_fail("the factor is wrong");
    free(rest);
    free(cofactor);
    free(product);
    free(factor);
    free(n);
    return bench_report("cfrac", number_blocks, bench_now() - start);
}
