#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A log keeps its last lines: here those of errors, which are rare. */
enum { LINES = 400000, KEPT = 12000 };

static char *log_lines[KEPT];
static int used;

static char *line_of(int n, int length)
{
    char *made = malloc(length);
    snprintf(made, length, "%d: request served", n);
    return made;
}

static void keep_error(int n)
{
    char *line = malloc(200); /* KEPT */
    snprintf(line, 200, "%d: error", n);
    log_lines[used++ % KEPT] = line;
}

int main(void)
{
    char **shown = malloc(LINES * sizeof *shown);
    for (int n = 0; n < LINES; n++) {
        shown[n] = line_of(n, 200);
        if (n % 34 == 0)
            keep_error(n);
    }
    for (int n = 0; n < LINES; n++)
        free(shown[n]);
    free(shown);
    puts("ready");
    fflush(stdout);
    getchar();
    return used == 0;
}
