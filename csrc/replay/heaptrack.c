/* heaptrack.c - floor 7: turns the text of `heaptrack -r` into records.
 *
 * The lines that matter (all numbers hexadecimal):
 *     v VERSION FILEVERSION      first line
 *     I PAGESIZE PAGES           the machine
 *     t IP PARENT                a call site; numbered from 1 by their order
 *     + SIZE SITE POINTER        a block came into being
 *     - POINTER                  a block was freed
 *     c MILLISECONDS, R PAGES    clock and resident size
 *
 * A realloc is written as `-` and `+` with nothing but new call sites between them; but so is a free that
 * happens to be followed by a malloc, and that is far more frequent. What tells them apart is the call
 * site, the return address of the allocation call: behind one that calls realloc nearly every `+`
 * follows a `-` (all but realloc(NULL, n)), behind one that calls malloc only some do. In the recordings
 * looked at, the shares were 0.97 and above against 0.56 and below; from 3/4 on we call it realloc.
 * So the text is read once into records with one number an allocation, and finished in a second pass
 * over the records, which joins pairs and renumbers.
 *
 * Numbers of freed objects are used again, the lowest first. That keeps the replayer's table small, and
 * the file: with last-freed-first the compressed Redis recording was 6 % larger, without reuse 16 %.
 */
#include <dmi/replay.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define CARRY_MAX 256u /* the longest line of those above, with room */
#define NEWEST_FILE_VERSION 3u
#define AFTER_FREE 0xffffu /* in .thread of a record until finish(): an alloc right behind a free */
#define NO_OBJECT UINT32_MAX

typedef struct site {
    uint64_t address;
    uint64_t blocks;   /* `+` lines */
    uint64_t adjacent; /* of these, right behind a `-` */
} site;

typedef struct slot {
    uint64_t pointer; /* 0: empty */
    uint32_t object;
} slot;

struct dmi_heaptrack {
    dmi_record *records;
    size_t count, capacity;
    uint32_t objects; /* allocations so far */
    slot *live;       /* hash table of live pointers, linear probing */
    size_t live_count, live_mask;
    uint32_t *trace_site; /* call site number of each trace; [0] is "none" */
    size_t traces, trace_capacity;
    site *sites;
    size_t site_count, site_capacity;
    uint32_t *site_hash; /* site numbers by address; 0: empty, so site 0 is not in it */
    size_t site_mask;
    uint32_t *pair_site; /* site of each alloc marked AFTER_FREE, in order */
    size_t pairs, pair_capacity;
    bool after_free; /* the last event was the free of a known block */
    bool versioned;  /* the first line was read */
    bool finished;
    bool keeps_nothing; /* only looks whether the text can be read */
    uint64_t clock_ms, page_size;
    uint64_t offset; /* in the text, of the line being read */
    const char *fault;
    uint64_t fault_offset;
    unsigned char carry[CARRY_MAX]; /* a line that began in an earlier piece */
    size_t carry_size;
    uint64_t carry_skipped; /* bytes of it that did not fit (lines of no interest only) */
    dmi_import_result result;
};

/* ---- growing arrays --------------------------------------------------------------------------- */

/* Make room for one more element. Returns the array, moved perhaps, or NULL with ENOMEM. */
static void *grow(void *array, size_t count, size_t *capacity, size_t element) {
    if (count < *capacity) return array;
    size_t bigger = *capacity ? *capacity * 2 : 1024;
    if (bigger > SIZE_MAX / element) {
        errno = ENOMEM;
        return NULL;
    }
    void *moved = realloc(array, bigger * element);
    if (moved) *capacity = bigger;
    return moved;
}

static int put(dmi_heaptrack *import, dmi_record record) {
    if (import->keeps_nothing) return 0;
    dmi_record *records =
        grow(import->records, import->count, &import->capacity, sizeof *import->records);
    if (!records) return -1;
    import->records = records;
    records[import->count++] = record;
    return 0;
}

