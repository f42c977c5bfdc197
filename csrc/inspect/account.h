/* account.h - floor 6: what each byte of a run is. Stats and walk share this arithmetic. */
#ifndef DMI_ACCOUNT_H
#define DMI_ACCOUNT_H

#include "../decommit/policies.h"
#include "../heap/heap.h"

/* An uncommitted range of at least this size does not count in Virt, the column of `!heap -s`. The untouched tail of a
 * segment is such a range. */
#define DMI_LARGE_UCR ((size_t)1 << 20)

/* Why the policy keeps a free page of a run of that kind and size. */
dmi_reason _dmi_reason(const dmi_policy *policy, unsigned kind, uint64_t bytes);

/* What the bytes of one run are, and what is known with detail. */
typedef struct dmi_account {
    uint64_t bytes, uncommitted, offered, busy, free_lfh, free_list, free_pages, overhead;
    uint64_t busy_blocks, list_length;
    uint64_t soft;     /* uncommitted for dmi, writable for the OS */
    uint64_t refused;  /* of reclaimable: pages that the OS refused to take */
    uint64_t deferred; /* of reclaimable: pages that are due, but their unit is whole */
    /* detail */
    uint64_t reclaimable, in_flight, page_bound;
    uint64_t pages[2]; /* LFH: a bit for each page of the run that is free and may go */
} dmi_account;

/* Add the terms of a run to a sum, without detail. */
void _dmi_account_add(const dmi_heap *heap, const dmi_run *run, dmi_account *sum);
/* Account one run with detail. An LFH run is taken, or its owner stands still. */
void _dmi_account_run(const dmi_heap *heap, const dmi_run *run, dmi_account *out);
/* Account pages that belong to no run. */
void _dmi_account_free(const dmi_segment *segment, size_t first, size_t pages, dmi_account *out);
void _dmi_account_virtual(const dmi_heap *heap, const dmi_run *run, dmi_account *out);

#endif
