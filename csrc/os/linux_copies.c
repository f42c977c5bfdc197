/* linux_copies.c - makes sure that one copy of the core serves a process, and no other makes heaps.
 *
 * A file that is loaded twice is one copy. Two files are two copies, and neither knows the heaps of the other. Every
 * copy defines the same weak symbol, so the loader decides which one serves: where a program or a preloaded library
 * brings a copy, the name leads all others to it. Copies that were loaded privately (RTLD_LOCAL) do not see each other
 * by name; of those the first one that was loaded serves.
 */
#define _GNU_SOURCE
#include "os.h"

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Other versions read it too: add fields at the end only. */
typedef struct copy {
    uint32_t size;
    _Atomic uint32_t serves;
} copy;

__attribute__((weak, visibility("default"))) copy dmi_core_copy = {.size = sizeof(copy)};
/* This copy's own, wherever the name leads. */
extern copy own __attribute__((alias("dmi_core_copy"), visibility("hidden")));

enum { MOST = 16, LONGEST = 4096 };
typedef struct files {
    const char *names[MOST];
    size_t count;
} files;

static copy *in_the_way; /* the copy that serves instead of this one; NULL: this one serves */
static _Atomic bool told;

/* Collect the files that may hold a copy. Their names stay valid, because dmi's libraries are never unloaded. */
static int note(struct dl_phdr_info *info, size_t size, void *argument) {
    (void)size;
    files *found = argument;
    const char *base = strrchr(info->dlpi_name, '/');
    if (strstr(base ? base : info->dlpi_name, "dmi") && found->count < MOST)
        found->names[found->count++] = info->dlpi_name;
    return 0;
}

/* The copy of another file that was loaded privately before this one; NULL: there is none. */
static copy *earlier(void) {
    files found = {.count = 0};
    (void)dl_iterate_phdr(note, &found);
    copy *other = NULL;
    for (size_t i = 0; i < found.count && !other; i++) {
        void *library = dlopen(found.names[i], RTLD_LAZY | RTLD_NOLOAD);
        if (!library) continue;
        copy *there = dlsym(library, "dmi_core_copy");
        if (there && there != &own && atomic_load_explicit(&there->serves, memory_order_relaxed))
            other = there;
        (void)dlclose(library);
    }
    return other;
}

static const char *file_of(const void *address) {
    Dl_info info;
    return dladdr(address, &info) && info.dli_fname ? info.dli_fname : "(unknown)";
}

static void tell(void) {
    if (atomic_exchange_explicit(&told, true, memory_order_relaxed)) return;
    char line[2 * LONGEST];
    int n = snprintf(line, sizeof line,
                     "dmi: %.4000s is a second copy of dmi in this process and makes no heap: "
                     "%.4000s serves it\n",
                     file_of(&own), file_of(in_the_way));
    if (n > 0) _dmi_os_message(line, (size_t)n);
}

bool _dmi_os_is_second_copy(void) {
    if (__builtin_expect(in_the_way == NULL, 1)) return false;
    tell();
    return true;
}

/* Runs before the constructors without a priority, so that none of them can use a copy that does not serve. */
__attribute__((constructor(101))) static void assert_one_copy(void) {
    copy *meant = &dmi_core_copy;
    __asm__("" : "+r"(meant)); /* else the compiler may assume that it is &own */
    if (meant != &own) {
        in_the_way =
            meant; /* not worth a line: an extension links libdmi.so, and another copy is preloaded */
        return;
    }
    in_the_way = earlier();
    if (in_the_way) tell();
    else atomic_store_explicit(&own.serves, 1, memory_order_relaxed);
}
