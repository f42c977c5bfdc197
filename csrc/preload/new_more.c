/* new_more.c - the operators that the standard defines through others: arrays, sized, nothrow.
 *
 * They call through the dynamic linker, so that a program that replaces operator new or delete gets these
 * calls too. They stand in a file of their own, where the compiler cannot bind the calls locally.
 */
#include "new.h"

/* Only C++ can catch what a throwing operator throws: when ours has no memory, or the program has its
 * own, the C++ runtime's function does it all. */
static void *find_theirs(const char *name, void *(**plain)(size_t, nothrow_ref),
                         void *(**aligned)(size_t, align_val, nothrow_ref)) {
    void *found = _dmi_preload_runtime(name);
    if (plain) *(void **)plain = found;
    else *(void **)aligned = found;
    return found;
}

static void *plain_nothrow(const char *name, bool ours, size_t size, nothrow_ref tag) {
    void *block = ours ? _dmi_preload_new_try(size) : NULL;
    if (block) return block;
    void *(*function)(size_t, nothrow_ref);
    return find_theirs(name, &function, NULL) ? function(size, tag) : NULL;
}

static void *aligned_nothrow(const char *name, bool ours, size_t size, align_val align,
                             nothrow_ref tag) {
    void *block = ours ? _dmi_preload_new_aligned_try(size, align) : NULL;
    if (block) return block;
    void *(*function)(size_t, align_val, nothrow_ref);
    return find_theirs(name, NULL, &function) ? function(size, align, tag) : NULL;
}

void *_ZnwmRKSt9nothrow_t(size_t size, nothrow_ref tag) {
    return plain_nothrow("_ZnwmRKSt9nothrow_t", _Znwm == _dmi_preload_new, size, tag);
}
void *_ZnamRKSt9nothrow_t(size_t size, nothrow_ref tag) {
    return plain_nothrow("_ZnamRKSt9nothrow_t",
                         _Znwm == _dmi_preload_new && _Znam == _dmi_preload_new_array, size, tag);
}
void *_ZnwmSt11align_val_tRKSt9nothrow_t(size_t size, align_val align, nothrow_ref tag) {
    return aligned_nothrow("_ZnwmSt11align_val_tRKSt9nothrow_t",
                           _ZnwmSt11align_val_t == _dmi_preload_new_aligned, size, align, tag);
}
void *_ZnamSt11align_val_tRKSt9nothrow_t(size_t size, align_val align, nothrow_ref tag) {
    return aligned_nothrow("_ZnamSt11align_val_tRKSt9nothrow_t",
                           _ZnwmSt11align_val_t == _dmi_preload_new_aligned &&
                               _ZnamSt11align_val_t == _dmi_preload_new_array_aligned,
                           size, align, tag);
}

void *_Znam(size_t size) { return _Znwm(size); }
void *_ZnamSt11align_val_t(size_t size, align_val align) {
    return _ZnwmSt11align_val_t(size, align);
}
/* What the global names are compared with. */
extern __typeof__(_Znam) _dmi_preload_new_array
    __attribute__((alias("_Znam"), visibility("hidden")));
extern __typeof__(_ZnamSt11align_val_t) _dmi_preload_new_array_aligned
    __attribute__((alias("_ZnamSt11align_val_t"), visibility("hidden")));

/* ---- delete: the size and the tag say nothing that the page map does not know better ------------------- */

void _ZdlPvm(void *block, size_t size) {
    (void)size;
    _ZdlPv(block);
}
void _ZdlPvRKSt9nothrow_t(void *block, nothrow_ref tag) {
    (void)tag;
    _ZdlPv(block);
}
void _ZdlPvmSt11align_val_t(void *block, size_t size, align_val align) {
    (void)size;
    _ZdlPvSt11align_val_t(block, align);
}
void _ZdlPvSt11align_val_tRKSt9nothrow_t(void *block, align_val align, nothrow_ref tag) {
    (void)tag;
    _ZdlPvSt11align_val_t(block, align);
}
void _ZdaPv(void *block) { _ZdlPv(block); }
void _ZdaPvm(void *block, size_t size) {
    (void)size;
    _ZdaPv(block);
}
void _ZdaPvRKSt9nothrow_t(void *block, nothrow_ref tag) {
    (void)tag;
    _ZdaPv(block);
}
void _ZdaPvSt11align_val_t(void *block, align_val align) { _ZdlPvSt11align_val_t(block, align); }
void _ZdaPvmSt11align_val_t(void *block, size_t size, align_val align) {
    (void)size;
    _ZdaPvSt11align_val_t(block, align);
}
void _ZdaPvSt11align_val_tRKSt9nothrow_t(void *block, align_val align, nothrow_ref tag) {
    (void)tag;
    _ZdaPvSt11align_val_t(block, align);
}
