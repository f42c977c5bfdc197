/* Blocks cross the border between a program and a plugin that was loaded with RTLD_DEEPBIND; and whoever calls
 * dlopen is still the one whose RUNPATH and namespace count. Arguments: the plugin, the loader library. */
#define _GNU_SOURCE
#include "check.h"

#include <dlfcn.h>
#include <malloc.h>
#include <string.h>

extern void *load(const char *name), *early;

static void *find(void *library, const char *name) {
    void *found = dlsym(library, name);
    CHECK(found);
    return found;
}

static void blocks_cross(void *plugin) {
    char *(*make)(void) = (char *(*)(void))find(plugin, "make");
    char *(*copy)(const char *) = (char *(*)(const char *))find(plugin, "copy");
    char *(*grow)(char *) = (char *(*)(char *))find(plugin, "grow");
    void (*give_back)(void *) = (void (*)(void *))find(plugin, "give_back");
    char *block = make();
    CHECK(malloc_usable_size(block) >= 50);
    block = realloc(block, 100);
    CHECK(block && !strcmp(block, "made"));
    free(block);
    free(copy("hello"));
    block = grow(strcpy(malloc(30), "ours"));
    CHECK(block && !strcmp(block, "ours"));
    give_back(block);
}

int main(int count, char **arguments) {
    CHECK(count == 2);
    void *plugin = dlopen(arguments[1], RTLD_NOW | RTLD_DEEPBIND);
    CHECK(plugin);
    blocks_cross(plugin);
    /* By its bare name only the loader's RUNPATH leads to it. */
    CHECK(early);
    CHECK(!dlopen("plugin.so", RTLD_NOW));
    CHECK(strstr(dlerror(), "plugin.so"));
    void *beside = load("plugin.so");
    CHECK(beside);
    blocks_cross(beside);
    Lmid_t space = LM_ID_BASE;
    void *apart = dlmopen(LM_ID_NEWLM, arguments[1], RTLD_NOW | RTLD_DEEPBIND);
    CHECK(apart && !dlinfo(apart, RTLD_DI_LMID, &space) && space != LM_ID_BASE);
    void *here = dlmopen(LM_ID_BASE, arguments[1], RTLD_NOW | RTLD_DEEPBIND);
    CHECK(here == plugin);
    /* Errors are the real one's. */
    CHECK(!dlopen("/no/such/file.so", RTLD_NOW | RTLD_DEEPBIND));
    CHECK(strstr(dlerror(), "/no/such/file.so"));
    return 0;
}
