/* summary.c - `!heap -s` for all heaps, written at exit or when listen.c was asked for it.
 *
 * The text is what dmi.summary() gives (dmi/windbg/_format.py); a test holds the two together.
 */
#include "preload.h"

#include "../heap/heap.h"
#include "../segment/pagemap.h"

#include <dmi/dmi.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The cut-offs of WinDbg's derived lines, inferred from public dumps (see dmi/windbg/_model.py). */
#define PERCENT_OVER 10u
#define LIST_LENGTH_OVER 10u
#define UNCOMMITTED_RANGES_OVER 32u
#define LOCK_CONTENTION_OVER 1000u

#define HEAPS 4096
#define KIB(bytes) ((bytes) / 1024)

/* ---- where it goes ------------------------------------------------------------------------------------- */

/* Standard error as it was at the start: many programs close theirs before the library's destructors. */
static int kept = -1;
static struct stat kept_is;

static void keep_stderr(void) {
    kept = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 100);
    if (kept >= 0 && fstat(kept, &kept_is)) {
        (void)close(kept);
        kept = -1;
    }
}

/* Programs that close or reuse every descriptor are believed: then it is whatever standard error is. */
static int descriptor(void) {
    struct stat is;
    if (fcntl(STDERR_FILENO, F_GETFD) >= 0) return STDERR_FILENO;
    if (kept >= 0 && fstat(kept, &is) == 0 && is.st_dev == kept_is.st_dev &&
        is.st_ino == kept_is.st_ino)
        return kept;
    return STDERR_FILENO;
}

typedef struct page {
    char text[4096];
    size_t used;
    int file;
} page;

static void flush(page *out) {
    for (size_t at = 0; at < out->used;) {
        ssize_t n = write(out->file, out->text + at, out->used - at);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        at += (size_t)n;
    }
    out->used = 0;
}

__attribute__((format(printf, 2, 3))) static void put(page *out, const char *format, ...) {
    if (sizeof out->text - out->used < 256) flush(out);
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(out->text + out->used, sizeof out->text - out->used, format, arguments);
    va_end(arguments);
    if (n > 0) out->used += (size_t)n;
}

/* ---- the table ------------------------------------------------------------------------------------------ */

static void rule(page *out, int width) {
    for (int i = 0; i < width + 69; i++) put(out, "-");
    put(out, "\n");
}

static void row(page *out, void *handle, const dmi_stats *s, int width) {
    uint64_t commit = KIB(s->segment_committed), virt = KIB(s->segment_virtual);
    uint64_t free_kib = KIB(s->free_lfh + s->free_list + s->free_pages + s->offered);
    put(out,
        "%0*" PRIxPTR " %08" PRIx64 " %7" PRIu64 " %6" PRIu64 " %6" PRIu64 " %6" PRIu64 " %5" PRIu64
        " %5" PRIu64 " %4" PRIu64 " %6" PRIx64 "%s\n",
        width, (uintptr_t)handle, s->flags, KIB(s->segment_reserved), commit, virt, free_kib,
        s->list_length, s->uncommitted_ranges, s->virtual_blocks, s->lock_contention,
        s->lfh_active ? "   L" : "");
    uint64_t external = commit ? 100 * free_kib / commit : 0;
    uint64_t address = virt > commit ? 100 * (virt - commit) / virt : 0;
    if (external > PERCENT_OVER && s->list_length > LIST_LENGTH_OVER)
        put(out, "    External fragmentation %" PRIu64 " %% (%" PRIu64 " free blocks)\n", external,
            s->list_length);
    if (address > PERCENT_OVER && s->uncommitted_ranges > UNCOMMITTED_RANGES_OVER)
        put(out,
            "    Virtual address fragmentation %" PRIu64 " %% (%" PRIu64 " uncommited ranges)\n",
            address, s->uncommitted_ranges);
    if (s->lock_contention > LOCK_CONTENTION_OVER)
        put(out, "    Lock contention %" PRIu64 "\n", s->lock_contention);
}

static void write_all(const char *why) {
    static void *handles[HEAPS];
    static page out;
    out.file = descriptor();
    out.used = 0;
    size_t count = dmi_heap_list(handles, HEAPS), shown = count < HEAPS ? count : HEAPS;
    int width = 8;
    for (size_t i = 0; i < shown; i++)
        if ((uint64_t)(uintptr_t)handles[i] >> 32) width = 16;
    int margin = width - 8;
    put(&out, "dmi: heaps of process %ld, %s\n", (long)getpid(), why);
    put(&out, "%*s%s", margin, "",
        "  Heap     Flags   Reserv  Commit  Virt   Free  List   UCR  Virt  Lock  Fast \n");
    put(&out, "%*s%s", margin, "",
        "                    (k)     (k)    (k)     (k) length      blocks cont. heap \n");
    rule(&out, width);
    for (size_t i = 0; i < shown; i++) {
        dmi_stats stats = {.size = sizeof stats};
        if (dmi_heap_stats(handles[i], &stats, 0) == 0) row(&out, handles[i], &stats, width);
    }
    rule(&out, width);
    if (shown < count) put(&out, "dmi: and %zu more heaps\n", count - shown);
    flush(&out);
}

/* One text at a time. */
static dmi_lock lock;
static _Atomic pid_t holder;

static void enter(void) {
    /* A lock that was held when this process was forked is held by nobody. */
    if (!_dmi_lock_try(&lock) && atomic_load(&holder) == getpid()) _dmi_lock(&lock);
    atomic_store(&holder, getpid());
}

void _dmi_preload_summary(const char *why) {
    int saved = errno;
    enter();
    write_all(why);
    _dmi_unlock(&lock);
    errno = saved;
}

void _dmi_preload_settle(void) {
    int saved = errno;
    enter();
    if (_dmi_preload_take(DMI_ASKED)) write_all("on a signal");
    _dmi_unlock(&lock);
    errno = saved;
}

/* ---- when ----------------------------------------------------------------------------------------------- */

/* One copy of the core in a process: the one that malloc leads to. */
static bool serves(void) {
    void *volatile block = malloc(1);
    bool ours = _dmi_pagemap_get(block) != &_dmi_no_run;
    free(block);
    return ours;
}

__attribute__((constructor)) static void at_start(void) {
    static const char idle[] = "dmi: libdmi_malloc.so serves no allocation here: another malloc "
                               "comes first (it has to be preloaded, before others)\n";
    _dmi_preload_options();
    /* From here on any pointer can be looked up, even if nothing was allocated yet. */
    (void)_dmi_default_heap();
    if (!serves()) _dmi_os_message(idle, sizeof idle - 1);
    if (_dmi_preload_wish.at_exit || _dmi_preload_wish.signal) keep_stderr();
    if (_dmi_preload_wish.signal) _dmi_preload_listen(_dmi_preload_wish.signal);
}

__attribute__((destructor)) static void at_exit(void) {
    if (_dmi_preload_wish.signal) _dmi_preload_settle();
    if (_dmi_preload_wish.at_exit) _dmi_preload_summary("at exit");
}
