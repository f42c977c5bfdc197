/* windows.c - the Windows backend of floor 1: VirtualAlloc and its relatives.
 *
 * LAZY behaves as STRICT: Windows has no memory that is writable without being committed.
 *
 * Sparse tables are committed whole, because a reserved page cannot be read here. (A handler that commits pages on
 * access would stop in every debugger, and meet the handlers of other libraries.) That costs commit charge but no
 * memory: the table shows in the process's commit size, and its untouched pages are not in the working set.
 */
#define WIN32_LEAN_AND_MEAN
#ifndef _WIN32_WINNT
#define _WIN32_WINNT 0x0A00
#endif
#include "os.h"

#include <errno.h>
#include <windows.h>

#include <psapi.h>
#include <realtimeapiset.h>

#include "attributes.h"
#include "windows_regions.h"

/* advapi32's RtlGenRandom, documented under this exported name. */
BOOLEAN NTAPI SystemFunction036(PVOID buffer, ULONG size);

/* ---- what the system is ---------------------------------------------------------------------- */

static size_t known_page_size, known_granularity;

static void ask_system(void) {
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    known_page_size = info.dwPageSize; /* two threads may write it at once, but the same value */
    known_granularity = info.dwAllocationGranularity;
}

static size_t windows_page_size(void) {
    if (known_page_size == 0) ask_system();
    return known_page_size;
}

static size_t windows_granularity(void) {
    if (known_granularity == 0) ask_system();
    return known_granularity;
}

/* The last error as an errno value. */
static int failure(void) {
    switch (GetLastError()) {
    case ERROR_NOT_ENOUGH_MEMORY:
    case ERROR_OUTOFMEMORY:
    case ERROR_COMMITMENT_LIMIT:
    case ERROR_WORKING_SET_QUOTA: return ENOMEM;
    case ERROR_CALL_NOT_IMPLEMENTED:
    case ERROR_NOT_SUPPORTED: return ENOSYS;
    default: return EINVAL;
    }
}

/* Leave the program's last error as it was, as errno is left on other systems. */
#define KEEPING_ERROR(statements)                                                                  \
    do {                                                                                           \
        DWORD kept_error = GetLastError();                                                         \
        statements SetLastError(kept_error);                                                       \
    } while (0)

/* ---- address ranges -------------------------------------------------------------------------- */

/* A reservation cannot be trimmed. So reserve a place that is wide enough, release it, and reserve its aligned part.
 * Another thread may take that part in between; then try again. */
static void *reserve_aligned(size_t size, size_t align) {
    char *address = VirtualAlloc(NULL, size, MEM_RESERVE, PAGE_NOACCESS);
    if (address == NULL || ((uintptr_t)address & (align - 1)) == 0) return address;
    VirtualFree(address, 0, MEM_RELEASE);
    if (size + align < size) return NULL;
    for (int attempt = 0; attempt < 64; attempt++) {
        char *wide = VirtualAlloc(NULL, size + align, MEM_RESERVE, PAGE_NOACCESS);
        if (wide == NULL) return NULL;
        VirtualFree(wide, 0, MEM_RELEASE);
        char *inside = (char *)(((uintptr_t)wide + align - 1) & ~(align - 1));
        address = VirtualAlloc(inside, size, MEM_RESERVE, PAGE_NOACCESS);
        if (address != NULL) return address;
    }
    return NULL;
}

/* Windows keeps no names of reservations, so dmi notes which are its own (windows_regions.c). They share one name,
 * because the table keeps few. The table itself is reserved without a name, and is not noted. */
static void remember(const void *address, size_t size, const char *name) {
    if (address != NULL && name != NULL)
        _dmi_attributes_set(address, size, (dmi_attributes){"dmi", false});
}

static void *windows_reserve(size_t size, size_t align, dmi_os_mode mode, bool huge,
                             const char *name) {
    (void)mode;
    (void)huge;
    void *address;
    KEEPING_ERROR({
        if (align <= windows_granularity())
            address = VirtualAlloc(NULL, size, MEM_RESERVE, PAGE_NOACCESS);
        else address = reserve_aligned(size, align);
    });
    remember(address, size, name);
    return address;
}

static int windows_reserve_at(void *place, size_t size, dmi_os_mode mode, bool huge,
                              const char *name) {
    (void)mode;
    (void)huge;
    int error = 0;
    KEEPING_ERROR({
        if (VirtualAlloc(place, size, MEM_RESERVE, PAGE_NOACCESS) == NULL)
            error = GetLastError() == ERROR_INVALID_ADDRESS ? EEXIST : failure();
    });
    if (error == 0) remember(place, size, name);
    return error;
}

