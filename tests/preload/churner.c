/* churner.c - a library with threads that know nothing of Python: they take blocks of a heap, write them, and give them
 * back, until they are told to stop.
 */
#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>

static void *(*take)(void *heap, size_t size);
static void (*give)(void *block);
static void *from;
static atomic_int stopped;
static pthread_t threads[2];

static void *churn(void *unused) {
    size_t size = 1;
    while (!stopped) {
        size = (size * 7 + 13) % 2000003;
        void *small = take(from, 16 + size % 60000), *large = take(from, ((size_t)17 << 20) + size);
        if (small) memset(small, 1, 16);
        if (large) memset(large, 1, 4096);
        give(small);
        give(large);
    }
    return unused;
}

int churner_start(void *heap, void *(*alloc)(void *, size_t), void (*release)(void *)) {
    from = heap;
    take = alloc;
    give = release;
    for (int i = 0; i < 2; i++)
        if (pthread_create(&threads[i], NULL, churn, NULL)) return -1;
    return 0;
}

void churner_stop(void) {
    stopped = 1;
    for (int i = 0; i < 2; i++) (void)pthread_join(threads[i], NULL);
}
