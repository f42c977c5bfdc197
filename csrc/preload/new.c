/* new.c - the four operators that the standard defines by themselves: new and delete, plain and aligned.
 *
 * Nothing of a C++ library is linked. When memory runs out, the loop over new-handlers and the exception
 * belong to the C++ runtime of the process, so the request is passed on to its own operator new: that
 * calls malloc again, which is ours, and does the rest. A process without such a runtime has nobody who
 * could catch, and stops with a message.
 */
#include "new.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

#pragma GCC visibility push(hidden)
#include "../heap/fast.h"
#pragma GCC visibility pop

#define COLD __attribute__((noinline, cold))

void *_dmi_preload_runtime(const char *name) {
    static const char *const libraries[] = {"libstdc++.so.6", "libc++abi.so.1", "libc++.so.1"};
    void *found = dlsym(RTLD_NEXT, name);
    /* An extension may have loaded it privately. */
    for (size_t i = 0; !found && i < sizeof libraries / sizeof *libraries; i++) {
        void *library = dlopen(libraries[i], RTLD_LAZY | RTLD_NOLOAD);
        if (library) found = dlsym(library, name);
    }
    return found;
}

static COLD void *nobody_catches(void) {
    static const char text[] =
        "dmi: operator new: out of memory, and no C++ runtime to throw std::bad_alloc\n";
    _dmi_os_message(text, sizeof text - 1);
    abort();
}

static COLD void *new_slow(size_t size) {
    void *block = _dmi_preload_malloc_slow(size);
    if (block) return block;
    void *(*function)(size_t);
    *(void **)&function = _dmi_preload_runtime("_Znwm");
    return function ? function(size) : nobody_catches();
}

static COLD void *aligned_slow(size_t size, align_val align) {
    void *(*function)(size_t, align_val);
    *(void **)&function = _dmi_preload_runtime("_ZnwmSt11align_val_t");
    return function ? function(size, align) : nobody_catches();
}

void *_dmi_preload_new_try(size_t size) {
    return _dmi_fast_malloc_or(size, _dmi_preload_malloc_slow);
}
void *_dmi_preload_new_aligned_try(size_t size, align_val align) {
    return aligned_alloc(align, size);
}

void *_Znwm(size_t size) { return _dmi_fast_malloc_or(size, new_slow); }

void *_ZnwmSt11align_val_t(size_t size, align_val align) {
    void *block = _dmi_preload_new_aligned_try(size, align);
    return __builtin_expect(block != NULL, 1) ? block : aligned_slow(size, align);
}

void _ZdlPv(void *block) {
    _dmi_fast_free_or(block, _dmi_preload_free_slow, _dmi_preload_free_settle);
}
void _ZdlPvSt11align_val_t(void *block, align_val align) {
    (void)align;
    _dmi_fast_free_or(block, _dmi_preload_free_slow, _dmi_preload_free_settle);
}

extern __typeof__(_Znwm) _dmi_preload_new __attribute__((alias("_Znwm"), visibility("hidden")));
extern __typeof__(_ZnwmSt11align_val_t) _dmi_preload_new_aligned
    __attribute__((alias("_ZnwmSt11align_val_t"), visibility("hidden")));