/* ---- live pointers ---------------------------------------------------------------------------- */

static size_t mix(uint64_t value) {
    value *= 0x9e3779b97f4a7c15u;
    return (size_t)(value ^ value >> 29);
}

static int live_grow(dmi_heaptrack *import) {
    size_t size = import->live ? (import->live_mask + 1) * 2 : 4096;
    slot *bigger = calloc(size, sizeof *bigger);
    if (!bigger) return -1;
    for (size_t i = 0; import->live && i <= import->live_mask; i++) {
        if (!import->live[i].pointer) continue;
        size_t at = mix(import->live[i].pointer) & (size - 1);
        while (bigger[at].pointer) at = (at + 1) & (size - 1);
        bigger[at] = import->live[i];
    }
    free(import->live);
    import->live = bigger;
    import->live_mask = size - 1;
    return 0;
}

/* The slot of pointer, or the empty one where it belongs. */
static slot *live_slot(dmi_heaptrack *import, uint64_t pointer) {
    size_t at = mix(pointer) & import->live_mask;
    while (import->live[at].pointer && import->live[at].pointer != pointer)
        at = (at + 1) & import->live_mask;
    return &import->live[at];
}

/* Empty a slot and close the gap behind it, so that probing never needs tombstones. */
static void live_remove(dmi_heaptrack *import, slot *gone) {
    size_t mask = import->live_mask;
    size_t hole = (size_t)(gone - import->live);
    for (size_t at = (hole + 1) & mask; import->live[at].pointer; at = (at + 1) & mask) {
        size_t home = mix(import->live[at].pointer) & mask;
        if (((at - home) & mask) < ((at - hole) & mask)) continue; /* it may not move before home */
        import->live[hole] = import->live[at];
        hole = at;
    }
    import->live[hole].pointer = 0;
    import->live_count--;
}

/* ---- call sites ------------------------------------------------------------------------------- */

static int site_rehash(dmi_heaptrack *import) {
    size_t size = import->site_hash ? (import->site_mask + 1) * 2 : 1024;
    uint32_t *bigger = calloc(size, sizeof *bigger);
    if (!bigger) return -1;
    for (size_t i = 1; i < import->site_count; i++) {
        size_t at = mix(import->sites[i].address) & (size - 1);
        while (bigger[at]) at = (at + 1) & (size - 1);
        bigger[at] = (uint32_t)i;
    }
    free(import->site_hash);
    import->site_hash = bigger;
    import->site_mask = size - 1;
    return 0;
}

static int add_site(dmi_heaptrack *import, uint64_t address) {
    site *sites = grow(import->sites, import->site_count, &import->site_capacity, sizeof *sites);
    if (!sites) return -1;
    import->sites = sites;
    sites[import->site_count++] = (site){.address = address};
    return 0;
}

/* A `t` line: remember which call site the new trace begins at. */
static int add_trace(dmi_heaptrack *import, uint64_t address) {
    if (import->keeps_nothing) {
        import->traces++;
        return 0;
    }
    if (import->site_count * 2 > import->site_mask && site_rehash(import) != 0) return -1;
    uint32_t *traces =
        grow(import->trace_site, import->traces, &import->trace_capacity, sizeof *traces);
    if (!traces) return -1;
    import->trace_site = traces;
    size_t at = mix(address) & import->site_mask;
    while (import->site_hash[at] && import->sites[import->site_hash[at]].address != address)
        at = (at + 1) & import->site_mask;
    if (!import->site_hash[at]) {
        if (add_site(import, address) != 0) return -1;
        import->site_hash[at] = (uint32_t)(import->site_count - 1);
    }
    traces[import->traces++] = import->site_hash[at];
    return 0;
}

/* ---- lines ------------------------------------------------------------------------------------ */

static int refuse(dmi_heaptrack *import, const char *fault) {
    import->fault = fault;
    import->fault_offset = import->offset;
    errno = EINVAL;
    return -1;
}

