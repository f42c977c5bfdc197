/* account.h - floor 6: what each byte of a run is, the arithmetic that stats and walk share. */
#ifndef DMI_ACCOUNT_H
#define DMI_ACCOUNT_H

#include "../decommit/policies.h"
#include "../heap/heap.h"

/* Uncommitted ranges of at least this many bytes are taken off Virt (the column of `!heap -s`); the
 * untouched tail of a segment is the typical one. */
#define DMI_LARGE_UCR ((size_t)1 << 20)

/* Why the policy keeps a free page of a run of that kind and size. */
dmi_reason _dmi_reason(const dmi_policy *policy, unsigned kind, uint64_t bytes);

/* The terms of the waterfall for one run, bytes; and what is known with detail. */
typedef struct dmi_account {
    uint64_t bytes, uncommitted, offered, busy, free_lfh, free_list, free_pages, overhead;
    uint64_t busy_blocks, list_length;
    uint64_t soft;     /* uncommitted for dmi, writable for the OS */
    uint64_t refused;  /* of reclaimable: pages the OS refused to take */
    uint64_t deferred; /* of the rest: the policy is done with them, their huge page is not */
    /* detail */
    uint64_t reclaimable, in_flight, page_bound;
    uint64_t pages[2]; /* LFH: a bit for each page of the run that is free and may go */
} dmi_account;

/* Add the terms of a run to a sum, without detail. */
void _dmi_account_add(const dmi_heap *heap, const dmi_run *run, dmi_account *sum);
/* One run with detail: an LFH run must be taken or at rest. */
void _dmi_account_run(const dmi_heap *heap, const dmi_run *run, dmi_account *out);
/* Pages that nobody uses. */
void _dmi_account_free(const dmi_segment *segment, size_t first, size_t pages, dmi_account *out);
void _dmi_account_virtual(const dmi_heap *heap, const dmi_run *run, dmi_account *out);

#endif
