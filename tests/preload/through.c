/* through.c - a library that calls back, and says nothing of its functions but what exceptions need. */
#include <stddef.h>

static __attribute__((noinline)) void *inner(void *(*call)(size_t), size_t size,
                                             volatile char *at) {
    at[3] = 1;
    void *block = call(size + 8);
    at[4] = 2;
    return block;
}

void *through(void *(*call)(size_t), size_t size) {
    volatile char bytes[90];
    bytes[0] = 0;
    void *block = inner(call, size, bytes);
    return bytes[0] ? NULL : block;
}