static void *windows_reserve_table(size_t size, const char *name) {
    void *address;
    KEEPING_ERROR({ address = VirtualAlloc(NULL, size, MEM_RESERVE | MEM_COMMIT, PAGE_READONLY); });
    remember(address, size, name);
    return address;
}

static int windows_commit(void *address, size_t size, dmi_os_mode mode) {
    (void)mode;
    int error;
    KEEPING_ERROR({
        /* On pages that are committed already this only sets the protection, which makes a table's pages writable. */
        error = VirtualAlloc(address, size, MEM_COMMIT, PAGE_READWRITE) != NULL ? 0 : failure();
    });
    return error;
}

static int windows_decommit(void *address, size_t size, dmi_os_mode mode) {
    (void)mode;
    int error;
    KEEPING_ERROR({ error = VirtualFree(address, size, MEM_DECOMMIT) ? 0 : failure(); });
    return error;
}

static size_t windows_decommit_many(const dmi_os_range *ranges, size_t count, int *refused,
                                    uint64_t *calls) {
    size_t refusals = 0;
    for (size_t i = 0; i < count; i++) {
        refused[i] = windows_decommit(ranges[i].address, ranges[i].size, DMI_OS_LAZY);
        if (refused[i] != 0) refusals++;
        if (calls != NULL) ++*calls;
    }
    return refusals;
}

static int windows_offer(void *address, size_t size) {
    int error;
    KEEPING_ERROR(
        { error = VirtualAlloc(address, size, MEM_RESET, PAGE_NOACCESS) != NULL ? 0 : failure(); });
    return error;
}

/* A write takes a page out of MEM_RESET. MEM_RESET_UNDO would tell which contents survived, but they are undefined by
 * the contract. */
static int windows_unoffer(void *address, size_t size) {
    (void)address;
    (void)size;
    return 0;
}

static int windows_convert(void *address, size_t size, dmi_os_mode to) {
    (void)address;
    (void)size;
    (void)to;
    return 0; /* both modes are the same here */
}

/* Uncommitted pages are never accessible here. */
static bool windows_guard_cuts(dmi_os_mode mode) {
    (void)mode;
    return false;
}

static int windows_guard(void *address, size_t size, dmi_os_mode mode, bool on) {
    (void)address;
    (void)size;
    (void)mode;
    (void)on;
    return 0;
}

static void (*told)(const void *address);

static LONG CALLBACK on_fault(EXCEPTION_POINTERS *what) {
    const EXCEPTION_RECORD *record = what->ExceptionRecord;
    if (record->ExceptionCode == EXCEPTION_ACCESS_VIOLATION && record->NumberParameters >= 2)
        told((const void *)record->ExceptionInformation[1]);
    return EXCEPTION_CONTINUE_SEARCH;
}

static int windows_on_fault(void (*touched)(const void *address)) {
    static LONG done;
    told = touched;
    if (InterlockedExchange(&done, 1)) return 0;
    return AddVectoredExceptionHandler(1, on_fault) ? 0 : ENOSYS;
}

/* Large pages need a privilege and are never decommitted in part. */
static bool windows_has_huge(void) { return false; }
static void windows_advise_huge(void *address, size_t size, bool huge) {
    (void)address;
    (void)size;
    (void)huge;
}
static void windows_no_huge(void *address, size_t size) {
    (void)address;
    (void)size;
}

static int windows_release(void *address, size_t size) {
    int error;
    _dmi_attributes_clear(address, size); /* before another thread can get this place */
    KEEPING_ERROR({ error = VirtualFree(address, 0, MEM_RELEASE) ? 0 : failure(); });
    return error;
}

static void *windows_remap(void *address, size_t old_size, size_t new_size, bool may_move) {
    (void)address;
    (void)old_size;
    (void)new_size;
    (void)may_move;
    return NULL;
}

/* ---- questions ------------------------------------------------------------------------------- */

/* A commit is charged to the whole system, and a decommit takes it off. */
static uint64_t windows_headroom(dmi_os_mode mode, bool *pages) {
    (void)mode;
    *pages = true;
    MEMORYSTATUSEX status = {.dwLength = sizeof status};
    if (!GlobalMemoryStatusEx(&status)) return UINT64_MAX;
    return status.ullAvailPageFile < status.ullAvailVirtual ? status.ullAvailPageFile
                                                            : status.ullAvailVirtual;
}

