/* windows_frames.c - stacks, as far as the system gives them. */
#include "frames.h"

#include <errno.h>
#include <string.h>
#include <windows.h>

#include <psapi.h>

static inline __attribute__((always_inline)) size_t frames_of(DWORD skip, dmi_native *out,
                                                              size_t most, bool *cut) {
    void *found[62];
    ULONG n = CaptureStackBackTrace(skip, most < 62 ? (DWORD)most : 62, found, NULL);
    for (ULONG i = 0; i < n; i++)
        out[i] = (dmi_native){.address = (uintptr_t)found[i], .end = UINTPTR_MAX};
    *cut = false;
    return n;
}

size_t _dmi_os_frames(const void *frame, dmi_native *out, size_t most, bool *cut) {
    (void)frame;
    /* The system unwinds by its tables; the first few frames are ours. */
    return frames_of(2, out, most, cut);
}

size_t _dmi_os_all_frames(const void *frame, dmi_native *out, size_t most, bool *cut) {
    (void)frame;
    return frames_of(0, out, most, cut);
}

void _dmi_os_frames_begin(void) {}
bool _dmi_os_frames_cross_signals(void) { return false; }

int _dmi_os_code(void (*visit)(void *argument, uint64_t start, uint64_t end, uint64_t offset,
                               const char *path, size_t length),
                 void *argument) {
    (void)visit;
    (void)argument;
    return ENOSYS;
}

/* By what is mapped, which the kernel tells: the lists of the loader are under its lock. */
void _dmi_os_modules(dmi_module *of, size_t count, dmi_modules_room *room) {
    size_t used = 0;
    const void *last = NULL;
    const char *path = NULL;
    for (size_t i = 0; i < count; i++) {
        MEMORY_BASIC_INFORMATION there;
        const void *address = (const void *)of[i].address;
        of[i].path = NULL;
        if (!VirtualQuery(address, &there, sizeof there) || there.Type != MEM_IMAGE) continue;
        if (there.AllocationBase != last) {
            last = there.AllocationBase;
            DWORD n = K32GetMappedFileNameA(GetCurrentProcess(), there.AllocationBase, room->lines,
                                            sizeof room->lines);
            path = NULL;
            if (n && n < sizeof room->text - used) {
                path = memcpy(room->text + used, room->lines, n);
                used += n + 1;
                room->text[used - 1] = 0;
            }
        }
        of[i].path = path;
        of[i].offset = of[i].address - (uintptr_t)there.AllocationBase;
    }
}

void *_dmi_os_symbol(const char *name) {
    (void)name;
    return NULL;
}

size_t _dmi_os_symbol_size(const void *address) {
    (void)address;
    return 0;
}

size_t _dmi_os_program(char *path, size_t size) {
    DWORD n = GetModuleFileNameA(NULL, path, (DWORD)size);
    return n < size ? n : 0;
}

uint64_t _dmi_os_process_id(void) { return GetCurrentProcessId(); }

uint64_t _dmi_os_calendar(void) {
    FILETIME now;
    GetSystemTimeAsFileTime(&now);
    uint64_t ticks = (uint64_t)now.dwHighDateTime << 32 | now.dwLowDateTime;
    return ticks / 10 - UINT64_C(11644473600000000);
}
