/* linux_limits.c - small files of the system, and how much more a process may map.
 *
 * The bounds are RLIMIT_AS, RLIMIT_DATA, the address space, and the kernel's rule for overcommitting. */
#define _GNU_SOURCE
#include "linux_limits.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <unistd.h>

/* The address space that the kernel uses unless a mapping asks for an address above it. */
#define ADDRESS_SPACE ((uint64_t)1 << 47)

/* By direct system calls: open and read of the C library are cancellation points, and callers hold locks. */
int _dmi_linux_read_file(const char *path, char *buffer, size_t size) {
    if (size == 0) return -1;
    int saved = errno;
    long file = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    size_t length = 0;
    long got = -1;
    if (file >= 0) {
        do { /* one read may return less than the whole file */
            got = syscall(SYS_read, (int)file, buffer + length, size - 1 - length);
            if (got > 0) length += (size_t)got;
        } while ((got > 0 && length < size - 1) || (got < 0 && errno == EINTR));
        (void)syscall(SYS_close, (int)file);
    }
    buffer[length] = 0;
    errno = saved;
    return got < 0 ? -1 : (int)length;
}

static uint64_t lower(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* The number in a line of a file such as /proc/self/status, in KiB; -1: there is no such line. */
static int64_t kib_of(const char *text, const char *name) {
    const char *at = strstr(text, name);
    if (!at) return -1;
    for (at += strlen(name); *at == ' ' || *at == '\t'; at++) {
    }
    int64_t value = 0;
    for (; *at >= '0' && *at <= '9' && value < INT64_MAX / 16; at++)
        value = value * 10 + (*at - '0');
    return value;
}

/* Bytes that are left of a limit. Without a limit no file is read, because programs that probe for the largest size ask
 * often. */
static uint64_t left(int which, const char *used_name) {
    struct rlimit limit;
    char text[4096];
    if (getrlimit((__rlimit_resource_t)which, &limit) || limit.rlim_cur == RLIM_INFINITY)
        return UINT64_MAX;
    if (_dmi_linux_read_file("/proc/self/status", text, sizeof text) < 0) text[0] = 0;
    int64_t used = kib_of(text, used_name);
    uint64_t bytes = used < 0 ? 0 : (uint64_t)used << 10;
    return limit.rlim_cur > bytes ? limit.rlim_cur - bytes : 0;
}

/* How many bytes the kernel lets a mapping be that is charged, by its rule for overcommitting. */
static uint64_t promised(char rule) {
    char text[2048];
    struct sysinfo machine;
    if (rule == '1') return UINT64_MAX;
    if (rule == '2' && _dmi_linux_read_file("/proc/meminfo", text, sizeof text) > 0) {
        int64_t most = kib_of(text, "CommitLimit:"), now = kib_of(text, "Committed_AS:");
        if (most >= 0 && now >= 0) return most > now ? (uint64_t)(most - now) << 10 : 0;
    }
    if (sysinfo(&machine)) return UINT64_MAX;
    return ((uint64_t)machine.totalram + machine.totalswap) * machine.mem_unit;
}

uint64_t _dmi_linux_headroom(dmi_os_mode mode, bool *pages) {
    int saved = errno;
    char rule[4];
    *pages = mode == DMI_OS_STRICT; /* a discard lowers no charge */
    uint64_t room = ADDRESS_SPACE;
    room = lower(room, left(RLIMIT_AS, "VmSize:"));
    room = lower(room, left(RLIMIT_DATA, "VmData:"));
    if (_dmi_linux_read_file("/proc/sys/vm/overcommit_memory", rule, sizeof rule) < 1)
        rule[0] = '1';
    room = lower(room, promised(rule[0]));
    errno = saved;
    return room;
}
