/* early_malloc.c - a program whose own malloc is not ready before main, as that of GCL, which maps its heap there. The
 * loader's needs are served; a library that tries for itself whose malloc it gets, with the smallest of
 * blocks, ends the program. */
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

static char room[1 << 16];
static size_t used;
static int begun;

void *malloc(size_t size) {
    if ((!begun && size == 1) || size > sizeof room - used) abort();
    void *block = room + used;
    used += (size + 15) & ~(size_t)15;
    return block;
}
void free(void *block) { (void)block; }
void *calloc(size_t count, size_t size) { return malloc(count * size); }
void *realloc(void *block, size_t size) {
    (void)block;
    return malloc(size);
}

int main(void) {
    begun = 1;
    void *volatile block = malloc(100);
    return !block;
}
