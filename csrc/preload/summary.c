/* summary.c - `!heap -s` for all heaps, as text on standard error.
 *
 * The text is what dmi.summary() gives (dmi/windbg/_format.py); a test holds the two together.
 */
#include "preload.h"
#include "writer.h"

#include "../heap/heap.h"

#include <dmi/dmi.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

/* The cut-offs of WinDbg's derived lines, inferred from public dumps (see dmi/windbg/_model.py). */
#define PERCENT_OVER 10u
#define LIST_LENGTH_OVER 10u
#define UNCOMMITTED_RANGES_OVER 32u
#define LOCK_CONTENTION_OVER 1000u
#define COMMITTED_OVER 1024u /* KiB; for external fragmentation */

#define HEAPS 4096
#define KIB(bytes) ((bytes) / 1024)

/* ---- where it goes ------------------------------------------------------------------------------------- */

/* Standard error as it was at the start: many programs close theirs before the library's destructors. */
static int kept = -1;
static struct stat kept_is;

void _dmi_preload_keep_stderr(void) {
    kept = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 100);
    if (kept >= 0 && fstat(kept, &kept_is)) {
        (void)close(kept);
        kept = -1;
    }
}

/* Programs that close or reuse every descriptor are believed: then it is whatever standard error is. */
int _dmi_preload_stderr(void) {
    struct stat is;
    if (fcntl(STDERR_FILENO, F_GETFD) >= 0) return STDERR_FILENO;
    if (kept >= 0 && fstat(kept, &is) == 0 && is.st_dev == kept_is.st_dev &&
        is.st_ino == kept_is.st_ino)
        return kept;
    return STDERR_FILENO;
}

/* ---- the table ------------------------------------------------------------------------------------------ */

static void rule(dmi_writer *out, int width) {
    for (int i = 0; i < width + 69; i++) _dmi_writer_put(out, "-");
    _dmi_writer_put(out, "\n");
}

static void row(dmi_writer *out, void *handle, const dmi_stats *s, int width) {
    uint64_t commit = KIB(s->segment_committed), virt = KIB(s->segment_virtual);
    uint64_t free_kib = KIB(s->free_lfh + s->free_list + s->free_pages + s->offered);
    _dmi_writer_put(out,
                    "%0*" PRIxPTR " %08" PRIx64 " %7" PRIu64 " %6" PRIu64 " %6" PRIu64 " %6" PRIu64
                    " %5" PRIu64 " %5" PRIu64 " %4" PRIu64 " %6" PRIx64 "%s\n",
                    width, (uintptr_t)handle, s->flags, KIB(s->segment_reserved), commit, virt,
                    free_kib, s->list_length, s->uncommitted_ranges, s->virtual_blocks,
                    s->lock_contention, s->lfh_active ? "   L" : "");
    uint64_t external = commit ? 100 * free_kib / commit : 0;
    uint64_t address = virt > commit ? 100 * (virt - commit) / virt : 0;
    if (external > PERCENT_OVER && s->list_length > LIST_LENGTH_OVER && commit > COMMITTED_OVER)
        _dmi_writer_put(out,
                        "    External fragmentation %" PRIu64 " %% (%" PRIu64 " free blocks)\n",
                        external, s->list_length);
    if (address > PERCENT_OVER && s->uncommitted_ranges > UNCOMMITTED_RANGES_OVER)
        _dmi_writer_put(out,
                        "    Virtual address fragmentation %" PRIu64 " %% (%" PRIu64
                        " uncommited ranges)\n",
                        address, s->uncommitted_ranges);
    if (s->lock_contention > LOCK_CONTENTION_OVER)
        _dmi_writer_put(out, "    Lock contention %" PRIu64 "\n", s->lock_contention);
}

void _dmi_preload_write_summary(const char *why) {
    static void *handles[HEAPS];
    static dmi_writer out;
    _dmi_writer_begin_stderr(&out);
    size_t count = dmi_heap_list(handles, HEAPS), shown = count < HEAPS ? count : HEAPS;
    int width = 8;
    for (size_t i = 0; i < shown; i++)
        if ((uint64_t)(uintptr_t)handles[i] >> 32) width = 16;
    int margin = width - 8;
    _dmi_writer_put(&out, "dmi: heaps of process %ld, %s\n", (long)getpid(), why);
    _dmi_writer_put(
        &out, "%*s%s", margin, "",
        "  Heap     Flags   Reserv  Commit  Virt   Free  List   UCR  Virt  Lock  Fast \n");
    _dmi_writer_put(
        &out, "%*s%s", margin, "",
        "                    (k)     (k)    (k)     (k) length      blocks cont. heap \n");
    rule(&out, width);
    for (size_t i = 0; i < shown; i++) {
        dmi_stats stats = {.size = sizeof stats};
        if (dmi_heap_stats(handles[i], &stats, 0) == 0) row(&out, handles[i], &stats, width);
    }
    rule(&out, width);
    if (shown < count) _dmi_writer_put(&out, "dmi: and %zu more heaps\n", count - shown);
    _dmi_writer_flush(&out);
}

/* What programs look for in the text of glibc's malloc_stats, in its words. It also counts the most that was
 * mapped at a time, which nobody counted here. */
void _dmi_preload_write_totals(void) {
    static dmi_writer out;
    struct mallinfo2 info = mallinfo2();
    _dmi_writer_begin_stderr(&out);
    _dmi_writer_put(&out, "Arena 0:\nsystem bytes     = %10zu\nin use bytes     = %10zu\n",
                    info.arena, info.uordblks);
    _dmi_writer_put(&out, "Total (incl. mmap):\n");
    _dmi_writer_put(&out, "system bytes     = %10zu\nin use bytes     = %10zu\n",
                    info.arena + info.hblkhd, info.uordblks + info.hblkhd);
    _dmi_writer_put(&out, "max mmap regions = %10s\nmax mmap bytes   = %10s\n", "-", "-");
    _dmi_writer_flush(&out);
}
