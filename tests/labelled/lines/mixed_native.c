#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The native half of mixed_native.py. */
void *kept[100000];
static int used;

int store(int value)
{
    int *made = malloc(48); /* KEPT */
    *made = value;
    kept[used++ % 100000] = made;
    return used;
}

void *scratch(void)
{
    return malloc(48);
}

void drop(void *block)
{
    free(block);
}
