/* no_runtime.c - operator new in a process without a C++ runtime: it serves, and stops with a message when
 * memory is out, because nobody could catch. */
#define _GNU_SOURCE
#include "check.h"

#include <dlfcn.h>

int main(void) {
    void *(*new_)(size_t);
    void (*delete_)(void *);
    *(void **)&new_ = dlsym(RTLD_DEFAULT, "_Znwm");
    *(void **)&delete_ = dlsym(RTLD_DEFAULT, "_ZdlPv");
    CHECK(new_ && delete_);
    delete_(new_(100));
    size_t volatile huge = PTRDIFF_MAX;
    (void)new_(huge);
    return 0;
}
