/* check.c - floor 7: decides whether an array of records is a recording.
 *
 * One pass with one bit and one size an object. The replayer trusts nothing that did not pass here.
 */
#include <dmi/replay.h>

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Sizes of live objects; DEAD marks the others, so that one array serves as the bitmap too. */
#define DEAD UINT64_MAX

static const char *fault_of(const dmi_record *record, uint32_t objects, uint32_t threads,
                            const uint64_t *sizes, uint64_t clock) {
    if (record->op < DMI_OP_ALLOC || record->op > DMI_OP_RSS) return "unknown op";
    if (record->thread >= threads) return "thread number out of range";
    if (record->op == DMI_OP_TIME || record->op == DMI_OP_RSS) {
        if (record->align_log2 != 0 || record->object != 0)
            return "a time or rss record with an alignment or an object";
        if (record->op == DMI_OP_RSS) return NULL;
        if (record->size > DMI_TRACE_MAX_TIME) return "the clock is out of range";
        return record->size < clock ? "the clock runs backwards" : NULL;
    }
    if (record->object >= objects) return "object number out of range";
    bool live = sizes[record->object] != DEAD;
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
    uint64_t *sizes = malloc(((size_t)objects + 1) * sizeof *sizes);
    if (!sizes) return -1; /* errno is ENOMEM */
    memset(sizes, 0xff, (size_t)objects * sizeof *sizes);

    const unsigned char *bytes = records;
    uint64_t live_bytes = 0;
    for (uint64_t i = 0; i < count; i++) {
        dmi_record record;
        memcpy(&record, bytes + i * sizeof record, sizeof record);
        const char *fault = fault_of(&record, objects, threads, sizes, summary->duration_us);
        if (fault) {
            summary->fault = fault;
            summary->fault_record = i;
            free(sizes);
            errno = EINVAL;
            return -1;
        }
        switch (record.op) {
        case DMI_OP_TIME: summary->duration_us = record.size; break;
        case DMI_OP_RSS: break;
        case DMI_OP_FREE:
            summary->frees++;
            summary->live_objects--;
            live_bytes -= sizes[record.object];
            sizes[record.object] = DEAD;
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
