/* realloc_grow.c - containers that grow: strings by appending a little, vectors by half, a few
 * buffers by doubling up to megabytes, all growing side by side, as a parser or an interpreter
 * would do it.
 *
 * realloc_grow [rounds 12] [containers 3000]
 *
 * An operation is one realloc.
 */
#include "bench.h"

typedef struct container {
    unsigned char *data;
    size_t size, limit;
    int kind; /* 0: append, 1: by half, 2: double */
} container;

static void start_container(container *c, bench_random *random) {
    size_t draw = bench_below(random, 100);
    c->kind = draw < 60 ? 0 : draw < 99 ? 1 : 2;
    c->limit = c->kind == 0   ? bench_between(random, 100, 2000)
               : c->kind == 1 ? bench_between(random, 1000, 60000)
                              : (size_t)1 << bench_between(random, 18, 22);
    c->size = 0;
    c->data = NULL;
}

static size_t next_size(const container *c, bench_random *random) {
    if (c->size == 0) return 16;
    if (c->kind == 0) return c->size + bench_between(random, 1, 48);
    return c->kind == 1 ? c->size + c->size / 2 : 2 * c->size;
}

int main(int argc, char **argv) {
    size_t rounds = bench_argument(argc, argv, 1, 12);
    size_t count = bench_argument(argc, argv, 2, 3000);
    double start = bench_now();
    container *all = bench_malloc(count * sizeof *all);
    bench_random random = bench_seed(7);
    uint64_t operations = 0;
    for (size_t i = 0; i < count; i++) start_container(&all[i], &random);
    size_t grown = 0;
    while (grown < rounds * count) {
        container *c = &all[bench_below(&random, count)];
        if (c->size >= c->limit) {
            /* What was written first must have moved along. */
            if (c->data[0] != 0x5a || c->data[15] != 0xa5) bench_fail("realloc lost data");
            free(c->data);
            start_container(c, &random);
            grown++;
        }
        size_t size = next_size(c, &random);
        unsigned char *data = realloc(c->data, size);
        if (!data) bench_fail("out of memory");
        if (c->size == 0) {
            data[0] = 0x5a;
            data[15] = 0xa5;
        } else {
            memset(data + c->size, (int)(size & 0xff), size - c->size);
        }
        c->data = data;
        c->size = size;
        operations++;
    }
    for (size_t i = 0; i < count; i++) free(all[i].data);
    free(all);
    return bench_report("realloc_grow", operations, bench_now() - start);
}
