/* windows_frames.c - stacks, as far as the system gives them. */
#include "frames.h"

#include <errno.h>
#include <windows.h>

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

int _dmi_os_code(void (*visit)(void *argument, uint64_t start, uint64_t end, uint64_t offset,
                               const char *path, size_t length),
                 void *argument) {
    (void)visit;
    (void)argument;
    return ENOSYS;
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