static int64_t windows_resident(const void *address, size_t size) {
    enum { CHUNK = 256 };
    size_t page = windows_page_size();
    size_t pages = size / page;
    uintptr_t at = (uintptr_t)address;
    int64_t resident = 0;
    KEEPING_ERROR({
        while (pages != 0 && resident >= 0) {
            PSAPI_WORKING_SET_EX_INFORMATION asked[CHUNK];
            size_t count = pages < CHUNK ? pages : CHUNK;
            for (size_t i = 0; i < count; i++) {
                asked[i].VirtualAddress = (void *)(at + i * page);
                asked[i].VirtualAttributes.Flags = 0;
            }
            if (K32QueryWorkingSetEx(GetCurrentProcess(), asked,
                                     (DWORD)(count * sizeof asked[0]))) {
                for (size_t i = 0; i < count; i++)
                    if (asked[i].VirtualAttributes.Valid) resident += (int64_t)page;
            } else {
                resident = -1;
            }
            at += count * page;
            pages -= count;
        }
    });
    return resident;
}

static int64_t windows_process_resident(void) {
    PROCESS_MEMORY_COUNTERS info = {.cb = sizeof info};
    int64_t resident = -1;
    KEEPING_ERROR({
        if (K32GetProcessMemoryInfo(GetCurrentProcess(), &info, sizeof info))
            resident = (int64_t)info.WorkingSetSize;
    });
    return resident;
}

/* The system keeps this in a page that every process can read, so it costs a load and no system call. */
static uint64_t windows_clock(void) { return GetTickCount64() * 1000000u; }

static uint64_t windows_fine_clock(void) {
    LARGE_INTEGER now, second;
    (void)QueryPerformanceCounter(&now);
    (void)QueryPerformanceFrequency(&second);
    uint64_t ticks = (uint64_t)now.QuadPart, each = (uint64_t)second.QuadPart;
    return ticks / each * 1000000000u + ticks % each * 1000000000u / each;
}

static uint64_t windows_cpu_time(void) {
    FILETIME made, ended, kernel, user;
    uint64_t ticks = 0; /* of 100 ns */
    KEEPING_ERROR({
        if (GetProcessTimes(GetCurrentProcess(), &made, &ended, &kernel, &user)) {
            ticks += (uint64_t)kernel.dwHighDateTime << 32 | kernel.dwLowDateTime;
            ticks += (uint64_t)user.dwHighDateTime << 32 | user.dwLowDateTime;
        }
    });
    return ticks * 100u;
}

static int windows_random(void *buffer, size_t size) {
    unsigned char *out = buffer;
    KEEPING_ERROR({
        while (size != 0) {
            ULONG part = size < 4096 ? (ULONG)size : 4096;
            if (!SystemFunction036(out, part)) break;
            out += part;
            size -= part;
        }
    });
    if (size == 0) return 0;
    LARGE_INTEGER counter;
    QueryPerformanceCounter(&counter);
    uint64_t state =
        (uint64_t)counter.QuadPart ^ (uint64_t)(uintptr_t)&counter << 16 ^ GetCurrentProcessId();
    for (; size != 0; size--) { /* the system refused: these can be guessed, as `error` says */
        state += 0x9e3779b97f4a7c15u;
        uint64_t mixed = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9u;
        mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111ebu;
        *out++ = (unsigned char)(mixed >> 56);
    }
    return ENOSYS;
}

static void windows_message(const char *text, size_t length) {
    KEEPING_ERROR({
        HANDLE console = GetStdHandle(STD_ERROR_HANDLE);
        DWORD written = 0;
        while (length != 0 && WriteFile(console, text, (DWORD)length, &written, NULL) &&
               written != 0) {
            text += written;
            length -= written;
        }
    });
}

/* ---- threads --------------------------------------------------------------------------------- */

static void windows_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns) {
    DWORD limit = INFINITE;
    if (timeout_ns / 1000000u < INFINITE - 1) limit = (DWORD)((timeout_ns + 999999u) / 1000000u);
    KEEPING_ERROR(
        { (void)WaitOnAddress((volatile void *)word, &expected, sizeof expected, limit); });
}

static void windows_wake(_Atomic uint32_t *word, bool all) {
    if (all) WakeByAddressAll((void *)word);
    else WakeByAddressSingle((void *)word);
}

static uint64_t windows_thread_id(void) { return GetCurrentThreadId(); }

