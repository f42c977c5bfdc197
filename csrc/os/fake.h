/* fake.h - an operating system for unit tests: exact page states, a memory limit, a manual clock.
 *
 * Call _dmi_fake_setup(page_size, limit) and _dmi_os_use(&_dmi_fake_backend), then use dmi as usual. os.c injects
 * failures on the nth call (_dmi_os_fail_at).
 *
 * It is stricter than any real system, in every mode. To touch a page that is uncommitted or offered crashes the test.
 * A decommit loses the contents. After unoffer each page has its old contents, zeroes or garbage, as the seed decides.
 * Misuse aborts with a message: a range that is not page aligned or leaves its reservation; release of what is
 * released; commit, decommit or offer of what is not reserved; offer of uncommitted pages; commit of offered ones.
 * os.h allows commit of committed and decommit of uncommitted pages, but then the accounting is wrong, so such pages
 * are counted.
 */
#ifndef DMI_FAKE_H
#define DMI_FAKE_H

#include "os.h"

typedef enum dmi_fake_page {
    DMI_FAKE_UNRESERVED = 0, /* no reservation here */
    DMI_FAKE_UNCOMMITTED = 1,
    DMI_FAKE_COMMITTED = 2,
    DMI_FAKE_OFFERED = 3,
    DMI_FAKE_RELEASED = 4 /* cut off a reservation of which a part is still there */
} dmi_fake_page;

extern const dmi_os_backend _dmi_fake_backend;

/* Begin anew: the page size is a power of two, at least the host's; memory_limit is how many bytes may be committed at
 * a time (0: no limit). The clock becomes 1 s, the seed 1, the count of redundant pages 0. While reservations are
 * alive the page size cannot change. */
void _dmi_fake_setup(size_t page_size, size_t memory_limit);
/* Change the limit alone. It may be below what is committed; then every commit fails. */
void _dmi_fake_limit_set(size_t memory_limit);
/* What _dmi_os_strict_default answers (false at the start). */
void _dmi_fake_strict_set(bool by_default);
/* Seed of offers and of _dmi_os_random. */
void _dmi_fake_seed_set(uint64_t seed);
/* What _dmi_os_random answers: 0 (at the start), EAGAIN or ENOSYS. */
void _dmi_fake_random_refuse(int error);
/* Let _dmi_os_read_file find a file with this text, which is not copied; NULL removes it. At most 64 at a time. A new
 * setup removes all. */
void _dmi_fake_file_set(const char *path, const char *text);
/* Files read since setup; those that were not found count too. */
uint64_t _dmi_fake_file_reads(void);
/* What _dmi_os_regions finds for the processes 0 and pid: the regions, which are not copied, and the end of the address
 * space. No other process exists; after a new setup none does. */
void _dmi_fake_regions_set(uint64_t pid, const struct dmi_region *regions, size_t count,
                           uint64_t total);
void _dmi_fake_clock_set(uint64_t nanoseconds);
void _dmi_fake_clock_advance(uint64_t nanoseconds);

/* The state of the page that holds address. */
dmi_fake_page _dmi_fake_state(const void *address);
/* May a huge page lie behind address? */
bool _dmi_fake_huge(const void *address);
/* Huge pages broken since setup. */
uint64_t _dmi_fake_breaks(void);
/* Bytes committed now, offered pages and tables included. */
size_t _dmi_fake_committed(void);
/* Bytes offered now. */
size_t _dmi_fake_offered(void);
/* Reservations now, tables included. */
size_t _dmi_fake_reservations(void);
/* Pages committed while committed, plus pages decommitted while uncommitted, since setup. */
uint64_t _dmi_fake_redundant(void);

#endif
