/* xmalloc.c - producers only allocate, consumers only free: every block crosses.
 *
 * xmalloc [producers 1] [consumers 1] [batches a producer 25000] [blocks a batch 250]
 *
 * A batch is itself a block. The queue between them is bounded, so that live memory is bounded
 * whichever side is faster.
 */
#include "bench.h"

#define QUEUE_BATCHES 64

typedef struct batch {
    struct batch *next;
    size_t count;
    void *blocks[];
} batch;

static struct {
    pthread_mutex_t lock;
    pthread_cond_t not_empty, not_full;
    batch *head, **tail;
    size_t length, producers;
} queue;

static size_t batches, blocks_a_batch;

/* Small objects mostly, as messages are: three in four up to 128 bytes, the rest up to 1,024. */
static size_t message_size(bench_random *random) {
    size_t draw = bench_below(random, 4 * 128);
    return draw < 3 * 128 ? draw % 128 + 1 : bench_between(random, 129, 1024);
}

static void *produce(void *argument) {
    bench_random random = bench_seed(*(uint64_t *)argument + 1);
    for (size_t i = 0; i < batches; i++) {
        batch *made = bench_malloc(sizeof *made + blocks_a_batch * sizeof(void *));
        made->next = NULL;
        made->count = blocks_a_batch;
        for (size_t k = 0; k < blocks_a_batch; k++)
            made->blocks[k] = bench_malloc(message_size(&random));
        pthread_mutex_lock(&queue.lock);
        while (queue.length == QUEUE_BATCHES) pthread_cond_wait(&queue.not_full, &queue.lock);
        *queue.tail = made;
        queue.tail = &made->next;
        if (queue.length++ == 0) pthread_cond_signal(&queue.not_empty);
        pthread_mutex_unlock(&queue.lock);
    }
    pthread_mutex_lock(&queue.lock);
    queue.producers--;
    pthread_cond_broadcast(&queue.not_empty);
    pthread_mutex_unlock(&queue.lock);
    return NULL;
}

static void *consume(void *argument) {
    uint64_t *freed = argument;
    for (;;) {
        pthread_mutex_lock(&queue.lock);
        while (!queue.head && queue.producers) pthread_cond_wait(&queue.not_empty, &queue.lock);
        batch *got = queue.head;
        if (got) {
            queue.head = got->next;
            if (!queue.head) queue.tail = &queue.head;
            if (queue.length-- == QUEUE_BATCHES) pthread_cond_broadcast(&queue.not_full);
            if (queue.head) pthread_cond_signal(&queue.not_empty);
        }
        pthread_mutex_unlock(&queue.lock);
        if (!got) return NULL;
        for (size_t k = 0; k < got->count; k++) free(got->blocks[k]);
        *freed += got->count + 1;
        free(got);
    }
}

int main(int argc, char **argv) {
    size_t producers = bench_argument(argc, argv, 1, 1);
    size_t consumers = bench_argument(argc, argv, 2, 1);
    batches = bench_argument(argc, argv, 3, 25000);
    blocks_a_batch = bench_argument(argc, argv, 4, 250);
    if (producers > 64 || consumers > 64) bench_fail("at most 64 producers and 64 consumers");

    double start = bench_now();
    pthread_mutex_init(&queue.lock, NULL);
    pthread_cond_init(&queue.not_empty, NULL);
    pthread_cond_init(&queue.not_full, NULL);
    queue.tail = &queue.head;
    queue.producers = producers;
    pthread_t threads[128];
    uint64_t number[64], freed[64] = {0}, total = 0;
    for (size_t i = 0; i < producers; i++) {
        number[i] = i;
        threads[i] = bench_thread(produce, &number[i]);
    }
    for (size_t i = 0; i < consumers; i++)
        threads[producers + i] = bench_thread(consume, &freed[i]);
    for (size_t i = 0; i < producers + consumers; i++) bench_join(threads[i]);
    for (size_t i = 0; i < consumers; i++) total += freed[i];
    if (total != producers * batches * (blocks_a_batch + 1)) bench_fail("blocks were lost");
    return bench_report("xmalloc", total, bench_now() - start);
}
