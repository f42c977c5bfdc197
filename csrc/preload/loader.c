/* loader.c - where the dynamic loader lies, whose frees must not start a thread.
 *
 * glibc keeps the stacks of ended threads under a lock, and frees what belongs to the oldest ones under it (nptl:
 * __nptl_free_stacks calls the loader's _dl_deallocate_tls, which calls free). pthread_create and pthread_join
 * need the same lock. So a free that comes from the loader only frees: whatever else a slow path does is left
 * to the next one.
 */
#define _GNU_SOURCE
#include "preload.h"

#include <dlfcn.h>
#include <link.h>

static uintptr_t first, length;

bool _dmi_preload_is_loader(const void *code) { return (uintptr_t)code - first < length; }

/* Of the loader in every libc that there is. */
extern void *__tls_get_addr(void *);

void _dmi_preload_find_loader(void) {
    Dl_info info;
    if (!dladdr((const void *)(uintptr_t)__tls_get_addr, &info) || !info.dli_fbase) return;
    const char *base = info.dli_fbase;
    const ElfW(Ehdr) *header = info.dli_fbase;
    const ElfW(Phdr) *part = (const ElfW(Phdr) *)(const void *)(base + header->e_phoff);
    uintptr_t end = 0;
    for (size_t i = 0; i < header->e_phnum; i++, part++)
        if (part->p_type == PT_LOAD && part->p_vaddr + part->p_memsz > end)
            end = part->p_vaddr + part->p_memsz;
    first = (uintptr_t)base;
    length = end;
}
