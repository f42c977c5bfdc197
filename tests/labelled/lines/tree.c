#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The nodes of a tree stay, the tokens that they were made from go. */
struct node {
    struct node *left, *right;
    long key;
};

static struct node *root;

static struct node **find(long key)
{
    struct node **at = &root;
    while (*at)
        at = key < (*at)->key ? &(*at)->left : &(*at)->right;
    return at;
}

static void insert(long key)
{
    struct node **at = find(key);
    *at = calloc(1, sizeof **at); /* KEPT */
    (*at)->key = key;
}

int main(void)
{
    enum { TOKENS = 2400000 };
    void **tokens = malloc(TOKENS * sizeof *tokens);
    unsigned seed = 1;
    for (long n = 0; n < TOKENS; n++) {
        tokens[n] = malloc(24);
        seed = seed * 1103515245u + 12345u;
        if (n % 128 == 5)
            insert(seed >> 4);
    }
    for (long n = 0; n < TOKENS; n++)
        free(tokens[n]);
    free(tokens);
    puts("ready");
    fflush(stdout);
    getchar();
    return root == NULL;
}
