#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Jobs are taken in order; one in a hundred is put off and waits for ever. */
struct job {
    struct job *next;
    long number, state[5];
};

static struct job *head, **tail = &head, *waiting;

static void put(long number)
{
    struct job *job = calloc(1, sizeof *job); /* KEPT */
    job->number = number;
    *tail = job;
    tail = &job->next;
}

static void take(void)
{
    struct job *job = head;
    head = job->next;
    if (!head)
        tail = &head;
    if (job->number % 100 == 0) {
        job->next = waiting;
        waiting = job;
    } else {
        free(job);
    }
}

int main(void)
{
    for (long n = 0; n < 1300000; n++)
        put(n);
    while (head)
        take();
    puts("ready");
    fflush(stdout);
    getchar();
    return waiting == NULL;
}
