/* alloc_free_all.c - a compiler's pass: allocate and allocate, read some of it, then free
 * everything in the order of its birth.
 *
 * alloc_free_all [rounds 4] [blocks a round 1500000]
 */
#include "bench.h"

typedef struct node {
    struct node *next;
    size_t value;
} node;

int main(int argc, char **argv) {
    size_t rounds = bench_argument(argc, argv, 1, 4);
    size_t blocks = bench_argument(argc, argv, 2, 1500000);
    double start = bench_now();
    bench_random random = bench_seed(13);
    for (size_t round = 0; round < rounds; round++) {
        node *head = NULL, **tail = &head;
        size_t expected = 0, sum = 0;
        for (size_t i = 0; i < blocks; i++) {
            size_t extra =
                bench_below(&random, 8) ? bench_below(&random, 49) : bench_below(&random, 401);
            node *made = malloc(sizeof *made + extra);
            if (!made) bench_fail("out of memory");
            made->next = NULL;
            made->value = extra;
            expected += extra;
            *tail = made;
            tail = &made->next;
        }
        for (node *n = head, *next; n; n = next) {
            next = n->next;
            sum += n->value;
            free(n);
        }
        if (sum != expected) bench_fail("blocks overlap");
    }
    return bench_report("alloc_free_all", rounds * blocks, bench_now() - start);
}
