#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A session is opened now and then among the buffers of requests, and stays when they are gone. */
enum { REQUESTS = 1400000, EVERY = 80 };

struct session {
    long id;
    struct session *next;
    char user[32];
};

static struct session *sessions;
static void *request[REQUESTS];

static void open_session(long id)
{
    struct session *made = malloc(sizeof *made); /* KEPT */
    made->id = id;
    made->next = sessions;
    snprintf(made->user, sizeof made->user, "user %ld", id);
    sessions = made;
}

int main(void)
{
    for (long n = 0; n < REQUESTS; n++) {
        request[n] = calloc(1, 48);
        if (n % EVERY == EVERY - 1)
            open_session(n);
    }
    for (long n = 0; n < REQUESTS; n++)
        free(request[n]);
    puts("ready");
    fflush(stdout);
    getchar();
    return sessions == NULL;
}
