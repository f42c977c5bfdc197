/* reload.c - two builds of a plugin that are loaded in turn and come to lie at one place. Of one instruction's address
 * the frame is of another size then. Prints how often a function stood where the other build's had. */
#define _GNU_SOURCE
#include "check.h"

#include <dlfcn.h>

enum { ROUNDS = 40, EACH = 50 };
static void *kept[ROUNDS][EACH];
static volatile int never;

typedef void *plugin_keep(size_t size, void *(*call)(size_t));

static __attribute__((noinline)) int load_and_keep(const char *path, void **to, void **place) {
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    CHECK(library);
    plugin_keep *keep;
    *place = dlsym(library, "keep");
    memcpy(&keep, place, sizeof keep);
    for (int i = 0; i < EACH; i++) to[i] = keep(2000, malloc);
    CHECK(dlclose(library) == 0);
    return never;
}

static __attribute__((noinline)) int turn(char **paths, int round, void **place) {
    return load_and_keep(paths[round % 2], kept[round], place) + never;
}

int main(int count, char **arguments) {
    CHECK(count == 3);
    int same = 0;
    void *place = NULL, *before = NULL;
    for (int i = 0; i < ROUNDS; i++, before = place) {
        CHECK(turn(arguments + 1, i, &place) == 0);
        same += place == before;
    }
    printf("%d\n", same);
    return 0;
}
