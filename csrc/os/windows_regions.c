/* windows_regions.c - the regions of a process by VirtualQueryEx, and what each is used for.
 *
 * Windows tells the type of a region, not its use. Images and views of files follow from the type. The others are
 * recognised by their reservation: environment blocks of threads name the stacks, the system lists the heaps of the
 * process, and dmi knows its own reservations.
 * Of another process only the first segment of each system heap is known, and dmi's are not.
 */
#define WIN32_LEAN_AND_MEAN
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#include "windows_regions.h"

#include <dmi/dmi.h>

#include <errno.h>
#include <string.h>
#include <windows.h>

#include <psapi.h>
#include <tlhelp32.h>
#include <winternl.h>

#include "attributes.h"

/* A reservation of which the use is known. */
typedef struct owner {
    uint64_t allocation;
    uint32_t usage;
} owner;

/* What is known about a process before the walk. */
typedef struct survey {
    HANDLE process;
    DWORD pid;
    bool own;
    owner *owners; /* sorted by allocation */
    size_t count, capacity;
    bool full; /* there was no memory for more */
} survey;

/* ---- owners ---------------------------------------------------------------------------------- */

static size_t place_of(const survey *s, uint64_t allocation) {
    size_t low = 0, high = s->count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (s->owners[middle].allocation < allocation) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* Make room for one more owner. Its memory must not come from a heap, since the heap that is looked at is locked. */
static bool make_room(survey *s) {
    if (s->count < s->capacity) return true;
    size_t wanted = s->capacity ? 2 * s->capacity : 4096;
    owner *larger =
        VirtualAlloc(NULL, wanted * sizeof *larger, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
    if (larger == NULL) {
        s->full = true;
        return false;
    }
    if (s->owners != NULL) {
        memcpy(larger, s->owners, s->count * sizeof *larger);
        VirtualFree(s->owners, 0, MEM_RELEASE);
    }
    s->owners = larger;
    s->capacity = wanted;
    return true;
}

/* Note the use of the reservation around address, unless it is noted already. */
static void claim(survey *s, const void *address, uint32_t usage, MEMORY_BASIC_INFORMATION *info) {
    if (VirtualQueryEx(s->process, address, info, sizeof *info) == 0 || info->State == MEM_FREE)
        return;
    uint64_t allocation = (uintptr_t)info->AllocationBase;
    size_t place = place_of(s, allocation);
    if (place < s->count && s->owners[place].allocation == allocation) return;
    if (!make_room(s)) return;
    memmove(&s->owners[place + 1], &s->owners[place], (s->count - place) * sizeof *s->owners);
    s->owners[place] = (owner){allocation, usage};
    s->count++;
}

static bool read_memory(const survey *s, const void *address, void *out, size_t size) {
    SIZE_T got = 0;
    return ReadProcessMemory(s->process, address, out, size, &got) && got == size;
}

/* ---- threads --------------------------------------------------------------------------------- */

/* The beginning, as documented, of what NtQueryInformationThread returns for class 0. */
typedef struct thread_basics {
    LONG status;
    PVOID teb;
    PVOID process_id, thread_id;
    ULONG_PTR affinity;
    LONG priority, base_priority;
} thread_basics;

typedef LONG(NTAPI *query_function)(HANDLE, int, PVOID, ULONG, PULONG);

static query_function ntdll(const char *name) {
    HMODULE library = GetModuleHandleA("ntdll.dll");
    FARPROC found = library ? GetProcAddress(library, name) : NULL;
    query_function function;
    memcpy(&function, &found, sizeof function);
    return function;
}

static void claim_thread(survey *s, query_function query, HANDLE thread) {
    thread_basics basics;
    MEMORY_BASIC_INFORMATION info;
    NT_TIB tib;
    if (query(thread, 0, &basics, sizeof basics, NULL) < 0 || basics.teb == NULL) return;
    claim(s, basics.teb, DMI_USAGE_TEB_PEB, &info);
    if (read_memory(s, basics.teb, &tib, sizeof tib) && tib.StackLimit != NULL)
        claim(s, tib.StackLimit, DMI_USAGE_STACK, &info);
}

static void claim_threads(survey *s) {
    query_function query = ntdll("NtQueryInformationThread");
    HANDLE list = CreateToolhelp32Snapshot(TH32CS_SNAPTHREAD, 0);
    if (query == NULL || list == INVALID_HANDLE_VALUE) return;
    THREADENTRY32 entry = {.dwSize = sizeof entry};
    for (BOOL more = Thread32First(list, &entry); more; more = Thread32Next(list, &entry)) {
        if (entry.th32OwnerProcessID != s->pid) continue;
        HANDLE thread = OpenThread(THREAD_QUERY_INFORMATION, FALSE, entry.th32ThreadID);
        if (thread == NULL) continue; /* it has ended */
        claim_thread(s, query, thread);
        CloseHandle(thread);
    }
    CloseHandle(list);
}

static void claim_process_block(survey *s) {
    query_function query = ntdll("NtQueryInformationProcess");
    PROCESS_BASIC_INFORMATION basics;
    MEMORY_BASIC_INFORMATION info;
    if (query && query(s->process, ProcessBasicInformation, &basics, sizeof basics, NULL) >= 0 &&
        basics.PebBaseAddress != NULL)
        claim(s, basics.PebBaseAddress, DMI_USAGE_TEB_PEB, &info);
}

/* ---- heaps ----------------------------------------------------------------------------------- */

/* Note each reservation that holds an entry of the heap: its segments, and blocks with a mapping of their own. The heap
 * is locked, so nothing here may allocate from it. */
static void claim_heap(survey *s, HANDLE heap) {
    MEMORY_BASIC_INFORMATION info;
    claim(s, heap, DMI_USAGE_HEAP, &info);
    if (!HeapLock(heap)) return;
    PROCESS_HEAP_ENTRY entry = {.lpData = NULL};
    uintptr_t known = 0,
              known_end = 0; /* the region of the last entry: the next one is often there too */
    while (HeapWalk(heap, &entry)) {
        uintptr_t at = (uintptr_t)entry.lpData;
        if (at - known < known_end - known) continue;
        info.State = MEM_FREE;
        claim(s, entry.lpData, DMI_USAGE_HEAP, &info);
        if (info.State == MEM_FREE) continue;
        known = (uintptr_t)info.BaseAddress;
        known_end = known + info.RegionSize;
    }
    HeapUnlock(heap);
}

static void claim_own_heaps(survey *s) {
    enum { MOST = 1024 };
    HANDLE heaps[MOST];
    DWORD count = GetProcessHeaps(MOST, heaps);
    for (DWORD i = 0; i < count && i < MOST; i++) claim_heap(s, heaps[i]);
}

static void claim_foreign_heaps(survey *s) {
    HANDLE list = CreateToolhelp32Snapshot(TH32CS_SNAPHEAPLIST, s->pid);
    if (list == INVALID_HANDLE_VALUE) return;
    HEAPLIST32 entry = {.dwSize = sizeof entry};
    MEMORY_BASIC_INFORMATION info;
    for (BOOL more = Heap32ListFirst(list, &entry); more; more = Heap32ListNext(list, &entry))
        claim(s, (const void *)entry.th32HeapID, DMI_USAGE_HEAP, &info);
    CloseHandle(list);
}

/* ---- the walk -------------------------------------------------------------------------------- */

static uint32_t usage_of(const survey *s, const MEMORY_BASIC_INFORMATION *info, bool has_name) {
    if (info->State == MEM_FREE) return DMI_USAGE_FREE;
    if (info->Type == MEM_IMAGE) return DMI_USAGE_IMAGE;
    uint64_t allocation = (uintptr_t)info->AllocationBase;
    if (s->own && _dmi_attributes_get(info->AllocationBase).name != NULL) return DMI_USAGE_DMI;
    size_t place = place_of(s, allocation);
    if (place < s->count && s->owners[place].allocation == allocation)
        return s->owners[place].usage;
    /* A view of the page file has no name and is memory like any other. */
    return info->Type == MEM_MAPPED && has_name ? DMI_USAGE_MAPPED_FILE : DMI_USAGE_OTHER;
}

/* The file behind a mapping, as the system names devices. What does not fit loses its beginning. */
static void file_name(const survey *s, const void *address, char *out, size_t size) {
    WCHAR wide[512];
    char text[3 * 512 + 1];
    out[0] = 0;
    DWORD length = K32GetMappedFileNameW(s->process, (void *)(uintptr_t)address, wide, 512);
    if (length == 0) return;
    int bytes = WideCharToMultiByte(CP_UTF8, 0, wide, (int)length, text, sizeof text - 1, NULL, 0);
    if (bytes <= 0) return;
    text[bytes] = 0;
    const char *from = text;
    if ((size_t)bytes >= size) from += (size_t)bytes - (size - 1);
    while (((unsigned char)*from & 0xc0u) == 0x80u) from++; /* not in the middle of a letter */
    memcpy(out, from, strlen(from) + 1);
}

static int walk(const survey *s, dmi_os_region_visit visit, void *argument, uint64_t *total) {
    SYSTEM_INFO system;
    GetSystemInfo(&system);
    uint64_t end = (uint64_t)(uintptr_t)system.lpMaximumApplicationAddress + 1;
    dmi_region region = {.allocation = 0};
    uint64_t named = 0; /* the reservation that region.name belongs to */
    for (uint64_t at = 0; at < end; at += region.size) {
        MEMORY_BASIC_INFORMATION info;
        if (VirtualQueryEx(s->process, (void *)(uintptr_t)at, &info, sizeof info) == 0) return EIO;
        uint64_t behind = (uint64_t)(uintptr_t)info.BaseAddress + info.RegionSize;
        if (behind <= at) return EIO;
        bool mapped = info.State != MEM_FREE && info.Type != MEM_PRIVATE;
        region.address = at;
        region.size = (behind < end ? behind : end) - at;
        region.allocation = info.State == MEM_FREE ? 0 : (uint64_t)(uintptr_t)info.AllocationBase;
        if (!mapped) region.name[0] = 0;
        else if (named != region.allocation || region.name[0] == 0)
            file_name(s, info.AllocationBase, region.name, sizeof region.name);
        named = mapped ? region.allocation : 0;
        region.state = info.State;
        region.type = info.State == MEM_FREE ? 0 : info.Type;
        region.protect = info.State == MEM_COMMIT ? info.Protect : 0;
        region.usage = usage_of(s, &info, region.name[0] != 0);
        visit(argument, &region);
    }
    *total = end;
    return 0;
}

static int open_process(survey *s, uint64_t pid) {
    s->own = pid == 0 || pid == GetCurrentProcessId();
    s->pid = s->own ? GetCurrentProcessId() : (DWORD)pid;
    s->process = GetCurrentProcess();
    if (s->own) return 0;
    if (pid > UINT32_MAX) return ESRCH;
    s->process = OpenProcess(PROCESS_QUERY_INFORMATION | PROCESS_VM_READ, FALSE, s->pid);
    if (s->process != NULL) return 0;
    switch (GetLastError()) {
    case ERROR_ACCESS_DENIED: return EPERM;
    case ERROR_INVALID_PARAMETER: return ESRCH;
    default: return EINVAL;
    }
}

int _dmi_windows_regions(uint64_t pid, dmi_os_region_visit visit, void *argument, uint64_t *total) {
    DWORD kept_error = GetLastError();
    survey s = {.process = NULL};
    int error = open_process(&s, pid);
    if (error == 0) {
        claim_process_block(&s);
        claim_threads(&s);
        if (s.own) claim_own_heaps(&s);
        else claim_foreign_heaps(&s);
        error = s.full ? ENOMEM : walk(&s, visit, argument, total);
        if (s.owners != NULL) VirtualFree(s.owners, 0, MEM_RELEASE);
        if (!s.own) CloseHandle(s.process);
    }
    SetLastError(kept_error);
    return error;
}
