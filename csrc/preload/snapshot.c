/* snapshot.c - the heaps of the process as dmi.snapshot() saves them: JSON, and the blocks beside it.
 *
 * Nothing is allocated from a heap, and nothing waits for a reader: files are new ones that take their name
 * when they are whole (newfile.c). Blocks go to their file as the walk meets them. What Python would
 * work out about the address space is left to whoever loads the file: it holds the lines of smaps
 * that matter (dmi/_snapshot.py).
 */
#include "newfile.h"
#include "pack.h"
#include "preload.h"
#include "tally.h"
#include "target.h"

#include "../os/os.h"
#include "../os/own.h"

#include <dmi/dmi.h>

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define HEAPS 4096
#define SIDE ".blocks"
#define MAGIC "DMIBLK01" /* dmi/_snapshot.py */

static dmi_target target;

void _dmi_snapshot_start(void) { _dmi_target_start(&target, _dmi_preload_wish.snapshot.file); }

/* ---- what it says -------------------------------------------------------------------------------------- */

typedef struct walk {
    dmi_tally tally;
    dmi_packer *packer; /* NULL: no blocks wanted */
    uint64_t ranges;
} walk;

static int visit(void *argument, const dmi_range *range) {
    walk *w = argument;
    if (range->state == DMI_STATE_BUSY) _dmi_tally_add(&w->tally, range->size);
    if (w->packer) _dmi_pack_range(w->packer, range);
    w->ranges++;
    return 0;
}

