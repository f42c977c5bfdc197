#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Names of a parsed text are kept once; the tokens are gone when it is read. */
enum { TOKENS = 1600000, EVERY = 100 };

static char *names[TOKENS / EVERY];
static char *tokens[TOKENS];

static char *xstrdup(const char *text)
{
    char *copy = strdup(text);
    if (!copy)
        abort();
    return copy;
}

static char *intern(const char *name, int place)
{
    return names[place] = xstrdup(name); /* KEPT */
}

int main(void)
{
    char text[40];
    for (int n = 0; n < TOKENS; n++) {
        snprintf(text, sizeof text, "token_%d_of_the_text", n);
        tokens[n] = xstrdup(text);
        if (n % EVERY == 0)
            intern(text, n / EVERY);
    }
    for (int n = 0; n < TOKENS; n++)
        free(tokens[n]);
    puts("ready");
    fflush(stdout);
    getchar();
    return names[0] == NULL;
}
