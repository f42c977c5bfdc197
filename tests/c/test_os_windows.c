/* test_os_windows.c - what only Windows has: the regions of this process and of another one. */
#define WIN32_LEAN_AND_MEAN
#include <dmi/dmi.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

#include "os/os.h"
#include "test.h"

#define MIB ((size_t)1 << 20)

typedef struct view {
    dmi_region *regions;
    size_t count;
    uint64_t total;
} view;

/* All regions; the array comes from the system, so that looking changes little of what is seen. */
static view look(uint64_t pid) {
    view v = {NULL, 0, 0};
    REQUIRE_EQ(dmi_address_regions(pid, NULL, 0, &v.count, NULL), 0);
    size_t capacity = v.count + 1000;
    v.regions =
        VirtualAlloc(NULL, capacity * sizeof *v.regions, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
    REQUIRE(v.regions);
    REQUIRE_EQ(dmi_address_regions(pid, v.regions, capacity, &v.count, &v.total), 0);
    REQUIRE(v.count <= capacity);
    return v;
}

static void done(view *v) { VirtualFree(v->regions, 0, MEM_RELEASE); }

static const dmi_region *at(const view *v, const void *address) {
    uint64_t wanted = (uintptr_t)address;
    for (size_t i = 0; i < v->count; i++)
        if (wanted - v->regions[i].address < v->regions[i].size) return &v->regions[i];
    return NULL;
}

static uint32_t usage_at(const view *v, const void *address) {
    const dmi_region *region = at(v, address);
    return region ? region->usage : UINT32_MAX;
}

static void check_tables(uint64_t pid) {
    dmi_address_tables t = {.size = sizeof t};
    REQUIRE_EQ(dmi_address_summary(pid, &t), 0);
    uint64_t usage = 0;
    for (size_t i = 0; i < sizeof t.usage / sizeof *t.usage; i++) usage += t.usage[i];
    CHECK_EQ(usage, t.total);
    CHECK_EQ(t.free, t.usage[DMI_USAGE_FREE]);
    CHECK_EQ(t.committed + t.reserved, t.total - t.free);
    CHECK_EQ(t.image + t.mapped + t.private_, t.total - t.free);
    CHECK(t.image > 0 && t.private_ > 0 && t.committed > 0);
    CHECK(t.usage[DMI_USAGE_IMAGE] == t.image);
}

/* The regions follow one another from 0 to the end, and no two neighbours say the same. */
static void check_chain(const view *v) {
    uint64_t next = 0;
    for (size_t i = 0; i < v->count; i++) {
        const dmi_region *r = &v->regions[i];
        CHECK_EQ(r->address, next);
        CHECK(r->size > 0);
        CHECK(r->usage < DMI_USAGE_COUNT);
        bool empty = r->state == DMI_MEM_FREE;
        CHECK(empty || r->state == DMI_MEM_COMMIT || r->state == DMI_MEM_RESERVE);
        CHECK_EQ(empty, r->usage == DMI_USAGE_FREE);
        CHECK_EQ(empty, r->type == 0);
        CHECK_EQ(empty, r->allocation == 0);
        CHECK_EQ(r->state == DMI_MEM_COMMIT, r->protect != 0);
        CHECK(memchr(r->name, 0, sizeof r->name) != NULL);
        next = r->address + r->size;
    }
    CHECK_EQ(next, v->total);
    SYSTEM_INFO info;
    GetSystemInfo(&info);
    CHECK_EQ(v->total, (uintptr_t)info.lpMaximumApplicationAddress + 1);
}

TEST(the_tables_of_this_process_close) {
    for (int i = 0; i < 20; i++) {
        check_tables(i % 2 ? GetCurrentProcessId() : 0);
        view v = look(0);
        check_chain(&v);
        done(&v);
    }
}

TEST(a_reservation_and_what_is_committed_of_it_are_told_apart) {
    char *base = VirtualAlloc(NULL, 4 * MIB, MEM_RESERVE, PAGE_NOACCESS);
    REQUIRE(base && VirtualAlloc(base + MIB, MIB, MEM_COMMIT, PAGE_READONLY));
    view v = look(0);
    const dmi_region *before = at(&v, base), *middle = at(&v, base + MIB),
                     *after = at(&v, base + 2 * MIB);
    REQUIRE(before && middle && after);
    CHECK_EQ(before->size, MIB);
    CHECK_EQ(before->state, DMI_MEM_RESERVE);
    CHECK_EQ(middle->size, MIB);
    CHECK_EQ(middle->state, DMI_MEM_COMMIT);
    CHECK_EQ(middle->protect, PAGE_READONLY);
    CHECK_EQ(after->size, 2 * MIB);
    CHECK_EQ(after->usage, DMI_USAGE_OTHER);
    CHECK_EQ(after->type, DMI_MEM_PRIVATE);
    CHECK_EQ(middle->allocation, (uintptr_t)base);
    done(&v);
    VirtualFree(base, 0, MEM_RELEASE);
}

TEST(dmi_knows_its_own) {
    void *small = dmi_malloc(100), *large = dmi_malloc(40 * MIB);
    REQUIRE(small && large);
    view v = look(0);
    CHECK_EQ(usage_at(&v, small), DMI_USAGE_DMI);
    CHECK_EQ(usage_at(&v, large), DMI_USAGE_DMI);
    done(&v);
    dmi_segment_info segments[64];
    size_t count = dmi_heap_segments(dmi_heap_default(), segments, 64);
    uint64_t reserved = 0;
    for (size_t i = 0; i < count && i < 64; i++) reserved += segments[i].reserved;
    dmi_address_tables t = {.size = sizeof t};
    REQUIRE_EQ(dmi_address_summary(0, &t), 0);
    CHECK(t.usage[DMI_USAGE_DMI] >= reserved);
    dmi_free(large);
    dmi_address_tables later = {.size = sizeof later};
    /* The virtual block goes back with the trim, and so does its place in the table. */
    REQUIRE_EQ(dmi_heap_trim(dmi_heap_default(), NULL), 0);
    REQUIRE_EQ(dmi_address_summary(0, &later), 0);
    CHECK(later.usage[DMI_USAGE_DMI] + 40 * MIB <= t.usage[DMI_USAGE_DMI]);
    dmi_free(small);
}

static volatile LONG waiting, leave;
static char *volatile on_stack;

static void wait_here(void *unused) {
    char here = 0;
    (void)unused;
    on_stack = &here;
    InterlockedExchange(&waiting, 1);
    while (!leave) test_sleep_ms(1);
}

TEST(stacks_of_all_threads_images_and_blocks_of_the_system) {
    char here = 0;
    test_thread *other = test_thread_start(wait_here, NULL);
    while (!waiting) test_yield();
    view v = look(0);
    CHECK_EQ(usage_at(&v, &here), DMI_USAGE_STACK);
    CHECK_EQ(usage_at(&v, on_stack), DMI_USAGE_STACK);
    CHECK(at(&v, &here)->allocation != at(&v, on_stack)->allocation);
    CHECK_EQ(usage_at(&v, NtCurrentTeb()), DMI_USAGE_TEB_PEB);
    const dmi_region *code = at(&v, (const void *)(uintptr_t)wait_here);
    REQUIRE(code);
    CHECK_EQ(code->usage, DMI_USAGE_IMAGE);
    CHECK_EQ(code->type, DMI_MEM_IMAGE);
    CHECK_EQ(usage_at(&v, (const void *)(uintptr_t)GetProcAddress), DMI_USAGE_IMAGE);
    done(&v);
    InterlockedExchange(&leave, 1);
    test_thread_join(other);
}

static _Atomic uint32_t end_now;

static void wait_for_the_end(void) {
    while (!atomic_load(&end_now)) test_yield();
}

static void join_while_ending(void *value) {
    (void)value;
    atomic_store(&end_now, 1);
    _dmi_os_thread_join();
}

static void arm_exit(void *argument) { CHECK_EQ(_dmi_os_thread_exit_arm(argument), 0); }

/* A thread that ends has the lock of the loader, which the helper needs to end. */
TEST(a_thread_that_ends_can_join_the_helper) {
    REQUIRE_EQ(_dmi_os_thread_exit_setup(join_while_ending), 0);
    REQUIRE_EQ(_dmi_os_thread_start(wait_for_the_end), 0);
    test_thread_join(test_thread_start(arm_exit, &end_now));
    CHECK_EQ(atomic_load(&end_now), 1);
}

TEST(segments_and_large_blocks_of_system_heaps) {
    HANDLE heap = HeapCreate(0, 0, 0);
    REQUIRE(heap);
    void *small = HeapAlloc(heap, 0, 100), *large = HeapAlloc(heap, 0, 8 * MIB);
    void *many[64];
    for (size_t i = 0; i < 64; i++) many[i] = HeapAlloc(heap, 0, 200000);
    view v = look(0);
    CHECK_EQ(usage_at(&v, heap), DMI_USAGE_HEAP);
    CHECK_EQ(usage_at(&v, small), DMI_USAGE_HEAP);
    CHECK_EQ(usage_at(&v, large), DMI_USAGE_HEAP);
    for (size_t i = 0; i < 64; i++) CHECK_EQ(usage_at(&v, many[i]), DMI_USAGE_HEAP);
    done(&v);
    HeapDestroy(heap);
}

TEST(views_of_files_have_their_names) {
    char folder[MAX_PATH], path[MAX_PATH];
    REQUIRE(GetTempPathA(sizeof folder, folder) && GetTempFileNameA(folder, "dmi", 0, path));
    HANDLE file = CreateFileA(path, GENERIC_READ | GENERIC_WRITE, 0, NULL, CREATE_ALWAYS,
                              FILE_FLAG_DELETE_ON_CLOSE, NULL);
    REQUIRE(file != INVALID_HANDLE_VALUE);
    HANDLE of_file = CreateFileMappingA(file, NULL, PAGE_READWRITE, 0, 65536, NULL);
    HANDLE of_memory =
        CreateFileMappingA(INVALID_HANDLE_VALUE, NULL, PAGE_READWRITE, 0, 65536, NULL);
    REQUIRE(of_file && of_memory);
    const char *seen = MapViewOfFile(of_file, FILE_MAP_READ, 0, 0, 0);
    const char *shared = MapViewOfFile(of_memory, FILE_MAP_READ, 0, 0, 0);
    REQUIRE(seen && shared);
    view v = look(0);
    const dmi_region *region = at(&v, seen);
    REQUIRE(region);
    CHECK_EQ(region->type, DMI_MEM_MAPPED);
    CHECK_EQ(region->usage, DMI_USAGE_MAPPED_FILE);
    const char *file_only = strrchr(path, '\\') + 1;
    size_t length = strlen(region->name), tail = strlen(file_only);
    REQUIRE(length >= tail);
    CHECK(lstrcmpiA(region->name + length - tail, file_only) == 0);
    REQUIRE(at(&v, shared));
    CHECK_EQ(at(&v, shared)->type, DMI_MEM_MAPPED);
    CHECK_EQ(at(&v, shared)->usage, DMI_USAGE_OTHER);
    done(&v);
    UnmapViewOfFile(seen);
    UnmapViewOfFile(shared);
    CloseHandle(of_memory);
    CloseHandle(of_file);
    CloseHandle(file);
}

TEST(another_process) {
    char path[MAX_PATH];
    REQUIRE(GetModuleFileNameA(NULL, path, sizeof path));
    STARTUPINFOA start = {.cb = sizeof start};
    PROCESS_INFORMATION child;
    REQUIRE(CreateProcessA(path, NULL, NULL, NULL, FALSE, CREATE_SUSPENDED, NULL, NULL, &start,
                           &child));
    char *mine =
        VirtualAllocEx(child.hProcess, NULL, 4 * MIB, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
    CHECK(mine);
    check_tables(child.dwProcessId);
    view v = look(child.dwProcessId);
    check_chain(&v);
    const dmi_region *region = at(&v, mine);
    REQUIRE(region);
    CHECK_EQ(region->address, (uintptr_t)mine);
    CHECK_EQ(region->size, 4 * MIB);
    CHECK_EQ(region->state, DMI_MEM_COMMIT);
    CHECK_EQ(region->usage, DMI_USAGE_OTHER);
    dmi_address_tables t = {.size = sizeof t};
    REQUIRE_EQ(dmi_address_summary(child.dwProcessId, &t), 0);
    CHECK(t.usage[DMI_USAGE_STACK] > 0);
    CHECK_EQ(t.usage[DMI_USAGE_DMI], 0);
    done(&v);
    TerminateProcess(child.hProcess, 0);
    WaitForSingleObject(child.hProcess, INFINITE);
    CloseHandle(child.hThread);
    CloseHandle(child.hProcess);
}

TEST(a_process_that_is_not_there) {
    size_t count = 0;
    const uint64_t none[] = {0x7ffffff0u, (uint64_t)1 << 40};
    for (size_t i = 0; i < 2; i++) {
        errno = 0;
        SetLastError(4711);
        CHECK_EQ(dmi_address_regions(none[i], NULL, 0, &count, NULL), -1);
        CHECK_EQ(errno, ESRCH);
        CHECK_EQ(GetLastError(), 4711);
    }
}
