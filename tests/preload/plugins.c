/* plugins.c PLUGIN... - loads, uses and unloads libraries in several threads. */
#define _GNU_SOURCE
#include "check.h"

#include <dlfcn.h>
#include <pthread.h>

static char **paths;
static int count;

static void use(const char *path, int round) {
    void *library = dlopen(path, (round & 1 ? RTLD_LOCAL : RTLD_GLOBAL) | (round & 2 ? RTLD_NOW : RTLD_LAZY));
    if (!library) fprintf(stderr, "%s\n", dlerror());
    CHECK(library);
    char *(*make)(size_t);
    *(void **)&make = dlsym(library, "plugin_make");
    CHECK(make);
    char *block = make((size_t)(round % 50) * 40 + 1);
    CHECK(dlclose(library) == 0);
    CHECK(filled(block, (size_t)(round % 50) * 40 + 1, 7)); /* the block outlives its maker */
    free(block);
}

static void *body(void *argument) {
    for (int round = 0; round < 200; round++) use(paths[(round + (int)(intptr_t)argument) % count], round);
    return NULL;
}

int main(int argc, char **argv) {
    paths = argv + 1;
    count = argc - 1;
    CHECK(count > 0);
    pthread_t threads[3];
    for (intptr_t t = 0; t < 3; t++) CHECK(pthread_create(&threads[t], NULL, body, (void *)t) == 0);
    (void)body(NULL);
    for (int t = 0; t < 3; t++) CHECK(pthread_join(threads[t], NULL) == 0);
    return 0;
}