/* Read up to `wanted` hexadecimal numbers, each behind one space; the line must end behind the last.
 * Returns how many there were, or -1 for anything else on the line. */
static int read_numbers(const unsigned char *at, const unsigned char *end, uint64_t *out,
                        int wanted) {
    int found = 0;
    while (at < end) {
        if (*at++ != ' ' || found == wanted || at == end) return -1;
        uint64_t value = 0;
        const unsigned char *first = at;
        for (; at < end && *at != ' '; at++) {
            unsigned digit = *at - (unsigned)'0';
            if (digit > 9) {
                digit = (*at | 0x20u) - (unsigned)'a' + 10;
                if (digit < 10 || digit > 15) return -1;
            }
            value = value << 4 | digit;
        }
        if (at == first || at - first > 16) return -1;
        out[found++] = value;
    }
    return found;
}

static int on_block(dmi_heaptrack *import, uint64_t size, uint64_t trace, uint64_t pointer) {
    if (pointer == 0) return refuse(import, "a block at address 0");
    if (size > DMI_TRACE_MAX_SIZE) return refuse(import, "a block larger than any address space");
    if (trace >= import->traces) return refuse(import, "a trace that was not announced");
    if (import->objects == NO_OBJECT) return refuse(import, "more blocks than can be numbered");
    if (import->keeps_nothing) {
        import->objects++;
        return 0;
    }
    if (import->live_count * 2 >= import->live_mask && live_grow(import) != 0) return -1;
    slot *home = live_slot(import, pointer);
    if (home->pointer) { /* the recorder missed its free */
        import->result.lost_frees++;
        import->after_free = false;
        if (put(import, (dmi_record){.op = DMI_OP_FREE, .object = home->object}) != 0) return -1;
    } else {
        home->pointer = pointer;
        import->live_count++;
    }
    home->object = import->objects++;
    uint32_t where = import->trace_site[trace];
    import->sites[where].blocks++;
    dmi_record record = {.op = DMI_OP_ALLOC, .object = home->object, .size = size};
    if (import->after_free) {
        import->after_free = false;
        import->sites[where].adjacent++;
        uint32_t *pair_site =
            grow(import->pair_site, import->pairs, &import->pair_capacity, sizeof *pair_site);
        if (!pair_site) return -1;
        import->pair_site = pair_site;
        pair_site[import->pairs++] = where;
        record.thread = AFTER_FREE;
    }
    return put(import, record);
}

static int on_free(dmi_heaptrack *import, uint64_t pointer) {
    slot *home = import->live_count ? live_slot(import, pointer) : NULL;
    import->after_free = false;
    if (!pointer || !home || !home->pointer) {
        import->result.unknown_frees++;
        return 0;
    }
    import->after_free = true;
    uint32_t object = home->object;
    live_remove(import, home);
    return put(import, (dmi_record){.op = DMI_OP_FREE, .object = object});
}

