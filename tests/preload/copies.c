/* copies.c {l|g|d}:FILE... - loads each file (locally, globally, or binding to itself first) and asks it for a
 * heap through its own symbols; prints "errno heaps-that-it-lists" for each. */
#define _GNU_SOURCE
#include "check.h"

#include <dlfcn.h>

int main(int count, char **words) {
    for (int i = 1; i < count; i++) {
        int how = words[i][0] == 'g' ? RTLD_GLOBAL : words[i][0] == 'd' ? RTLD_DEEPBIND : RTLD_LOCAL;
        void *library = dlopen(words[i] + 2, RTLD_NOW | how);
        if (!library) fprintf(stderr, "%s\n", dlerror());
        CHECK(library);
        void *(*create)(const void *);
        void *(*make)(size_t);
        void (*drop)(void *);
        size_t (*list)(void **, size_t);
        *(void **)&create = dlsym(library, "dmi_heap_create");
        *(void **)&make = dlsym(library, "dmi_malloc");
        *(void **)&drop = dlsym(library, "dmi_free");
        *(void **)&list = dlsym(library, "dmi_heap_list");
        CHECK(create && make && drop && list);
        errno = 0;
        void *heap = create(NULL);
        int error = heap ? 0 : errno;
        void *block = make(100);
        CHECK((block == NULL) == (heap == NULL));
        drop(block);
        printf("%d %zu\n", error, list(NULL, 0));
    }
    return 0;
}
