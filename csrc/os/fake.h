/* fake.h - an operating system for unit tests: exact page states, a memory limit, a manual clock.
 *
 * Use: _dmi_fake_setup(page_size, limit); _dmi_os_use(&_dmi_fake_backend); then everything as usual.
 * Failures on the nth call are injected by os.c (_dmi_os_fail_at), which stands above this backend.
 *
 * Stricter than any real system, in both modes: a page that is not committed cannot be touched (the
 * test crashes), an offered one neither; a decommit loses the contents; unoffer brings back the old
 * contents, zeroes or garbage, page by page, as the seed will have it. Misuse aborts with a message:
 * ranges that are not page aligned or leave their reservation, release of what is released, commit,
 * decommit or offer of what is not reserved, offer of uncommitted pages, commit of offered ones.
 * Commit of committed and decommit of uncommitted pages is allowed by os.h but upsets the
 * accounting, so such pages are counted.
 */
#ifndef DMI_FAKE_H
#define DMI_FAKE_H

#include "os.h"

typedef enum dmi_fake_page {
    DMI_FAKE_UNRESERVED = 0, /* no reservation here */
    DMI_FAKE_UNCOMMITTED = 1,
    DMI_FAKE_COMMITTED = 2,
    DMI_FAKE_OFFERED = 3,
    DMI_FAKE_RELEASED = 4 /* was trimmed off a reservation that is still there */
} dmi_fake_page;

extern const dmi_os_backend _dmi_fake_backend;

/* Set the page size (a power of two from the host's page size up) and the bytes that may be committed
 * at a time (0: no limit); clock to 1 s, seed to 1, redundant pages to 0. With reservations alive the page
 * size must stay what it is. */
void _dmi_fake_setup(size_t page_size, size_t memory_limit);
/* Change only the limit; below what is committed, nothing more can be. */
void _dmi_fake_limit_set(size_t memory_limit);
/* What _dmi_os_strict_default says (false at the start). */
void _dmi_fake_strict_set(bool by_default);
/* Seed of offers and of _dmi_os_random. */
void _dmi_fake_seed_set(uint64_t seed);
/* Let _dmi_os_random say that its bytes are not the OS's: EAGAIN or ENOSYS; 0: that they are (at the start). */
void _dmi_fake_random_refuse(int error);
/* A file that _dmi_os_read_file finds: its text, which must live on; NULL takes it away. At most 64 at a
 * time; a new setup leaves none. */
void _dmi_fake_file_set(const char *path, const char *text);
/* Files read since setup, those not found too. */
uint64_t _dmi_fake_file_reads(void);
/* What _dmi_os_regions finds, for process 0 and pid alike: the regions, which must live on, and where they end.
 * Any other process is not there; after a new setup, none is. */
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