/* Only fiber-local storage has destructors here. A thread that makes no fibers counts as one fiber. */
static DWORD exit_slot = FLS_OUT_OF_INDEXES;
static void (*exit_handler)(void *);

static VOID NTAPI at_thread_exit(PVOID value) {
    if (value != NULL) exit_handler(value);
}

static int windows_thread_exit_setup(void (*handler)(void *)) {
    exit_handler = handler;
    exit_slot = FlsAlloc(at_thread_exit);
    return exit_slot == FLS_OUT_OF_INDEXES ? EAGAIN : 0;
}

static int windows_thread_exit_arm(void *value) {
    int error;
    KEEPING_ERROR({ error = FlsSetValue(exit_slot, value) ? 0 : ENOMEM; });
    return error;
}

static int windows_barrier_setup(void) { return 0; }

static int windows_barrier(void) {
    FlushProcessWriteBuffers();
    return 0;
}

static void (*helper_body)(void);
static _Atomic uint32_t helper_done;

static DWORD WINAPI helper_main(void *unused) {
    (void)unused;
    helper_body();
    atomic_store_explicit(&helper_done, 1, memory_order_release);
    windows_wake(&helper_done, true);
    return 0;
}

static int windows_thread_start(void (*body)(void)) {
    helper_body = body;
    atomic_store_explicit(&helper_done, 0, memory_order_relaxed);
    HANDLE helper = CreateThread(NULL, 65536, helper_main, NULL, 0, NULL);
    if (helper) (void)CloseHandle(helper);
    return helper ? 0 : EAGAIN;
}

/* Not until the thread has ended: what it does after its body needs the lock of the loader, and whoever waits here may
 * be a thread that ends and has that lock. */
static void windows_thread_join(void) {
    while (!atomic_load_explicit(&helper_done, memory_order_acquire))
        windows_wait(&helper_done, 0, UINT64_MAX);
}

static int windows_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
    (void)prepare;
    (void)parent;
    (void)child;
    return 0;
}

static int windows_move(void *from, size_t old_size, void *to, size_t new_size) {
    (void)from;
    (void)old_size;
    (void)windows_release(to, new_size);
    return ENOSYS;
}

static bool windows_split(void *address, size_t size, size_t first) {
    (void)address;
    (void)size;
    (void)first;
    return false; /* VirtualFree releases a reservation only as a whole */
}

static bool windows_join(void *left, size_t left_size, size_t right_size) {
    (void)left;
    (void)left_size;
    (void)right_size;
    return false;
}

/* Windows has no files about the system. */
static int windows_read_file(const char *path, char *buffer, size_t size) {
    (void)path;
    (void)buffer;
    (void)size;
    return -1;
}

bool _dmi_os_is_second_copy(void) { return false; }

static bool windows_strict_default(void) { return true; }

const dmi_os_backend _dmi_os_native = {
    .name = "windows",
    .page_size = windows_page_size,
    .granularity = windows_granularity,
    .can_trim = false,
    .strict_default = windows_strict_default,
    .reserve = windows_reserve,
    .reserve_at = windows_reserve_at,
    .reserve_table = windows_reserve_table,
    .commit = windows_commit,
    .decommit = windows_decommit,
    .decommit_many = windows_decommit_many,
    .offer = windows_offer,
    .unoffer = windows_unoffer,
    .guard = windows_guard,
    .guard_cuts = windows_guard_cuts,
    .on_fault = windows_on_fault,
    .convert = windows_convert,
    .has_huge = windows_has_huge,
    .advise_huge = windows_advise_huge,
    .break_huge = windows_no_huge,
    .forget = windows_no_huge,
    .release = windows_release,
    .remap = windows_remap,
    .move = windows_move,
    .split = windows_split,
    .join = windows_join,
    .headroom = windows_headroom,
    .resident = windows_resident,
    .process_resident = windows_process_resident,
    .clock = windows_clock,
    .fine_clock = windows_fine_clock,
    .cpu_time = windows_cpu_time,
    .random = windows_random,
    .read_file = windows_read_file,
    .regions = _dmi_windows_regions,
    .message = windows_message,
    .wait = windows_wait,
    .wake = windows_wake,
    .thread_id = windows_thread_id,
    .thread_exit_setup = windows_thread_exit_setup,
    .thread_exit_arm = windows_thread_exit_arm,
    .barrier_setup = windows_barrier_setup,
    .barrier = windows_barrier,
    .at_fork = windows_at_fork,
    .thread_start = windows_thread_start,
    .thread_join = windows_thread_join,
};
