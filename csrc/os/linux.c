/* linux.c - the Linux backend of floor 1: mmap, madvise, and questions to the kernel. */
#define _GNU_SOURCE
#include "os.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "attributes.h"
#include "linux_limits.h"
#include "linux_random.h"
#include "linux_threads.h"

/* Kernel constants that the headers of older distributions lack. */
#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#define PR_SET_VMA_ANON_NAME 0
#endif
#ifndef MADV_FREE
#define MADV_FREE 8
#endif
#ifndef MADV_COLD
#define MADV_COLD 20
#endif
#ifndef MADV_GUARD_INSTALL /* Linux 6.13 */
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif
#ifndef SYS_process_madvise
#define SYS_process_madvise 440
#endif
enum {
    PIDFD_OF_SELF = -10000 /* PIDFD_SELF, Linux 6.13 */
};

/* A yes or no that the kernel is asked once. Two threads may ask at the same time; both get the same answer, so relaxed
 * loads and stores are enough. */
typedef enum answer { UNKNOWN = 0, YES, NO } answer;

/* ---- what the kernel is ---------------------------------------------------------------------- */

static size_t linux_page_size(void) {
    static _Atomic size_t known;
    size_t size = atomic_load_explicit(&known, memory_order_relaxed);
    if (__builtin_expect(size == 0, 0)) {
        size = (size_t)sysconf(_SC_PAGESIZE);
        atomic_store_explicit(&known, size, memory_order_relaxed);
    }
    return size;
}

static bool read_file(const char *path, char *buffer, size_t size) {
    return _dmi_linux_read_file(path, buffer, size) > 0;
}

/* Is every commit charged against a limit that is never exceeded? */
static bool linux_strict_default(void) {
    static _Atomic int known;
    int value = atomic_load_explicit(&known, memory_order_relaxed);
    if (value != UNKNOWN) return value == YES;
    char text[16];
    int saved = errno;
    value =
        read_file("/proc/sys/vm/overcommit_memory", text, sizeof text) && text[0] == '2' ? YES : NO;
    errno = saved;
    atomic_store_explicit(&known, value, memory_order_relaxed);
    return value == YES;
}

/* May the kernel back a range with huge pages that nobody asked for? Read once: when an administrator turns that on
 * later, this process is not protected from it. */
