#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Rows are read into buffers that grow; one in ten stays. */
enum { ROWS = 60000 };

static char *read_row(int n)
{
    char *row = NULL;
    for (int size = 128; size <= 1024; size *= 2) {
        row = realloc(row, size); /* KEPT */
        memset(row + size / 2, n, size / 2);
    }
    return row;
}

int main(void)
{
    char **rows = malloc(ROWS * sizeof *rows);
    for (int n = 0; n < ROWS; n++)
        rows[n] = read_row(n);
    int left = 0;
    for (int n = 0; n < ROWS; n++) {
        if (n % 10)
            free(rows[n]);
        else
            left++;
    }
    puts("ready");
    fflush(stdout);
    getchar();
    return left == 0;
}