/* One whole line without its end. */
static int on_line(dmi_heaptrack *import, const unsigned char *line, size_t size) {
    uint64_t value[3];
    if (size && line[size - 1] == '\r') size--;
    const unsigned char *rest = line + 1, *end = line + size;
    if (!import->versioned) {
        int found = size && line[0] == 'v' ? read_numbers(rest, end, value, 2) : -1;
        if (found < 1) return refuse(import, "not a heaptrack recording: no version line");
        if (found == 2 && value[1] > NEWEST_FILE_VERSION)
            return refuse(import, "a newer heaptrack file version than 3");
        import->versioned = true;
        return 0;
    }
    if (size == 0) return 0;
    switch (line[0]) {
    case '+':
        if (read_numbers(rest, end, value, 3) != 3)
            return refuse(import, "not `+ SIZE TRACE POINTER`; record with `heaptrack -r`");
        return on_block(import, value[0], value[1], value[2]);
    case '-':
        if (read_numbers(rest, end, value, 1) != 1) return refuse(import, "not `- POINTER`");
        return on_free(import, value[0]);
    case 't':
        if (read_numbers(rest, end, value, 2) != 2 || value[1] >= import->traces)
            return refuse(import, "not `t ADDRESS PARENT`");
        if (import->traces >= NO_OBJECT) return refuse(import, "more traces than can be numbered");
        return add_trace(import, value[0]);
    case 'c':
        import->after_free = false;
        if (read_numbers(rest, end, value, 1) != 1 || value[0] > DMI_TRACE_MAX_TIME / 1000)
            return refuse(import, "not `c MILLISECONDS`");
        if (value[0] <= import->clock_ms) return 0; /* no news, or a clock that was set back */
        import->clock_ms = value[0];
        return put(import, (dmi_record){.op = DMI_OP_TIME, .size = value[0] * 1000});
    case 'R':
        import->after_free = false;
        if (read_numbers(rest, end, value, 1) != 1 || value[0] > DMI_TRACE_MAX_SIZE / 65536)
            return refuse(import, "not `R PAGES`");
        if (!import->page_size) return 0;
        return put(import, (dmi_record){.op = DMI_OP_RSS, .size = value[0] * import->page_size});
    case 'I':
        if (read_numbers(rest, end, value, 2) != 2 || value[0] < 256 || value[0] > 65536 * 16 ||
            (value[0] & (value[0] - 1)) != 0)
            return refuse(import, "not `I PAGESIZE PAGES`");
        import->page_size = value[0];
        return 0;
    case 'a': return refuse(import, "an interpreted heaptrack file; record with `heaptrack -r`");
    default: return 0; /* modules, command line, debuggee, suppressions */
    }
}

/* ---- the interface ---------------------------------------------------------------------------- */

dmi_heaptrack *dmi_heaptrack_open_check(void) {
    dmi_heaptrack *import = dmi_heaptrack_open();
    if (import) import->keeps_nothing = true;
    return import;
}

dmi_heaptrack *dmi_heaptrack_open(void) {
    dmi_heaptrack *import = calloc(1, sizeof *import);
    if (!import) return NULL;
    /* Site 0 and trace 0 stand for "unknown": heaptrack writes trace 0 where it could not unwind. */
    import->trace_site = grow(NULL, 0, &import->trace_capacity, sizeof *import->trace_site);
    if (!import->trace_site || add_site(import, 0) != 0 || live_grow(import) != 0) {
        dmi_heaptrack_close(import);
        errno = ENOMEM;
        return NULL;
    }
    import->trace_site[import->traces++] = 0;
    return import;
}

/* Keep the beginning of a line until the rest of it comes. Long lines are of no interest beyond their
 * first letter, unless that letter says otherwise. */
static int keep(dmi_heaptrack *import, const unsigned char *bytes, size_t size) {
    size_t room = CARRY_MAX - import->carry_size;
    size_t kept = size < room ? size : room;
    memcpy(import->carry + import->carry_size, bytes, kept);
    import->carry_size += kept;
    import->carry_skipped += size - kept;
    if (import->carry_skipped && (!import->versioned || memchr("+-tcRIa", import->carry[0], 7)))
        return refuse(import, import->versioned ? "a line that does not end"
                                                : "not a heaptrack recording: no version line");
    return 0;
}

int dmi_heaptrack_feed(dmi_heaptrack *import, const void *bytes, size_t size) {
    const unsigned char *at = bytes, *end = at + size;
    if (import->fault) {
        errno = EINVAL;
        return -1;
    }
    while (at < end) {
        const unsigned char *stop = memchr(at, '\n', (size_t)(end - at));
        size_t part = (size_t)((stop ? stop : end) - at);
        if (!stop || import->carry_size) {
            if (keep(import, at, part) != 0) return -1;
            if (!stop) return 0;
            uint64_t whole = import->carry_size + import->carry_skipped;
            size_t kept = import->carry_size;
            import->carry_size = 0;
            import->carry_skipped = 0;
            if (on_line(import, import->carry, kept) != 0) return -1;
            import->offset += whole + 1;
        } else {
            if (on_line(import, at, part) != 0) return -1;
            import->offset += part + 1;
        }
        at = stop + 1;
    }
    return 0;
}