static bool huge_pages_unasked(void) {
    static _Atomic int known;
    int value = atomic_load_explicit(&known, memory_order_relaxed);
    if (value != UNKNOWN) return value == YES;
    char text[64];
    bool known_at_all = read_file("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof text);
    /* Without the file it is a kernel without huge pages, or a sandbox: assume that it may. */
    value = known_at_all && strstr(text, "[always]") == NULL ? NO : YES;
    /* Sizes between a page and 2 MiB have switches of their own (since Linux 6.8), which do not depend on the first. */
    static const char *const sizes[] = {"16", "32", "64", "128", "256", "512", "1024", "2048"};
    for (size_t i = 0; value == NO && i < sizeof sizes / sizeof *sizes; i++) {
        char path[96] = "/sys/kernel/mm/transparent_hugepage/hugepages-";
        strcat(path, sizes[i]);
        strcat(path, "kB/enabled");
        if (read_file(path, text, sizeof text) && strstr(text, "[always]") != NULL) value = YES;
    }
    atomic_store_explicit(&known, value, memory_order_relaxed);
    return value == YES;
}

/* ---- address ranges -------------------------------------------------------------------------- */

static void *map(void *at, size_t size, int protection, int flags) {
    void *address = mmap(at, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    return address == MAP_FAILED ? NULL : address;
}

/* ---- names and huge pages -------------------------------------------------------------------- */

static _Atomic int names_work;

/* huge = false keeps huge pages away. Failures are ignored: they do no harm. */
static void set_attributes(void *address, size_t size, bool huge, const char *name) {
    if (huge) (void)madvise(address, size, MADV_HUGEPAGE);
    else if (huge_pages_unasked()) (void)madvise(address, size, MADV_NOHUGEPAGE);
    int works = atomic_load_explicit(&names_work, memory_order_relaxed);
    if (name == NULL || works == NO) return;
    int named = prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, address, size, name) == 0 ? YES : NO;
    /* EINVAL is a kernel without names; ENOMEM is about this range alone. */
    if (works == UNKNOWN && (named == YES || errno == EINVAL))
        atomic_store_explicit(&names_work, named, memory_order_relaxed);
}

/* Remember what had an effect, to set it again after a remap. */
static void remember(void *address, size_t size, bool huge, const char *name) {
    bool named = atomic_load_explicit(&names_work, memory_order_relaxed) == YES;
    _dmi_attributes_set(address, size, (dmi_attributes){named ? name : NULL, huge});
}

/* ---- reserve, commit, decommit, release ------------------------------------------------------ */

/* A hint where the next aligned range fits without trimming: below the last one, or where one was just released. The
 * kernel takes it if the place is free. */
static _Atomic uintptr_t next_place;

static void *map_aligned(size_t size, size_t align, int protection, int flags) {
    uintptr_t place = atomic_load_explicit(&next_place, memory_order_relaxed) & ~(align - 1);
    char *address = map((void *)place, size, protection, flags);
    if (address == NULL) return NULL;
    if (((uintptr_t)address & (align - 1)) == 0) return address;
    munmap(address, size);

    size_t slack = align - linux_page_size();
    if (size + slack < size) return NULL;
    char *wide = map(NULL, size + slack, protection, flags);
    if (wide == NULL) return NULL;
    address = (char *)(((uintptr_t)wide + align - 1) & ~(align - 1));
    size_t front = (size_t)(address - wide);
    if (front != 0) munmap(wide, front);
    if (slack != front) munmap(address + size, slack - front);
    return address;
}

static int protection_of(dmi_os_mode mode) {
    return mode == DMI_OS_STRICT ? PROT_NONE : PROT_READ | PROT_WRITE;
}

/* Memory for blocks is mapped without MAP_NORESERVE. So a request larger than the machine is refused by malloc, not
 * killed by the kernel when it is used. */
static int charge_of(dmi_os_mode mode) { return mode == DMI_OS_SPARSE ? MAP_NORESERVE : 0; }

static void *linux_reserve(size_t size, size_t align, dmi_os_mode mode, bool huge,
                           const char *name) {
    int saved = errno;
    int protection = protection_of(mode), flags = charge_of(mode);
    void *address;
    if (align <= linux_page_size()) {
        address = map(NULL, size, protection, flags);
    } else {
        address = map_aligned(size, align, protection, flags);
        if (address != NULL) {
            uintptr_t below = (uintptr_t)address > size ? (uintptr_t)address - size : 0;
            atomic_store_explicit(&next_place, below, memory_order_relaxed);
        }
    }
    if (address != NULL) {
        set_attributes(address, size, huge, name);
        remember(address, size, huge, name);
    }
    errno = saved;
    return address;
}

/* These two own the whole address space, and let a program have the parts of it that they know of. */
extern void __msan_init(void) __attribute__((weak));
extern void __tsan_init(void) __attribute__((weak));

static int linux_reserve_at(void *place, size_t size, dmi_os_mode mode, bool huge,
                            const char *name) {
    if (__msan_init || __tsan_init) return ENOTSUP;
    int saved = errno, error = 0;
    void *address = map(place, size, protection_of(mode), charge_of(mode) | MAP_FIXED_NOREPLACE);
    if (address == NULL) {
        error = errno;
    } else if (address !=
               place) { /* before Linux 4.17 the flag is not known, and the address a wish */
        (void)munmap(address, size);
        error = EEXIST;
    } else {
        set_attributes(address, size, huge, name);
        remember(address, size, huge, name);
    }
    errno = saved;
    return error;
}

static void *linux_reserve_table(size_t size, const char *name) {
    int saved = errno;
    /* Reads give the shared zero page. No huge pages, because the committed parts must stay small. */
    void *address = map(NULL, size, PROT_READ, MAP_NORESERVE);
    if (address != NULL) set_attributes(address, size, false, name);
    errno = saved;
    return address;
}

static int linux_commit(void *address, size_t size, dmi_os_mode mode) {
    if (mode == DMI_OS_LAZY) return 0;
    int saved = errno;
    int error = mprotect(address, size, PROT_READ | PROT_WRITE) == 0 ? 0 : errno;
    errno = saved;
    return error;
}

/* Map the range anew over itself. Only that lowers the commit charge; mprotect keeps it. It also drops the attributes,
 * so they are set again. */
static int replace(void *address, size_t size, dmi_os_mode mode) {
    if (map(address, size, protection_of(mode), MAP_FIXED | charge_of(mode)) == NULL) return errno;
    dmi_attributes given = _dmi_attributes_get(address);
    set_attributes(address, size, given.huge, given.name);
    return 0;
}

static int linux_decommit(void *address, size_t size, dmi_os_mode mode) {
    int saved = errno;
    int error;
    if (mode == DMI_OS_STRICT) error = replace(address, size, mode);
    else error = madvise(address, size, MADV_DONTNEED) == 0 ? 0 : errno;
    errno = saved;
    return error;
}

static int linux_convert(void *address, size_t size, dmi_os_mode to) {
    int saved = errno;
    int error = replace(address, size, to);
    errno = saved;
    return error;
}

/* Guards in the page table cut no mapping in pieces. Where the kernel does not know them a protection does. Asked of a
 * page of our own, so that a refusal can only mean the call itself. */
static bool has_guards(void) {
    static _Atomic int known;
    int value = atomic_load_explicit(&known, memory_order_relaxed);
    if (value != UNKNOWN) return value == YES;
    size_t size = linux_page_size();
    void *page = map(NULL, size, PROT_READ | PROT_WRITE, 0);
    if (page == NULL) return false;
    value = madvise(page, size, MADV_GUARD_INSTALL) == 0 ? YES : NO;
    munmap(page, size);
    atomic_store_explicit(&known, value, memory_order_relaxed);
    return value == YES;
}

static bool linux_guard_cuts(dmi_os_mode mode) { return mode == DMI_OS_LAZY && !has_guards(); }

static int linux_guard(void *address, size_t size, dmi_os_mode mode, bool on) {
    if (mode == DMI_OS_STRICT) return 0;
    int saved = errno, failed;
    /* What writes a core file from outside, as gdb's gcore, gives up a mapping at its first guard. */
    if (mode != DMI_OS_SPARSE && has_guards())
        failed = madvise(address, size, on ? MADV_GUARD_INSTALL : MADV_GUARD_REMOVE);
    else failed = mprotect(address, size, on ? PROT_NONE : PROT_READ | PROT_WRITE);
    int error = failed ? errno : 0;
    errno = saved;
    return error;
}

static bool linux_has_huge(void) {
    char text[64];
    return read_file("/sys/kernel/mm/transparent_hugepage/enabled", text, sizeof text) &&
           strstr(text, "[never]") == NULL;
}

static void linux_advise_huge(void *address, size_t size, bool huge) {
    int saved = errno;
    (void)madvise(address, size, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
    errno = saved;
}

/* MADV_DONTNEED of a part of a huge page only takes that part out of the page table. The kernel keeps the whole huge
 * page until it runs short of memory; until then the cgroup's usage stays the same. MADV_COLD of one of its pages
 * splits it at once. */
static void linux_break_huge(void *address, size_t size) {
    int saved = errno;
    size_t page = linux_page_size();
    (void)madvise(address, size < page ? size : page, MADV_COLD);
    errno = saved;
}

static void linux_forget(void *address, size_t size) {
    int saved = errno;
    (void)madvise(address, size, MADV_DONTNEED);
    errno = saved;
}

static int linux_offer(void *address, size_t size) {
    int saved = errno;
    int error = madvise(address, size, MADV_FREE) == 0 ? 0 : errno;
    errno = saved;
    return error;
}

/* A write takes a page out of MADV_FREE by itself. */
static int linux_unoffer(void *address, size_t size) {
    (void)address;
    (void)size;
    return 0;
}

static int linux_release(void *address, size_t size) {
    int saved = errno;
    _dmi_attributes_clear(address, size); /* before another thread can get the same place */
    int error = munmap(address, size) == 0 ? 0 : errno;
    if (error == 0) atomic_store_explicit(&next_place, (uintptr_t)address, memory_order_relaxed);
    errno = saved;
    return error;
}

static void *linux_remap(void *address, size_t old_size, size_t new_size, bool may_move) {
    int saved = errno;
    dmi_attributes given = _dmi_attributes_get(address);
    _dmi_attributes_clear(address, old_size);
    void *moved = mremap(address, old_size, new_size, may_move ? MREMAP_MAYMOVE : 0);
    if (moved == MAP_FAILED) {
        moved = NULL;
        _dmi_attributes_set(address, old_size, given);
    } else {
        _dmi_attributes_set(moved, new_size, given);
    }
    errno = saved;
    return moved;
}

static int linux_move(void *from, size_t old_size, void *to, size_t new_size) {
    int saved = errno, error = 0;
    dmi_attributes given = _dmi_attributes_get(from);
    _dmi_attributes_clear(from, old_size);
    _dmi_attributes_clear(to, new_size);
    if (mremap(from, old_size, new_size, MREMAP_MAYMOVE | MREMAP_FIXED, to) == MAP_FAILED) {
        error = errno;
        _dmi_attributes_set(from, old_size, given);
        (void)munmap(to, new_size); /* the kernel may have done it already, or not */
    } else {
        _dmi_attributes_set(to, new_size, given);
    }
    errno = saved;
    return error;
}

/* To the kernel there are only pages, so a split changes the table of attributes and nothing else. */
static bool linux_split(void *address, size_t size, size_t first) {
    (void)size;
    return _dmi_attributes_split(address, first);
}

static bool linux_join(void *left, size_t left_size, size_t right_size) {
    (void)right_size;
    return _dmi_attributes_join(left, (char *)left + left_size);
}

/* ---- many ranges in one call ----------------------------------------------------------------- */

enum {
    BATCH_RANGES =
        128, /* the kernel takes 1024, but the vector lies on the stack of a thread that frees */
    BATCH_BYTES = 1 << 30 /* the kernel cuts a vector at 2 GiB less a page */
};

static long madvise_vector(const struct iovec *vector, size_t count) {
    return syscall(SYS_process_madvise, PIDFD_OF_SELF, vector, count, MADV_DONTNEED, 0);
}

/* Does the kernel have the call? Tried on a page of our own, where nothing else can be a reason to refuse. */
static bool can_batch(void) {
    static _Atomic int known;
    int value = atomic_load_explicit(&known, memory_order_relaxed);
    if (value != UNKNOWN) return value == YES;
    struct iovec vector = {NULL, linux_page_size()};
    vector.iov_base = map(NULL, vector.iov_len, PROT_READ | PROT_WRITE, 0);
    if (vector.iov_base == NULL) return false;
    value = madvise_vector(&vector, 1) == (long)vector.iov_len ? YES : NO;
    munmap(vector.iov_base, vector.iov_len);
    atomic_store_explicit(&known, value, memory_order_relaxed);
    return value == YES;
}

static int discard_one(const dmi_os_range *range, uint64_t *calls) {
    ++*calls;
    return madvise(range->address, range->size, MADV_DONTNEED) == 0 ? 0 : errno;
}

/* Give back the first ranges by one call. Returns how many are done, refused ones included. */
static size_t discard_batch(const dmi_os_range *ranges, size_t count, int *refused,
                            uint64_t *calls) {
    struct iovec vector[BATCH_RANGES];
    size_t length = 0;
    size_t bytes = 0;
    while (length < count && length < BATCH_RANGES && ranges[length].size <= BATCH_BYTES - bytes) {
        vector[length].iov_base = ranges[length].address;
        vector[length].iov_len = ranges[length].size;
        bytes += ranges[length].size;
        length++;
    }
    size_t done = 0;
    if (length > 1) { /* for one range madvise is cheaper; one above BATCH_BYTES needs it */
        ++*calls;
        long answered = madvise_vector(vector, length);
        size_t left = answered > 0 ? (size_t)answered : 0;
        for (; done < length && left >= ranges[done].size; done++) {
            left -= ranges[done].size;
            refused[done] = 0;
        }
        if (done == length) return done;
    }
    /* The call stopped at this range: ask for it alone, to learn the reason. The others go into the next call. */
    refused[done] = discard_one(&ranges[done], calls);
    return done + 1;
}

static size_t linux_decommit_many(const dmi_os_range *ranges, size_t count, int *refused,
                                  uint64_t *calls) {
    int saved = errno;
    uint64_t made = 0;
    size_t done = 0;
    if (count > 1 && can_batch()) {
        while (done < count)
            done += discard_batch(ranges + done, count - done, refused + done, &made);
    }
    for (; done < count; done++) refused[done] = discard_one(&ranges[done], &made);
    size_t refusals = 0;
    for (size_t i = 0; i < count; i++)
        if (refused[i] != 0) refusals++;
    if (calls != NULL) *calls += made;
    errno = saved;
    return refusals;
}

/* ---- questions ------------------------------------------------------------------------------- */

/* By mincore: for private anonymous memory it gives the same answer as /proc/self/pagemap, is faster, and needs no
 * /proc. Both also count the shared zero page behind a page that was only read; dmi does not read pages that it has
 * not committed. A page that is in the swap cache too counts, because it occupies memory. */
static int64_t linux_resident(const void *address, size_t size) {
    int saved = errno;
    size_t page = linux_page_size();
    unsigned char present[4096];
    const char *at = address;
    size_t pages = size / page;
    int64_t resident = 0;
    while (pages != 0) {
        size_t chunk = pages < sizeof present ? pages : sizeof present;
        if (mincore((void *)(uintptr_t)at, chunk * page, present) != 0) {
            resident = -1;
            break;
        }
        size_t count = 0;
        for (size_t i = 0; i < chunk; i++) count += present[i] & 1u;
        resident += (int64_t)(count * page);
        at += chunk * page;
        pages -= chunk;
    }
    errno = saved;
    return resident;
}

static int64_t linux_process_resident(void) {
    int saved = errno;
    char text[128];
    int64_t pages = -1;
    if (read_file("/proc/self/statm", text, sizeof text)) {
        const char *at = strchr(text, ' ');
        for (pages = 0; at != NULL && at[1] >= '0' && at[1] <= '9'; at++)
            pages = pages * 10 + (at[1] - '0');
    }
    errno = saved;
    return pages < 0 ? -1 : pages * (int64_t)linux_page_size();
}

/* On Linux the regions stand in /proc/PID/maps, which the callers read themselves. */
static int linux_regions(uint64_t pid, dmi_os_region_visit visit, void *argument, uint64_t *total) {
    (void)pid;
    (void)visit;
    (void)argument;
    (void)total;
    return ENOSYS;
}

static uint64_t read_clock(clockid_t clock) {
    struct timespec now = {0, 0};
    int saved = errno;
    (void)clock_gettime(clock, &now);
    errno = saved;
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t linux_clock(void) { return read_clock(CLOCK_MONOTONIC_COARSE); }
static uint64_t linux_fine_clock(void) { return read_clock(CLOCK_MONOTONIC); }
static uint64_t linux_cpu_time(void) { return read_clock(CLOCK_PROCESS_CPUTIME_ID); }

static void linux_message(const char *text, size_t length) {
    int saved = errno;
    while (length != 0) {
        long written = syscall(SYS_write, STDERR_FILENO, text, length);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) break;
        text += written;
        length -= (size_t)written;
    }
    errno = saved;
}

const dmi_os_backend _dmi_os_native = {
    .name = "linux",
    .page_size = linux_page_size,
    .granularity = linux_page_size,
    .can_trim = true,
    .strict_default = linux_strict_default,
    .reserve = linux_reserve,
    .reserve_at = linux_reserve_at,
    .reserve_table = linux_reserve_table,
    .commit = linux_commit,
    .decommit = linux_decommit,
    .decommit_many = linux_decommit_many,
    .offer = linux_offer,
    .unoffer = linux_unoffer,
    .guard = linux_guard,
    .guard_cuts = linux_guard_cuts,
    .on_fault = _dmi_linux_on_fault,
    .convert = linux_convert,
    .has_huge = linux_has_huge,
    .advise_huge = linux_advise_huge,
    .break_huge = linux_break_huge,
    .forget = linux_forget,
    .release = linux_release,
    .remap = linux_remap,
    .move = linux_move,
    .split = linux_split,
    .join = linux_join,
    .headroom = _dmi_linux_headroom,
    .resident = linux_resident,
    .process_resident = linux_process_resident,
    .clock = linux_clock,
    .fine_clock = linux_fine_clock,
    .cpu_time = linux_cpu_time,
    .random = _dmi_linux_random,
    .read_file = _dmi_linux_read_file,
    .regions = linux_regions,
    .message = linux_message,
    .wait = _dmi_linux_wait,
    .wake = _dmi_linux_wake,
    .thread_id = _dmi_linux_thread_id,
    .thread_exit_setup = _dmi_linux_thread_exit_setup,
    .thread_exit_arm = _dmi_linux_thread_exit_arm,
    .barrier_setup = _dmi_linux_barrier_setup,
    .barrier = _dmi_linux_barrier,
    .at_fork = _dmi_linux_at_fork,
    .thread_start = _dmi_linux_thread_start,
    .thread_join = _dmi_linux_thread_join,
};
