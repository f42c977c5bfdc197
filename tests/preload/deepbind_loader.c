/* A library whose plugins lie beside it: its RUNPATH is $ORIGIN/plugins, and the program has none. It loads one
 * before main, and before the constructor of a library that is preloaded. */
#define _GNU_SOURCE
#include <dlfcn.h>

void *load(const char *name) { return dlopen(name, RTLD_NOW | RTLD_DEEPBIND); }

void *early;
__attribute__((constructor)) static void at_start(void) { early = load("early.so"); }