/* A binary heap of object numbers that are free, the lowest on top. */
static void unused_push(uint32_t *heap, size_t count, uint32_t number) {
    size_t at = count;
    for (; at > 0 && heap[(at - 1) / 2] > number; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
    heap[at] = number;
}

/* Take the lowest of count > 0 numbers. */
static uint32_t unused_pop(uint32_t *heap, size_t count) {
    uint32_t lowest = heap[0], last = heap[--count];
    size_t at = 0;
    for (size_t child = 1; child < count; child = 2 * at + 1) {
        if (child + 1 < count && heap[child + 1] < heap[child]) child++;
        if (heap[child] >= last) break;
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = last;
    return lowest;
}

static bool calls_realloc(const site *where) { return where->adjacent * 4 >= where->blocks * 3; }

int dmi_heaptrack_finish(dmi_heaptrack *import, dmi_import_result *result) {
    if (!result || result->size < sizeof *result || import->fault || import->finished) {
        errno = EINVAL;
        return -1;
    }
    if (!import->versioned) return refuse(import, "not a heaptrack recording: no version line");
    if (import->carry_size) import->result.cut_lines = 1; /* the recorded program was killed */
    if (import->keeps_nothing) {
        uint64_t struct_size = result->size;
        memset(result, 0, sizeof *result);
        result->size = struct_size;
        import->finished = true;
        return 0;
    }

    uint32_t *number = malloc(((size_t)import->objects + 1) * sizeof *number);
    uint32_t *unused = malloc(((size_t)import->objects + 1) * sizeof *unused);
    if (!number || !unused) {
        free(number);
        free(unused);
        errno = ENOMEM;
        return -1;
    }
    dmi_import_result *sum = &import->result;
    dmi_record *records = import->records;
    size_t to = 0, pair = 0, spare = 0;
    for (size_t from = 0; from < import->count; from++) {
        dmi_record record = records[from];
        if (record.op == DMI_OP_FREE) {
            uint32_t old = number[record.object];
            bool paired = from + 1 < import->count && records[from + 1].op == DMI_OP_ALLOC &&
                          records[from + 1].thread == AFTER_FREE;
            if (paired && calls_realloc(&import->sites[import->pair_site[pair]])) {
                pair++;
                record = records[++from];
                number[record.object] = old;
                record.op = DMI_OP_REALLOC;
                sum->reallocs++;
            } else {
                unused_push(unused, spare++, old);
                sum->frees++;
            }
            record.object = old;
        } else if (record.op == DMI_OP_ALLOC) {
            if (record.thread == AFTER_FREE) pair++;
            uint32_t fresh = spare ? unused_pop(unused, spare--) : sum->objects++;
            number[record.object] = fresh;
            record.object = fresh;
            sum->allocations++;
        }
        record.thread = 0;
        records[to++] = record;
    }
    free(number);
    free(unused);
    sum->size = result->size;
    sum->records = records;
    sum->count = to;
    sum->page_size = (uint32_t)import->page_size;
    sum->adjacent = import->pairs;
    import->finished = true; /* the records are rewritten, so this was the only time */
    *result = *sum;
    return 0;
}

const char *dmi_heaptrack_fault(const dmi_heaptrack *import, uint64_t *offset) {
    if (offset) *offset = import->fault_offset;
    return import->fault;
}

void dmi_heaptrack_close(dmi_heaptrack *import) {
    if (!import) return;
    free(import->records);
    free(import->live);
    free(import->trace_site);
    free(import->sites);
    free(import->site_hash);
    free(import->pair_site);
    free(import);
}
