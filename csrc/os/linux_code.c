/* linux_code.c - which code is mapped, by /proc/self/maps. */
#define _GNU_SOURCE
#include "linux_code.h"

#include "copy.h"
#include "frames.h"
#include "os.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REFRESH 16384

#define RANGES 512
#define LINES DMI_MODULES_LINES /* longer than any path */
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
static char lines[LINES];
static _Atomic long reading; /* the process that uses the one buffer; 0: none */

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

/* buffer: of LINES bytes. */
static int each_line(char *buffer, void (*visit)(void *argument, const line *found),
                     void *argument) {
    size_t used = 0;
    long file = syscall(SYS_openat, AT_FDCWD, "/proc/self/maps", O_RDONLY | O_CLOEXEC, 0);
    if (file < 0) return errno;
    for (;;) {
        long n = syscall(SYS_read, file, buffer + used, LINES - used);
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
        if (used == LINES) used = 0;
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

/* A fork in the middle of a reading leaves the number of the parent there: the child may begin. */
static bool begin_reading(void) {
    long us = syscall(SYS_getpid), now = atomic_load_explicit(&reading, memory_order_relaxed);
    return now != us && atomic_compare_exchange_strong_explicit(
                            &reading, &now, us, memory_order_acquire, memory_order_relaxed);
}
static void end_reading(void) { atomic_store_explicit(&reading, 0, memory_order_release); }

void _dmi_code_refresh(void) {
    if (!begin_reading()) return;
    code_map *now = atomic_load_explicit(&current, memory_order_relaxed);
    code_map *to = now == &maps[0] ? &maps[1] : &maps[0];
    __atomic_store_n(&to->count, 0, __ATOMIC_RELAXED);
    (void)each_line(lines, add_range, to);
    if (to->count) atomic_store_explicit(&current, to, memory_order_release);
    end_reading();
}

static bool is_known(uintptr_t address) {
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

bool _dmi_code_holds(uintptr_t address) {
    if (is_known(address)) return true;
    /* A library that was loaded since, or no code at all. The more such addresses came, the more seldom it looks. */
    uint32_t missed = atomic_fetch_add_explicit(&misses, 1, memory_order_relaxed) + 1;
    if ((missed & (missed - 1)) && missed % REFRESH) return false;
    _dmi_code_refresh();
    return is_known(address);
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
    while (!begin_reading()) (void)syscall(SYS_sched_yield);
    int error = each_line(lines, pass_on, &v);
    end_reading();
    return error;
}

/* ---- modules ------------------------------------------------------------------------------------------- */

typedef struct module_search {
    dmi_module *of;
    size_t count;
    dmi_modules_room *room;
    size_t used;         /* of room->text */
    uintptr_t begins;    /* where the file was mapped last from its beginning on */
    size_t first_length; /* of its path in room->first; 0: too long */
} module_search;

/* What an object that begins there adds to the addresses in its tables. */
static bool bias_of(uintptr_t start, uintptr_t *bias) {
    ElfW(Ehdr) elf;
    if (!_dmi_os_copy(&elf, (const void *)start, sizeof elf)) return false;
    if (memcmp(elf.e_ident, ELFMAG, SELFMAG) != 0 || elf.e_phentsize != sizeof(ElfW(Phdr)))
        return false;
    for (size_t i = 0; i < elf.e_phnum; i++) {
        ElfW(Phdr) part;
        const void *at = (const void *)(start + elf.e_phoff + i * sizeof part);
        if (!_dmi_os_copy(&part, at, sizeof part)) return false;
        if (part.p_type != PT_LOAD) continue;
        *bias = start - (part.p_vaddr & ~(ElfW(Addr))(_dmi_os_page_size() - 1));
        return true;
    }
    return false;
}

static bool begins_here(const module_search *s, const line *found) {
    return s->first_length == found->length && !memcmp(s->room->first, found->path, found->length);
}

static void name_modules(void *argument, const line *found) {
    module_search *s = argument;
    const char *path = NULL;
    uintptr_t bias = 0;
    if (!found->length || found->path[0] != '/') return;
    if (found->offset == 0) {
        s->begins = found->start;
        s->first_length = found->length <= sizeof s->room->first ? found->length : 0;
        memcpy(s->room->first, found->path, s->first_length);
    }
    for (size_t i = 0; found->code && i < s->count; i++) {
        dmi_module *of = &s->of[i];
        if (of->address < found->start || of->address >= found->end) continue;
        if (!path) {
            if (sizeof s->room->text - s->used <= found->length) return; /* unknown then */
            path = memcpy(s->room->text + s->used, found->path, found->length);
            s->used += found->length + 1;
            s->room->text[s->used - 1] = 0;
            if (!begins_here(s, found) || !bias_of(s->begins, &bias))
                bias = found->start - found->offset;
        }
        of->path = path;
        of->offset = of->address - bias;
    }
}

void _dmi_os_modules(dmi_module *of, size_t count, dmi_modules_room *room) {
    module_search s = {.of = of, .count = count, .room = room};
    for (size_t i = 0; i < count; i++) of[i].path = NULL;
    (void)each_line(room->lines, name_modules, &s);
}