static void put_stats(dmi_writer *out, const dmi_stats *stats) {
    _dmi_writer_put(out, "\"stats\":{");
#define PUT(name, unit, doc) _dmi_writer_put(out, "\"" #name "\":%" PRIu64 ",", stats->name);
    DMI_STATS(PUT)
#undef PUT
    _dmi_writer_put(out, "\"reasons\":{");
    const char *comma = "";
#define PUT(name, doc)                                                                             \
    _dmi_writer_put(out, "%s\"" #name "\":%" PRIu64, comma, stats->reason_##name);                 \
    comma = ",";
    DMI_REASONS(PUT)
#undef PUT
    _dmi_writer_put(out, "},\"ages\":{");
    comma = "";
#define PUT(name, bound, doc)                                                                      \
    _dmi_writer_put(out, "%s\"" #name "\":%" PRIu64, comma, stats->age_##name);                    \
    comma = ",";
    DMI_AGES(PUT)
#undef PUT
    _dmi_writer_put(out, "}}");
}

/* Null where there was no memory to list them. */
static void put_segments(dmi_writer *out, void *handle) {
    size_t capacity = 0, count;
    dmi_segment_info *found = NULL;
    /* Segments may come while they are counted. */
    while ((count = dmi_heap_segments(handle, found, capacity)) > capacity) {
        if (found) (void)munmap(found, capacity * sizeof *found);
        capacity = count + 64;
        found = mmap(NULL, capacity * sizeof *found, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (found == MAP_FAILED) {
            _dmi_writer_put(out, "null");
            return;
        }
    }
    _dmi_writer_put(out, "[");
    for (size_t i = 0; i < count; i++)
        _dmi_writer_put(out, "%s[%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%" PRIu64 ",%s]", i ? "," : "",
                        found[i].address, found[i].reserved, found[i].committed,
                        found[i].uncommitted_ranges, found[i].is_virtual ? "true" : "false");
    _dmi_writer_put(out, "]");
    if (found) (void)munmap(found, capacity * sizeof *found);
}

/* Null where not all sizes were counted, for want of memory or of a walk: some of them would pass for all. */
static void put_histogram(dmi_writer *out, dmi_tally *tally, bool walked) {
    if (tally->failed || !walked) {
        _dmi_writer_put(out, "null");
        return;
    }
    _dmi_tally_sort(tally);
    _dmi_writer_put(out, "[");
    for (size_t i = 0; i < tally->used; i++)
        _dmi_writer_put(out, "%s[%" PRIu64 ",%" PRIu64 "]", i ? "," : "", tally->rows[i].size,
                        tally->rows[i].count);
    _dmi_writer_put(out, "]");
}

/* What threads keep in flight, by the same names as dmi.snapshot() gives; null where there is no memory to ask. */
static void put_threads(dmi_writer *out, void *handle) {
    size_t capacity = 0, count;
    dmi_thread_usage *found = NULL;
    /* Threads may come while they are counted. */
    while ((count = dmi_heap_threads(handle, found, capacity)) > capacity) {
        if (found) (void)munmap(found, capacity * sizeof *found);
        capacity = count + 64;
        found = mmap(NULL, capacity * sizeof *found, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (found == MAP_FAILED) {
            _dmi_writer_put(out, ",\"threads\":null");
            return;
        }
    }
    const char *comma = "";
    _dmi_writer_put(out, ",\"threads\":{");
    for (size_t i = 0; i < count; i++) {
        if (!found[i].in_flight) continue;
        if (found[i].thread)
            _dmi_writer_put(out, "%s\"thread (%" PRIu64 ")\":%" PRIu64, comma, found[i].thread,
                            found[i].in_flight);
        else _dmi_writer_put(out, "%s\"threads that ended\":%" PRIu64, comma, found[i].in_flight);
        comma = ",";
    }
    _dmi_writer_put(out, "}");
    if (found) (void)munmap(found, capacity * sizeof *found);
}

/* False when the heap was destroyed meanwhile, and nothing was written. */
static bool put_heap(dmi_writer *out, void *handle, dmi_packer *packer, bool first) {
    dmi_heap_info info = {.size = sizeof info};
    dmi_stats stats = {.size = sizeof stats};
    char policy[160] = "";
    walk w = {.packer = packer};
    if (dmi_heap_get_info(handle, &info) ||
        dmi_heap_stats(handle, &stats, DMI_STATS_DETAIL | DMI_STATS_RESIDENT))
        return false;
    (void)dmi_policy_format(&info.policy, policy, sizeof policy);
    _dmi_tally_begin(&w.tally);
    errno = 0;
    bool walked = dmi_heap_walk(handle, visit, &w) == 0;
    if (!walked && errno != ENOTSUP) {
        _dmi_tally_end(&w.tally);
        return false;
    }
    _dmi_writer_put(out, "%s{\"handle\":%" PRIuPTR ",\"name\":\"", first ? "" : ",",
                    (uintptr_t)handle);
    _dmi_writer_put_json(out, info.name, strlen(info.name));
    _dmi_writer_put(out, "\",\"decommit\":\"%s\",", policy);
    put_stats(out, &stats);
    _dmi_writer_put(out, ",\"segments\":");
    put_segments(out, handle);
    _dmi_writer_put(out, ",\"histogram\":");
    put_histogram(out, &w.tally, walked);
    _dmi_tally_end(&w.tally);
    put_threads(out, handle);
    if (packer && walked) _dmi_writer_put(out, ",\"blocks\":%" PRIu64 "}", w.ranges);
    else _dmi_writer_put(out, ",\"blocks\":null}");
    return true;
}

static bool wanted(const char *line) {
    /* The first line of a mapping begins with its address, in lower case; all others with a name. */
    return (*line >= '0' && *line <= '9') || (*line >= 'a' && *line <= 'f') ||
           !strncmp(line, "Rss:", 4) || !strncmp(line, "Swap:", 5) ||
           !strncmp(line, "Anonymous:", 10) || !strncmp(line, "LazyFree:", 9) ||
           !strncmp(line, "VmFlags:", 8);
}

/* The inside of a JSON string: the mappings, and of each what it holds in memory. */
static void put_mappings(dmi_writer *out) {
    static char text[2 * PATH_MAX];
    int file = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    size_t have = 0;
    for (;;) {
        ssize_t n = read(file, text + have, sizeof text - have);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        have += (size_t)n;
        char *line = text, *end;
        while ((end = memchr(line, '\n', have))) {
            size_t length = (size_t)(end + 1 - line);
            if (wanted(line)) _dmi_writer_put_json(out, line, length);
            line += length;
            have -= length;
        }
        /* A line that the whole buffer does not hold is none of the kernel's. */
        if (have == sizeof text) break;
        memmove(text, line, have);
    }
    (void)close(file);
}

static void put_program(dmi_writer *out) {
    char name[64];
    int length = _dmi_os_read_file("/proc/self/comm", name, sizeof name);
    if (length > 0) _dmi_writer_put_json(out, name, strcspn(name, "\n"));
}

/* The value, or null where the system does not tell: unknown is not 0. */
static void put_known(dmi_writer *out, const char *name, bool known, uint64_t value) {
    if (known) _dmi_writer_put(out, "\"%s\":%" PRIu64, name, value);
    else _dmi_writer_put(out, "\"%s\":null", name);
}

/* Which run of the process: when it started, in ticks since the boot, and which boot. */
static void put_scope(dmi_writer *out) {
    char text[1024], *at;
    unsigned long long started = 0;
    bool known = false;
    if (_dmi_os_read_file("/proc/self/stat", text, sizeof text) > 0 && (at = strrchr(text, ')'))) {
        /* The name may hold anything; behind its bracket the start is the twentieth field. */
        for (int field = 0; field < 20 && at; field++) at = strchr(at + 1, ' ');
        known = at && sscanf(at, " %llu", &started) == 1;
    }
    _dmi_writer_put(out, "\"scope\":{");
    put_known(out, "started", known, started);
    if (_dmi_os_read_file("/proc/sys/kernel/random/boot_id", text, sizeof text) > 0) {
        _dmi_writer_put(out, ",\"boot\":\"");
        _dmi_writer_put_json(out, text, strcspn(text, "\n"));
        _dmi_writer_put(out, "\"}");
    } else {
        _dmi_writer_put(out, ",\"boot\":null}");
    }
}

static void put_limit(dmi_writer *out, const char *name, const char *group, const char *file) {
    char path[PATH_MAX + 64], text[64];
    unsigned long long value = 0;
    int length = snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", group, file);
    bool known = length > 0 && (size_t)length < sizeof path &&
                 _dmi_os_read_file(path, text, sizeof text) > 0 &&
                 sscanf(text, "%llu", &value) == 1;
    put_known(out, name, known, value);
}

/* The control group of the second kind, and what its memory is and may be. */
static void put_cgroup(dmi_writer *out) {
    static char text[PATH_MAX];
    const char *at = NULL;
    if (_dmi_os_read_file("/proc/self/cgroup", text, sizeof text) > 0)
        at = !strncmp(text, "0::", 3) ? text : strstr(text, "\n0::");
    if (!at) {
        _dmi_writer_put(out, "\"cgroup\":null");
        return;
    }
    at += *at == '\n' ? 4 : 3;
    size_t length = strcspn(at, "\n");
    text[(size_t)(at - text) + length] = 0;
    _dmi_writer_put(out, "\"cgroup\":{\"path\":\"");
    _dmi_writer_put_json(out, at, length);
    _dmi_writer_put(out, "\",");
    put_limit(out, "current", at, "memory.current");
    _dmi_writer_put(out, ",");
    put_limit(out, "limit", at, "memory.max");
    _dmi_writer_put(out, "}");
}

/* The library's own mappings, which have guards as stacks of threads have. */
static void put_tables(dmi_writer *out) {
    bool first = true;
    _dmi_writer_put(out, "\"tables\":[");
    for (size_t i = 0; i < DMI_OWN_AREAS; i++) {
        const dmi_own_area *area = &_dmi_own.area[i];
        uintptr_t base = (uintptr_t)__atomic_load_n(&area->base, __ATOMIC_ACQUIRE);
        if (!base) continue;
        _dmi_writer_put(out, "%s[%" PRIuPTR ",%" PRIu64 "]", first ? "" : ",", base, area->size);
        first = false;
    }
    _dmi_writer_put(out, "]");
}

static void put_snapshot(dmi_writer *out, dmi_packer *packer, const char *why) {
    static void *handles[HEAPS];
    struct timespec now = {0};
    (void)clock_gettime(CLOCK_REALTIME, &now);
    _dmi_writer_put(out,
                    "{\"format\":\"dmi-snapshot\",\"version\":2,\"label\":\"\",\"time\":%lld.%06ld,"
                    "\"pid\":%ld,\"page_size\":%zu,\"why\":\"%s\",\"program\":\"",
                    (long long)now.tv_sec, now.tv_nsec / 1000, (long)getpid(), _dmi_os_page_size(),
                    why);
    put_program(out);
    _dmi_writer_put(out, "\",\"heaps\":[");
    size_t count = dmi_heap_list(handles, HEAPS);
    if (count > HEAPS) count = HEAPS;
    bool first = true;
    for (size_t i = 0; i < count; i++)
        if (put_heap(out, handles[i], packer, first)) first = false;
    _dmi_writer_put(out, "],");
    put_scope(out);
    _dmi_writer_put(out, ",");
    put_cgroup(out);
    _dmi_writer_put(out, ",");
    put_tables(out);
    _dmi_writer_put(out, ",\"outside\":[],\"address\":null,\"process\":{");
    int64_t bytes = _dmi_os_process_resident();
    put_known(out, "resident", bytes > 0, bytes > 0 ? (uint64_t)bytes : 0);
    _dmi_writer_put(out, ",\"metadata\":%" PRIu64 "},\"smaps\":\"", dmi_metadata_committed());
    put_mappings(out);
    _dmi_writer_put(out, "\"");
    if (_dmi_preload_wish.profile.file) {
        _dmi_writer_put(out, ",\"profile\":");
        _dmi_preload_put_profile(out);
    }
    _dmi_writer_put(out, "}\n");
}

/* ---- the whole ------------------------------------------------------------------------------------------ */

void _dmi_preload_write_snapshot(const char *why) {
    static dmi_newfile json, side;
    static dmi_packer packer;
    bool blocks = _dmi_preload_wish.snapshot.blocks;
    if (!_dmi_preload_wish.snapshot.file ||
        !_dmi_target_mine(&target, _dmi_preload_wish.snapshot.only))
        return;
    target.number++;
    if (!_dmi_target_open(&target, &json, "")) {
        _dmi_target_complain("snapshot", &json);
        return;
    }
    if (blocks && !_dmi_target_open(&target, &side, SIDE)) {
        _dmi_target_complain("snapshot", &side);
        (void)_dmi_newfile_close(&json, false);
        return;
    }
    if (blocks) {
        _dmi_writer_put_bytes(&side.out, MAGIC, sizeof MAGIC - 1);
        _dmi_pack_begin(&packer, &side.out);
    }
    put_snapshot(&json.out, blocks ? &packer : NULL, why);
    if (blocks) _dmi_pack_end(&packer);
    /* Neither takes its name when the other cannot be written; the blocks first: a snapshot that is there has
     * them. */
    _dmi_writer_flush(&json.out);
    if (blocks && !_dmi_newfile_close(&side, !json.out.error) && !json.out.error) {
        _dmi_target_complain("snapshot", &side);
        (void)_dmi_newfile_close(&json, false);
    } else if (!_dmi_newfile_close(&json, true)) {
        _dmi_target_complain("snapshot", &json);
    }
}
