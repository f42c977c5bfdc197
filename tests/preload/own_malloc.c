/* own_malloc.c - a program with a malloc of its own, as those have that link an allocator: it comes before
 * the preload library's, which then serves nothing and has to say so. Each call of it counts. */
#include <stdio.h>
#include <stdlib.h>

static char arena[1 << 20];
static size_t used;

void *malloc(size_t size) {
    size = (size + 15) & ~(size_t)15;
    if (size > sizeof arena - used) return NULL;
    void *block = arena + used;
    used += size;
    return block;
}

void free(void *block) { (void)block; }

void *calloc(size_t count, size_t size) { return malloc(count * size); }

void *realloc(void *block, size_t size) {
    (void)block;
    return malloc(size);
}

int main(void) {
    char *block = malloc(10);
    puts(block >= arena && block < arena + sizeof arena ? "own" : "another's");
    return 0;
}
