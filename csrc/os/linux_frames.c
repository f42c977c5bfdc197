/* linux_frames.c - stacks by frame pointers; /proc/self/maps. */
#define _GNU_SOURCE
#include "frames.h"

#include "os.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE ((uintptr_t)4096)
#define GROW_PAGES 64    /* of a known stack, looked at in one go */
#define FIRST_PAGES 2048 /* of a stack that is seen for the first time */
#define OTHER_PAGES 64   /* of a stack that is nobody's we know: looked at anew each time */
#define OWN_FRAMES 6     /* of our library, at most */
#define REFRESH 16384

/* ---- mapped code --------------------------------------------------------------------------------------- */

#define RANGES 512
typedef struct code_map {
    size_t count;
    struct {
        uintptr_t start, end;
    } range[RANGES];
} code_map;
/* Readers use one while the other is written. */
static code_map maps[2];
static _Atomic(code_map *) current;
static _Atomic uint32_t misses;
static atomic_flag reading = ATOMIC_FLAG_INIT; /* there is one buffer */

typedef struct line {
    uint64_t start, end, offset;
    bool code;
    const char *path;
    size_t length;
} line;

static const char *hex(const char *at, const char *end, uint64_t *value) {
    *value = 0;
    for (; at < end; at++) {
        unsigned digit = (unsigned)*at;
        if (digit - '0' < 10u) digit -= '0';
        else if ((digit | 32u) - 'a' < 6u) digit = (digit | 32u) - 'a' + 10u;
        else break;
        *value = *value << 4 | digit;
    }
    return at;
}

/* "start-end rwxp offset dev inode  path" */
static bool parse(const char *at, const char *end, line *out) {
    at = hex(at, end, &out->start);
    if (at == end || *at++ != '-') return false;
    at = hex(at, end, &out->end);
    if (end - at < 7) return false;
    out->code = at[3] == 'x';
    at = hex(at + 6, end, &out->offset);
    for (int field = 0; field < 2; field++) {
        while (at < end && *at == ' ') at++;
        while (at < end && *at != ' ') at++;
    }
    while (at < end && *at == ' ') at++;
    out->path = at;
    out->length = (size_t)(end - at);
    return true;
}

static int each_line(void (*visit)(void *argument, const line *found), void *argument) {
    static char buffer[2 * 4096]; /* longer than any path */
    size_t used = 0;
    long file = syscall(SYS_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC, 0);
    if (file < 0) return errno;
    for (;;) {
        long n = syscall(SYS_read, file, buffer + used, sizeof buffer - used);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        used += (size_t)n;
        char *at = buffer, *end;
        while ((end = memchr(at, '\n', used - (size_t)(at - buffer)))) {
            line found;
            if (parse(at, end, &found)) visit(argument, &found);
            at = end + 1;
        }
        used -= (size_t)(at - buffer);
        memmove(buffer, at, used);
        if (used == sizeof buffer) used = 0;
    }
    (void)syscall(SYS_close, file);
    return 0;
}

static void add_range(void *argument, const line *found) {
    code_map *to = argument;
    if (!found->code || to->count == RANGES) return;
    if (to->count && to->range[to->count - 1].end == found->start) {
        __atomic_store_n(&to->range[to->count - 1].end, found->end, __ATOMIC_RELAXED);
        return;
    }
    __atomic_store_n(&to->range[to->count].start, found->start, __ATOMIC_RELAXED);
    __atomic_store_n(&to->range[to->count].end, found->end, __ATOMIC_RELAXED);
    __atomic_store_n(&to->count, to->count + 1, __ATOMIC_RELAXED);
}

void _dmi_os_frames_refresh(void) {
    if (atomic_flag_test_and_set_explicit(&reading, memory_order_acquire)) return;
    code_map *now = atomic_load_explicit(&current, memory_order_relaxed);
    code_map *to = now == &maps[0] ? &maps[1] : &maps[0];
    __atomic_store_n(&to->count, 0, __ATOMIC_RELAXED);
    (void)each_line(add_range, to);
    if (to->count) atomic_store_explicit(&current, to, memory_order_release);
    atomic_flag_clear_explicit(&reading, memory_order_release);
}

static bool is_code(uintptr_t address) {
    static _Atomic size_t last;
    const code_map *map = atomic_load_explicit(&current, memory_order_acquire);
    if (!map) return false;
    size_t guess = atomic_load_explicit(&last, memory_order_relaxed);
    if (address - __atomic_load_n(&map->range[guess].start, __ATOMIC_RELAXED) <
        __atomic_load_n(&map->range[guess].end, __ATOMIC_RELAXED) -
            __atomic_load_n(&map->range[guess].start, __ATOMIC_RELAXED))
        return true;
    size_t low = 0, high = __atomic_load_n(&map->count, __ATOMIC_RELAXED);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (address < __atomic_load_n(&map->range[middle].start, __ATOMIC_RELAXED)) high = middle;
        else if (address >= __atomic_load_n(&map->range[middle].end, __ATOMIC_RELAXED))
            low = middle + 1;
        else {
            atomic_store_explicit(&last, middle, memory_order_relaxed);
            return true;
        }
    }
    return false;
}

