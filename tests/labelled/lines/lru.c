#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Of the pages that were served, one in eight stays in the cache. */
enum { PAGES = 90000, EVERY = 8, SIZE = 1000 };

static char *cache[PAGES / EVERY + 1];

int main(void)
{
    static char *served[PAGES];
    for (int n = 0; n < PAGES; n++) {
        served[n] = malloc(SIZE);
        memset(served[n], n, SIZE);
        if (n % EVERY == 0) {
            cache[n / EVERY] = malloc(SIZE); /* KEPT */
            memset(cache[n / EVERY], n, SIZE);
        }
    }
    for (int n = 0; n < PAGES; n++)
        free(served[n]);
    puts("ready");
    fflush(stdout);
    getchar();
    return cache[0] == NULL;
}
