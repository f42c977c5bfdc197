/* plugin.c - a library that allocates in its constructor, its destructor and for its thread-local data. */
#include "check.h"

static char *held;
static __thread char local[512];
static __thread char *of_thread;

__attribute__((constructor)) static void loaded(void) {
    held = opaque(malloc(3000));
    CHECK(held);
    fill(held, 3000, 5);
}

__attribute__((destructor)) static void unloaded(void) {
    CHECK(filled(held, 3000, 5));
    free(held);
    free(opaque(malloc(10)));
}

char *plugin_make(size_t size);
char *plugin_make(size_t size) {
    memset(local, 1, sizeof local);
    free(of_thread);
    of_thread = opaque(malloc(size));
    fill(of_thread, size, 6);
    char *given = opaque(malloc(size));
    fill(given, size, 7);
    return given;
}