typedef struct visitor {
    void (*visit)(void *, uint64_t, uint64_t, uint64_t, const char *, size_t);
    void *argument;
} visitor;

static void pass_on(void *argument, const line *found) {
    const visitor *v = argument;
    if (found->code && found->length && found->path[0] == '/')
        v->visit(v->argument, found->start, found->end, found->offset, found->path, found->length);
}

int _dmi_os_code(void (*visit)(void *argument, uint64_t start, uint64_t end, uint64_t offset,
                               const char *path, size_t length),
                 void *argument) {
    visitor v = {visit, argument};
    while (atomic_flag_test_and_set_explicit(&reading, memory_order_acquire))
        (void)syscall(SYS_sched_yield);
    int error = each_line(pass_on, &v);
    atomic_flag_clear_explicit(&reading, memory_order_release);
    return error;
}

/* ---- the stack ----------------------------------------------------------------------------------------- */

extern char __ehdr_start[] __attribute__((visibility("hidden")));
extern char __etext[] __attribute__((visibility("hidden")));
extern void *__libc_stack_end;

/* Of this thread's own stack, the pages that were seen readable: [low, high). They stay so while it lives. */
static DMI_TLS uintptr_t known_low, known_high;

/* The kernel reads the set before it looks at what is to be done with it, which is nothing. */
static bool readable(uintptr_t page) {
    return syscall(SYS_rt_sigprocmask, -1, page, NULL, 8) == 0 || errno == EINVAL;
}

static bool all_readable(uintptr_t from, uintptr_t to, size_t most) {
    if ((to - from) / PAGE > most) return false;
    for (uintptr_t page = from; page < to; page += PAGE)
        if (!readable(page)) return false;
    return true;
}

/* Where the stack that sp lies on ends: the thread's own, if it is that. */
static uintptr_t end_of(uintptr_t sp) {
    uintptr_t thread = (uintptr_t)__builtin_thread_pointer();
    uintptr_t first = (uintptr_t)__libc_stack_end + 2 * sizeof(void *);
    uintptr_t end = UINTPTR_MAX;
    if (thread > sp) end = thread;
    if (first > sp && first < end) end = first;
    return end;
}

/* How far up from sp frames may be read. Other stacks (of coroutines, of signals) end we know not where: their pages
 * are looked at one by one. */
static uintptr_t limit_of(uintptr_t sp) {
    uintptr_t page = sp & ~(PAGE - 1);
    if (sp >= known_low && sp < known_high) return known_high;
    uintptr_t end = end_of(sp);
    if (known_high && sp < known_low && end >= known_high && end - known_high < PAGE &&
        all_readable(page, known_low, GROW_PAGES)) {
        known_low = page;
        return known_high;
    }
    if (!known_high && end != UINTPTR_MAX) {
        uintptr_t top = end & ~(PAGE - 1);
        if (top <= page) return end;
        if (all_readable(page, top, FIRST_PAGES)) {
            known_low = page;
            known_high = top + (readable(top) ? end - top : 0);
            return known_high;
        }
    }
    uintptr_t to = page + PAGE;
    for (size_t n = 0; n < OTHER_PAGES && readable(to); n++) to += PAGE;
    return to;
}

size_t _dmi_os_frames(const void *frame, uintptr_t *out, size_t most) {
    uintptr_t at = (uintptr_t)frame, limit = limit_of(at);
    size_t n = 0, own = 0;
    while (n < most && at % sizeof(void *) == 0 && at + 2 * sizeof(void *) <= limit) {
        uintptr_t next = ((const uintptr_t *)at)[0], address = ((const uintptr_t *)at)[1];
        bool ours = address >= (uintptr_t)__ehdr_start && address < (uintptr_t)__etext;
        if (ours && n == 0 && own < OWN_FRAMES) {
            own++;
        } else if (is_code(address)) {
            out[n++] = address;
        } else {
            /* A library that was loaded since, or no frame at all: looked up the more seldom the more there are. */
            uint32_t missed = atomic_fetch_add_explicit(&misses, 1, memory_order_relaxed) + 1;
            if ((missed & (missed - 1)) && missed % REFRESH) break;
            _dmi_os_frames_refresh();
            if (is_code(address)) continue;
            break;
        }
        if (next <= at) break;
        at = next;
    }
    return n;
}

/* ---- the rest ------------------------------------------------------------------------------------------ */

void *_dmi_os_symbol(const char *name) { return dlsym(RTLD_DEFAULT, name); }

size_t _dmi_os_symbol_size(const void *address) {
    Dl_info info;
    const ElfW(Sym) *symbol = NULL;
    if (!address || !dladdr1(address, &info, (void **)&symbol, RTLD_DL_SYMENT) || !symbol) return 0;
    return symbol->st_size;
}

size_t _dmi_os_program(char *path, size_t size) {
    ssize_t n = readlink("/proc/self/exe", path, size);
    return n > 0 ? (size_t)n : 0;
}

uint64_t _dmi_os_process_id(void) { return (uint64_t)getpid(); }

uint64_t _dmi_os_calendar(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000;
}
