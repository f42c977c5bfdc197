/* linux_copies.c - asserts at load that this copy of the core is the only one of the process that serves.
 *
 * A file loaded twice is one copy; two files are two, each with heaps and addresses that the other knows
 * nothing of. Every copy defines the same weak symbol, so the loader itself says which copy the process
 * means: where a program or a preloaded library brings one, all others find that one behind the name and
 * stay idle, as their functions do. Copies that were loaded privately (RTLD_LOCAL) do not see each
 * other by name; there the one that was loaded first serves. A copy that does not serve makes no heap.
 */
#define _GNU_SOURCE
#include "os.h"

#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Appended to by later versions only. */
typedef struct copy {
    uint32_t size;
    _Atomic uint32_t serves;
} copy;

__attribute__((weak, visibility("default"))) copy dmi_core_copy = {.size = sizeof(copy)};
/* Ours, whatever the name leads to. */
extern copy own __attribute__((alias("dmi_core_copy"), visibility("hidden")));

enum { MOST = 16, LONGEST = 4096 };
typedef struct files {
    const char *names[MOST];
    size_t count;
} files;

static copy *in_the_way; /* the copy that serves instead of this one; NULL: this one does */
static _Atomic bool told;

/* Names of loaded objects live as long as they do; dmi's are never unloaded. */
static int note(struct dl_phdr_info *info, size_t size, void *argument) {
    (void)size;
    files *found = argument;
    const char *base = strrchr(info->dlpi_name, '/');
    if (strstr(base ? base : info->dlpi_name, "dmi") && found->count < MOST)
        found->names[found->count++] = info->dlpi_name;
    return 0;
}

/* A copy in another file, loaded privately and before this one. */
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

/* Before the constructors without a number: none of them may find heaps in the wrong copy. */
__attribute__((constructor(101))) static void assert_one_copy(void) {
    copy *meant = &dmi_core_copy;
    __asm__("" : "+r"(meant)); /* the compiler may think that it is ours */
    if (meant != &own) {
        in_the_way =
            meant; /* usual: an extension links libdmi.so, and another copy was preloaded */
        return;
    }
    in_the_way = earlier();
    if (in_the_way) tell();
    else atomic_store_explicit(&own.serves, 1, memory_order_relaxed);
}
