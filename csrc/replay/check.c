/* check.c - floor 7: decides whether an array of records is a recording.
 *
 * Whoever refuses needs to know of an object only whether it is live: one bit. So a recording is scanned before
 * anything is kept of it, in pieces as they come, and no claim of a file costs more than an eighth of a byte
 * an object. The replayer trusts nothing that did not pass here.
 */
#include <dmi/replay.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct dmi_trace_scan {
    uint32_t objects, threads;
    uint64_t records; /* scanned so far */
    uint64_t clock;
    const char *fault;
    unsigned char *live; /* a bit an object */
};

static bool is_live(const dmi_trace_scan *scan, uint32_t object) {
    return scan->live[object / 8] >> object % 8 & 1;
}

static const char *fault_of(const dmi_trace_scan *scan, const dmi_record *record) {
    if (record->op < DMI_OP_ALLOC || record->op > DMI_OP_RSS) return "unknown op";
    if (record->thread >= scan->threads) return "thread number out of range";
    if (record->op == DMI_OP_TIME || record->op == DMI_OP_RSS) {
        if (record->align_log2 != 0 || record->object != 0)
            return "a time or rss record with an alignment or an object";
        if (record->op == DMI_OP_RSS) return NULL;
        if (record->size > DMI_TRACE_MAX_TIME) return "the clock is out of range";
        return record->size < scan->clock ? "the clock runs backwards" : NULL;
    }
    if (record->object >= scan->objects) return "object number out of range";
    bool live = is_live(scan, record->object);
    if (record->op == DMI_OP_FREE) {
        if (record->align_log2 != 0 || record->size != 0)
            return "a free record with an alignment or a size";
        return live ? NULL : "free of an object that is not live";
    }
    if (record->size > DMI_TRACE_MAX_SIZE) return "the size is larger than any address space";
    if (record->op == DMI_OP_REALLOC) {
        if (record->align_log2 != 0) return "a realloc record with an alignment";
        return live ? NULL : "realloc of an object that is not live";
    }
    if (record->align_log2 > DMI_TRACE_MAX_ALIGN_LOG2) return "the alignment is out of range";
    return live ? "alloc of an object that is live" : NULL;
}

dmi_trace_scan *dmi_trace_scan_open(uint32_t objects, uint32_t threads) {
    dmi_trace_scan *scan = calloc(1, sizeof *scan);
    if (!scan) return NULL;
    scan->objects = objects;
    scan->threads = threads;
    /* Of what the system hands out as zeros only that is taken which is written to. */
    scan->live = calloc((size_t)objects / 8 + 1, 1);
    if (scan->live) return scan;
    free(scan);
    errno = ENOMEM;
    return NULL;
}

int dmi_trace_scan_feed(dmi_trace_scan *scan, const void *records, uint64_t count) {
    const unsigned char *bytes = records;
    for (uint64_t i = 0; i < count && !scan->fault; i++) {
        dmi_record record;
        memcpy(&record, bytes + i * sizeof record, sizeof record);
        scan->fault = fault_of(scan, &record);
        if (scan->fault) break;
        unsigned char bit = (unsigned char)(1u << record.object % 8);
        switch (record.op) {
        case DMI_OP_TIME: scan->clock = record.size; break;
        case DMI_OP_ALLOC:
        case DMI_OP_CALLOC: scan->live[record.object / 8] |= bit; break;
        case DMI_OP_FREE: scan->live[record.object / 8] &= (unsigned char)~bit; break;
        default: break;
        }
        scan->records++;
    }
    if (!scan->fault) return 0;
    errno = EINVAL;
    return -1;
}

const char *dmi_trace_scan_fault(const dmi_trace_scan *scan, uint64_t *record) {
    if (record) *record = scan->records;
    return scan->fault;
}

void dmi_trace_scan_close(dmi_trace_scan *scan) {
    if (!scan) return;
    free(scan->live);
    free(scan);
}

/* -1 with EINVAL and the fault, or ENOMEM. */
static int scan_all(const void *records, uint64_t count, uint32_t objects, uint32_t threads,
                    dmi_trace_summary *summary) {
    dmi_trace_scan *scan = dmi_trace_scan_open(objects, threads);
    if (!scan) return -1;
    int result = dmi_trace_scan_feed(scan, records, count);
    summary->fault = dmi_trace_scan_fault(scan, &summary->fault_record);
    if (result == 0) summary->fault_record = 0;
    dmi_trace_scan_close(scan);
    if (result) errno = EINVAL;
    return result;
}

int dmi_trace_check(const void *records, uint64_t count, uint32_t objects, uint32_t threads,
                    dmi_trace_summary *summary) {
    uint64_t struct_size = summary->size;
    if (struct_size < sizeof *summary) {
        errno = EINVAL;
        return -1;
    }
    memset(summary, 0, sizeof *summary);
    summary->size = struct_size;
    if (objects > count) {
        summary->fault = "more objects than records";
        errno = EINVAL;
        return -1;
    }
    if (scan_all(records, count, objects, threads, summary)) return -1;
    uint64_t *sizes = calloc((size_t)objects + 1, sizeof *sizes); /* of live objects */
    if (!sizes) return -1;                                        /* errno is ENOMEM */

    const unsigned char *bytes = records;
    uint64_t live_bytes = 0;
    for (uint64_t i = 0; i < count; i++) {
        dmi_record record;
        memcpy(&record, bytes + i * sizeof record, sizeof record);
        switch (record.op) {
        case DMI_OP_TIME: summary->duration_us = record.size; break;
        case DMI_OP_RSS: break;
        case DMI_OP_FREE:
            summary->frees++;
            summary->live_objects--;
            live_bytes -= sizes[record.object];
            break;
        case DMI_OP_REALLOC:
            summary->reallocs++;
            live_bytes += record.size - sizes[record.object];
            sizes[record.object] = record.size;
            break;
        default:
            summary->allocations++;
            summary->live_objects++;
            live_bytes += record.size;
            sizes[record.object] = record.size;
        }
        if (live_bytes > summary->peak_bytes) summary->peak_bytes = live_bytes;
    }
    summary->live_bytes = live_bytes;
    free(sizes);
    return 0;
}
