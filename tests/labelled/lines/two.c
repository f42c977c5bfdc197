#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Two lines keep, one twice as often as the other. */
enum { WORK = 1500000 };
void *kept[WORK / 40];
static int used;

static void remember(void)
{
    kept[used++] = malloc(40); /* KEPT */
}

static void note(void)
{
    kept[used++] = malloc(40); /* KEPT */
}

int main(void)
{
    void **work = malloc(WORK * sizeof *work);
    for (int n = 0; n < WORK; n++) {
        work[n] = malloc(40);
        if (n % 300 == 100 || n % 300 == 200)
            remember();
        if (n % 300 == 0)
            note();
    }
    for (int n = 0; n < WORK; n++)
        free(work[n]);
    free(work);
    puts("ready");
    fflush(stdout);
    getchar();
    return used == 0;
}
