#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Four threads serve; each writes down a figure now and then and keeps it. */
enum { THREADS = 4, SERVED = 400000, EVERY = 64 };

struct figure {
    struct figure *next;
    long value[6];
};

static struct figure *figures[THREADS];

static void *serve(void *which)
{
    struct figure **mine = which;
    void **work = malloc(SERVED * sizeof *work);
    for (int n = 0; n < SERVED; n++) {
        work[n] = malloc(56);
        if (n % EVERY == 0) {
            struct figure *made = malloc(sizeof *made); /* KEPT */
            made->next = *mine;
            *mine = made;
        }
    }
    for (int n = 0; n < SERVED; n++)
        free(work[n]);
    free(work);
    return NULL;
}

int main(void)
{
    pthread_t threads[THREADS];
    for (int n = 0; n < THREADS; n++)
        pthread_create(&threads[n], NULL, serve, &figures[n]);
    for (int n = 0; n < THREADS; n++)
        pthread_join(threads[n], NULL);
    puts("ready");
    fflush(stdout);
    getchar();
    return figures[0] == NULL;
}
