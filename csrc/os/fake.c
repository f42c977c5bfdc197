/* fake.c - the backend of unit tests: keeps a state for every page, and aborts on misuse.
 *
 * Its memory comes from the native backend, always in STRICT mode. So this file needs no system calls, and runs wherever
 * dmi does.
 */
#include "fake.h"

#include <errno.h>
#include <string.h>

#include "fake_world.h"
#include "lock.h"

#define HOST (&_dmi_os_native)

enum { MAX_RESERVATIONS = 16384, GARBAGE = 0xd5 };

typedef struct reservation {
    char *base;      /* NULL: slot is free */
    char *host_base; /* what the host reserved, to align base in */
    size_t host_size;
    size_t pages;
    size_t left; /* pages not released */
    bool table, huge;
    unsigned char
        *states;  /* dmi_fake_page, one a page; behind them their huge page advice, and then
                               whether a piece begins there (split) */
    char *shadow; /* what offered pages held; NULL until the first offer */
} reservation;

static dmi_lock lock;
static reservation reservations[MAX_RESERVATIONS];
static size_t used_slots; /* slots that were ever used; the others need no search */
static size_t live_reservations;
static size_t page_size = 4096;
static size_t limit;
static bool strict;
static size_t committed, offered;
static uint64_t redundant, breaks;

/* ---- reservations ---------------------------------------------------------------------------- */

static size_t host_rounded(size_t size) {
    size_t mask = HOST->page_size() - 1;
    return (size + mask) & ~mask;
}

/* Memory of the fake itself. */
static void *grab(size_t size) {
    size = host_rounded(size);
    void *memory = HOST->reserve(size, HOST->page_size(), DMI_OS_STRICT, false, NULL);
    if (memory == NULL) return NULL;
    if (HOST->commit(memory, size, DMI_OS_STRICT) == 0) return memory;
    HOST->release(memory, size);
    return NULL;
}

static reservation *find(const void *address) {
    static size_t last;
    const char *at = address;
    for (size_t step = 0; step < used_slots; step++) {
        size_t slot = last + step < used_slots ? last + step : last + step - used_slots;
        reservation *r = &reservations[slot];
        if (r->base != NULL && at >= r->base && (size_t)(at - r->base) < r->pages * page_size) {
            last = slot;
            return r;
        }
    }
    return NULL;
}

/* The reservation that holds the whole range, and the range in pages. Aborts when there is none. */
static reservation *find_range(const char *call, const void *address, size_t size, size_t *first,
                               size_t *count) {
    if (((uintptr_t)address & (page_size - 1)) != 0 || (size & (page_size - 1)) != 0)
        _dmi_fake_report_misuse(call, "range is not page aligned", address, size);
    if (size == 0) _dmi_fake_report_misuse(call, "range is empty", address, size);
    reservation *r = find(address);
    if (r == NULL) _dmi_fake_report_misuse(call, "range is not reserved", address, size);
    *first = (size_t)((const char *)address - r->base) / page_size;
    *count = size / page_size;
    if (*count > r->pages - *first)
        _dmi_fake_report_misuse(call, "range leaves its reservation", address, size);
    for (size_t i = *first; i < *first + *count; i++)
        if (r->states[i] == DMI_FAKE_RELEASED)
            _dmi_fake_report_misuse(call, "range is released already", address, size);
    return r;
}

/* Does a piece of a reservation begin, or end, at this page? */
static bool is_edge(const reservation *r, size_t page) {
    return page == 0 || page == r->pages || r->states[2 * r->pages + page] ||
           r->states[page - 1] == DMI_FAKE_RELEASED || r->states[page] == DMI_FAKE_RELEASED;
}

static void require_piece(const char *call, const reservation *r, size_t first, size_t count,
                          const void *address) {
    bool whole = !r->table && is_edge(r, first) && is_edge(r, first + count);
    for (size_t i = first + 1; i < first + count; i++)
        whole = whole && !r->states[2 * r->pages + i];
    if (!whole)
        _dmi_fake_report_misuse(call, "not a whole reservation", address, count * page_size);
}

static char *page_at(const reservation *r, size_t index) { return r->base + index * page_size; }

static void *enter_reservation(char *host_base, size_t host_size, size_t size, bool table) {
    if (host_base == NULL) return NULL;
    char *base = (char *)(((uintptr_t)host_base + page_size - 1) & ~(page_size - 1));
    reservation fresh = {.base = base,
                         .host_base = host_base,
                         .host_size = host_size,
                         .pages = size / page_size,
                         .table = table};
    fresh.left = fresh.pages;
    fresh.states = grab(3 * fresh.pages);
    if (fresh.states == NULL) {
        HOST->release(host_base, host_size);
        return NULL;
    }
    memset(fresh.states, DMI_FAKE_UNCOMMITTED, fresh.pages);
    size_t slot = 0;
    while (slot < used_slots && reservations[slot].base != NULL) slot++;
    if (slot == MAX_RESERVATIONS)
        _dmi_fake_report_misuse("reserve", "too many reservations", base, size);
    if (slot == used_slots) used_slots++;
    reservations[slot] = fresh;
    live_reservations++;
    return base;
}

static void forget(reservation *r) {
    size_t size = r->pages * page_size;
    HOST->release(r->host_base, r->host_size);
    HOST->release(r->states, host_rounded(3 * r->pages));
    if (r->shadow != NULL) HOST->release(r->shadow, size);
    *r = (reservation){.base = NULL};
    live_reservations--;
}

/* ---- the verbs, under the lock --------------------------------------------------------------- */

static int commit_pages(reservation *r, size_t first, size_t count, const void *address) {
    size_t wanted = 0;
    for (size_t i = first; i < first + count; i++) {
        if (r->states[i] == DMI_FAKE_OFFERED)
            _dmi_fake_report_misuse("commit", "page is offered, use unoffer", address,
                                    count * page_size);
        if (r->states[i] == DMI_FAKE_UNCOMMITTED) wanted++;
    }
    size_t bytes = wanted * page_size;
    if (limit != 0 && (committed > limit || bytes > limit - committed)) return ENOMEM;
    /* Hosts leave committed pages as they are, so one call is enough. */
    int error = HOST->commit(page_at(r, first), count * page_size, DMI_OS_STRICT);
    if (error != 0) return error;
    memset(r->states + first, DMI_FAKE_COMMITTED, count);
    committed += bytes;
    redundant += count - wanted;
    return 0;
}

/* Give the host's memory behind one page back. The caller sets the page's state. */
static int take_page(const reservation *r, size_t index) {
    return HOST->decommit(page_at(r, index), page_size, DMI_OS_STRICT);
}

static int decommit_pages(reservation *r, size_t first, size_t count, const void *address) {
    if (r->table)
        _dmi_fake_report_misuse("decommit", "range is part of a table", address, count * page_size);
    size_t gone = 0;
    for (size_t i = first; i < first + count; i++) {
        if (r->states[i] == DMI_FAKE_COMMITTED) gone++;
        if (r->states[i] == DMI_FAKE_OFFERED) {
            gone++;
            offered -= page_size;
        }
    }
    int error = HOST->decommit(page_at(r, first), count * page_size, DMI_OS_STRICT);
    if (error != 0)
        _dmi_fake_report_misuse("decommit", "the host refused", address, count * page_size);
    memset(r->states + first, DMI_FAKE_UNCOMMITTED, count);
    committed -= gone * page_size;
    redundant += count - gone;
    return 0;
}

static int offer_pages(reservation *r, size_t first, size_t count, const void *address) {
    if (r->table)
        _dmi_fake_report_misuse("offer", "range is part of a table", address, count * page_size);
    size_t size = r->pages * page_size;
    if (r->shadow == NULL)
        r->shadow = HOST->reserve(size, HOST->page_size(), DMI_OS_STRICT, false, NULL);
    if (r->shadow == NULL) return ENOMEM;
    for (size_t i = first; i < first + count; i++) {
        if (r->states[i] == DMI_FAKE_OFFERED) continue;
        if (r->states[i] != DMI_FAKE_COMMITTED)
            _dmi_fake_report_misuse("offer", "page is not committed", address, count * page_size);
        char *kept = r->shadow + i * page_size;
        if (HOST->commit(kept, page_size, DMI_OS_STRICT) != 0) return ENOMEM;
        memcpy(kept, page_at(r, i), page_size);
        if (take_page(r, i) != 0) return ENOMEM;
        r->states[i] = DMI_FAKE_OFFERED;
        offered += page_size;
    }
    return 0;
}

static int unoffer_pages(reservation *r, size_t first, size_t count, const void *address) {
    for (size_t i = first; i < first + count; i++) {
        if (r->states[i] == DMI_FAKE_COMMITTED) continue;
        if (r->states[i] != DMI_FAKE_OFFERED)
            _dmi_fake_report_misuse("unoffer", "page is not committed", address, count * page_size);
        char *page = page_at(r, i);
        char *kept = r->shadow + i * page_size;
        if (HOST->commit(page, page_size, DMI_OS_STRICT) != 0) return ENOMEM;
        switch (_dmi_fake_random_next() % 3) {
        case 0: memcpy(page, kept, page_size); break;
        case 1: memset(page, GARBAGE, page_size); break;
        default: break; /* zeroes */
        }
        HOST->decommit(kept, page_size, DMI_OS_STRICT);
        r->states[i] = DMI_FAKE_COMMITTED;
        offered -= page_size;
    }
    return 0;
}

static int release_pages(reservation *r, size_t first, size_t count) {
    for (size_t i = first; i < first + count; i++) {
        if (r->states[i] == DMI_FAKE_OFFERED) offered -= page_size;
        if (r->states[i] == DMI_FAKE_COMMITTED || r->states[i] == DMI_FAKE_OFFERED) {
            committed -= page_size;
            if (r->left != count) (void)take_page(r, i); /* a touch must crash */
        }
        r->states[i] = DMI_FAKE_RELEASED;
    }
    r->left -= count;
    if (r->left == 0) forget(r);
    return 0;
}

/* ---- the backend ----------------------------------------------------------------------------- */

static size_t fake_page_size(void) { return page_size; }
static bool fake_strict_default(void) { return strict; }

/* The host's addresses are used, so that its own step counts too. */
static size_t fake_granularity(void) {
    return page_size > HOST->granularity() ? page_size : HOST->granularity();
}

static void *fake_reserve(size_t size, size_t align, dmi_os_mode mode, bool huge,
                          const char *name) {
    (void)mode;
    if (size == 0 || (size & (page_size - 1)) != 0 || align < page_size)
        _dmi_fake_report_misuse("reserve", "size or alignment", NULL, size);
    _dmi_lock(&lock);
    size_t host_align = align > HOST->granularity() ? align : HOST->granularity();
    char *base = HOST->reserve(size, host_align, DMI_OS_STRICT, huge, name);
    base = enter_reservation(base, size, size, false);
    if (base != NULL) {
        reservation *r = find(base);
        r->huge = huge;
        memset(r->states + r->pages, huge, r->pages);
    }
    _dmi_unlock(&lock);
    return base;
}

static int fake_reserve_at(void *place, size_t size, dmi_os_mode mode, bool huge,
                           const char *name) {
    (void)mode;
    if (size == 0 || (size & (page_size - 1)) != 0 || ((uintptr_t)place & (page_size - 1)) != 0)
        _dmi_fake_report_misuse("reserve_at", "size or alignment", place, size);
    _dmi_lock(&lock);
    int error = HOST->reserve_at(place, size, DMI_OS_STRICT, huge, name);
    if (error == 0) {
        if (enter_reservation(place, size, size, false) != NULL) {
            reservation *r = find(place);
            r->huge = huge;
            memset(r->states + r->pages, huge, r->pages);
        } else {
            error = ENOMEM;
        }
    }
    _dmi_unlock(&lock);
    return error;
}

static void *fake_reserve_table(size_t size, const char *name) {
    if (size == 0 || (size & (page_size - 1)) != 0)
        _dmi_fake_report_misuse("reserve_table", "size", NULL, size);
    _dmi_lock(&lock);
    size_t host_size = size + page_size; /* the host aligns a table to its own pages only */
    void *base = enter_reservation(HOST->reserve_table(host_size, name), host_size, size, true);
    _dmi_unlock(&lock);
    return base;
}

static int fake_commit(void *address, size_t size, dmi_os_mode mode) {
    (void)mode;
    size_t first, count;
    _dmi_lock(&lock);
    reservation *r = find_range("commit", address, size, &first, &count);
    int error = commit_pages(r, first, count, address);
    _dmi_unlock(&lock);
    return error;
}

static int fake_decommit(void *address, size_t size, dmi_os_mode mode) {
    (void)mode;
    size_t first, count;
    _dmi_lock(&lock);
    reservation *r = find_range("decommit", address, size, &first, &count);
    int error = decommit_pages(r, first, count, address);
    _dmi_unlock(&lock);
    return error;
}

static size_t fake_decommit_many(const dmi_os_range *ranges, size_t count, int *refused,
                                 uint64_t *calls) {
    size_t refusals = 0;
    for (size_t i = 0; i < count; i++) {
        refused[i] = fake_decommit(ranges[i].address, ranges[i].size, DMI_OS_LAZY);
        if (refused[i] != 0) refusals++;
        if (calls != NULL) ++*calls;
    }
    return refusals;
}

static int fake_offer(void *address, size_t size) {
    size_t first, count;
    _dmi_lock(&lock);
    reservation *r = find_range("offer", address, size, &first, &count);
    int error = offer_pages(r, first, count, address);
    _dmi_unlock(&lock);
    return error;
}

static int fake_unoffer(void *address, size_t size) {
    size_t first, count;
    _dmi_lock(&lock);
    reservation *r = find_range("unoffer", address, size, &first, &count);
    int error = unoffer_pages(r, first, count, address);
    _dmi_unlock(&lock);
    return error;
}

/* What is uncommitted is inaccessible anyhow. */
static bool fake_guard_cuts(dmi_os_mode mode) {
    (void)mode;
    return false;
}

static int fake_guard(void *address, size_t size, dmi_os_mode mode, bool on) {
    (void)mode;
    size_t first, count;
    _dmi_lock(&lock);
    reservation *r = find_range("guard", address, size, &first, &count);
    for (size_t i = first; !on && i < first + count; i++)
        if (r->states[i] != DMI_FAKE_UNCOMMITTED)
            _dmi_fake_report_misuse("unguard", "page is committed", address, size);
    _dmi_unlock(&lock);
    return 0;
}

static int fake_on_fault(void (*touched)(const void *)) {
    (void)touched;
    return ENOSYS;
}

/* All modes are equally strict here, so there is only the precondition to check. */
static int fake_convert(void *address, size_t size, dmi_os_mode to) {
    (void)to;
    size_t first, count;
    _dmi_lock(&lock);
    reservation *r = find_range("convert", address, size, &first, &count);
    for (size_t i = first; i < first + count; i++)
        if (r->states[i] != DMI_FAKE_UNCOMMITTED)
            _dmi_fake_report_misuse("convert", "page is committed", address, size);
    memset(r->states + r->pages + first, r->huge,
           count); /* a fresh mapping has the advice of the reservation */
    _dmi_unlock(&lock);
    return 0;
}

static bool fake_has_huge(void) { return true; }

static void fake_advise_huge(void *address, size_t size, bool huge) {
    size_t first, count;
    _dmi_lock(&lock);
    reservation *r = find_range("advise_huge", address, size, &first, &count);
    memset(r->states + r->pages + first, huge, count);
    _dmi_unlock(&lock);
}

static void fake_break_huge(void *address, size_t size) {
    size_t first, count;
    _dmi_lock(&lock);
    (void)find_range("break_huge", address, size, &first, &count);
    breaks++;
    _dmi_unlock(&lock);
}

static void fake_forget(void *address, size_t size) {
    size_t first, count;
    _dmi_lock(&lock);
    reservation *r = find_range("forget", address, size, &first, &count);
    for (size_t i = first; i < first + count; i++)
        if (r->states[i] != DMI_FAKE_UNCOMMITTED)
            _dmi_fake_report_misuse("forget", "page is committed", address, size);
    _dmi_unlock(&lock);
}

static int fake_release(void *address, size_t size) {
    size_t first, count;
    _dmi_lock(&lock);
    reservation *r = find_range("release", address, size, &first, &count);
    int error = release_pages(r, first, count);
    _dmi_unlock(&lock);
    return error;
}

/* Move states and contents to a new reservation, page by page. NULL: nothing changed. */
static void *move_reservation(reservation *r, size_t first, size_t count, size_t new_size) {
    size_t align = page_size > HOST->granularity() ? page_size : HOST->granularity();
    char *base = HOST->reserve(new_size, align, DMI_OS_STRICT, false, NULL);
    base = enter_reservation(base, new_size, new_size, false);
    if (base == NULL) return NULL;
    reservation *target = find(base);
    size_t was = committed;
    for (size_t i = 0; i < count; i++) {
        if (r->states[first + i] != DMI_FAKE_COMMITTED) continue;
        if (HOST->commit(page_at(target, i), page_size, DMI_OS_STRICT) != 0) {
            forget(target);
            return NULL;
        }
        memcpy(page_at(target, i), page_at(r, first + i), page_size);
        target->states[i] = DMI_FAKE_COMMITTED;
    }
    (void)release_pages(r, first, count);
    committed = was; /* they are committed still, elsewhere */
    return base;
}

static void *fake_remap(void *address, size_t old_size, size_t new_size, bool may_move) {
    size_t first, count;
    _dmi_lock(&lock);
    reservation *r = find_range("remap", address, old_size, &first, &count);
    require_piece("remap", r, first, count, address);
    if ((new_size & (page_size - 1)) != 0 || new_size == 0)
        _dmi_fake_report_misuse("remap", "new size", address, new_size);
    for (size_t i = first; i < first + count; i++)
        if (r->states[i] == DMI_FAKE_OFFERED)
            _dmi_fake_report_misuse("remap", "page is offered", address, old_size);
    void *moved = address;
    if (new_size < old_size) {
        size_t kept = new_size / page_size; /* the host keeps the tail until all is released */
        (void)release_pages(r, first + kept, count - kept);
    } else if (new_size > old_size) {
        moved = may_move ? move_reservation(r, first, count, new_size) : NULL;
    }
    _dmi_unlock(&lock);
    return moved;
}

static int fake_move(void *from, size_t old_size, void *to, size_t new_size) {
    size_t first, count, to_first, to_count;
    _dmi_lock(&lock);
    reservation *r = find_range("move", from, old_size, &first, &count);
    reservation *target = find_range("move", to, new_size, &to_first, &to_count);
    require_piece("move", r, first, count, from);
    if (to_first != 0 || to_count != target->left || target->table || to_count < count)
        _dmi_fake_report_misuse("move", "not a whole reservation, or too small", to, new_size);
    size_t was = committed;
    for (size_t i = 0; i < count; i++) {
        if (r->states[first + i] == DMI_FAKE_OFFERED)
            _dmi_fake_report_misuse("move", "page is offered", from, old_size);
        if (target->states[i] != DMI_FAKE_UNCOMMITTED)
            _dmi_fake_report_misuse("move", "target page is committed", to, new_size);
        if (r->states[first + i] != DMI_FAKE_COMMITTED) continue;
        if (HOST->commit(page_at(target, i), page_size, DMI_OS_STRICT) != 0)
            _dmi_fake_report_misuse("move", "the host has no memory", to, new_size);
        memcpy(page_at(target, i), page_at(r, first + i), page_size);
        target->states[i] = DMI_FAKE_COMMITTED;
    }
    (void)release_pages(r, first, count);
    committed = was; /* they are committed still, elsewhere */
    _dmi_unlock(&lock);
    return 0;
}

static bool fake_split(void *address, size_t size, size_t first_size) {
    size_t first, count;
    _dmi_lock(&lock);
    reservation *r = find_range("split", address, size, &first, &count);
    require_piece("split", r, first, count, address);
    if (first_size == 0 || first_size >= size || (first_size & (page_size - 1)) != 0)
        _dmi_fake_report_misuse("split", "size of the first part", address, first_size);
    r->states[2 * r->pages + first + first_size / page_size] = true;
    _dmi_unlock(&lock);
    return true;
}

/* Two reservations cannot be joined; two pieces of one can. */
static bool fake_join(void *left, size_t left_size, size_t right_size) {
    size_t first, count;
    _dmi_lock(&lock);
    reservation *r = find_range("join", left, left_size, &first, &count);
    require_piece("join", r, first, count, left);
    bool done = first + count + right_size / page_size <= r->pages;
    if (done) {
        require_piece("join", r, first + count, right_size / page_size, (char *)left + left_size);
        r->states[2 * r->pages + first + count] = false;
    }
    _dmi_unlock(&lock);
    return done;
}

static int64_t fake_resident(const void *address, size_t size) {
    size_t first, count;
    _dmi_lock(&lock);
    reservation *r = find_range("resident", address, size, &first, &count);
    size_t pages = 0;
    for (size_t i = first; i < first + count; i++)
        if (r->states[i] == DMI_FAKE_COMMITTED || r->states[i] == DMI_FAKE_OFFERED) pages++;
    _dmi_unlock(&lock);
    return (int64_t)(pages * page_size);
}

static uint64_t fake_headroom(dmi_os_mode mode, bool *pages) {
    (void)mode;
    *pages = true;
    return limit == 0 ? UINT64_MAX : limit > committed ? limit - committed : 0;
}

static int64_t fake_process_resident(void) { return (int64_t)_dmi_fake_committed(); }

const dmi_os_backend _dmi_fake_backend = {
    .name = "fake",
    .page_size = fake_page_size,
    .granularity = fake_granularity,
    .can_trim = true,
    .strict_default = fake_strict_default,
    .reserve = fake_reserve,
    .reserve_at = fake_reserve_at,
    .reserve_table = fake_reserve_table,
    .commit = fake_commit,
    .decommit = fake_decommit,
    .decommit_many = fake_decommit_many,
    .offer = fake_offer,
    .unoffer = fake_unoffer,
    .guard = fake_guard,
    .guard_cuts = fake_guard_cuts,
    .on_fault = fake_on_fault,
    .convert = fake_convert,
    .has_huge = fake_has_huge,
    .advise_huge = fake_advise_huge,
    .break_huge = fake_break_huge,
    .forget = fake_forget,
    .release = fake_release,
    .remap = fake_remap,
    .move = fake_move,
    .split = fake_split,
    .join = fake_join,
    .headroom = fake_headroom,
    .resident = fake_resident,
    .process_resident = fake_process_resident,
    .clock = _dmi_fake_clock,
    .fine_clock = _dmi_fake_clock,
    .cpu_time = _dmi_fake_cpu_time,
    .random = _dmi_fake_random,
    .read_file = _dmi_fake_read_file,
    .regions = _dmi_fake_regions,
    .message = _dmi_fake_message,
    .wait = _dmi_fake_wait,
    .wake = _dmi_fake_wake,
    .thread_id = _dmi_fake_thread_id,
    .thread_exit_setup = _dmi_fake_thread_exit_setup,
    .thread_exit_arm = _dmi_fake_thread_exit_arm,
    .barrier_setup = _dmi_fake_barrier_setup,
    .barrier = _dmi_fake_barrier,
    .at_fork = _dmi_fake_at_fork,
    .thread_start = _dmi_fake_thread_start,
    .thread_join = _dmi_fake_thread_join,
};

/* ---- for the tests --------------------------------------------------------------------------- */

void _dmi_fake_setup(size_t new_page_size, size_t memory_limit) {
    if (new_page_size < HOST->page_size() || (new_page_size & (new_page_size - 1)) != 0)
        _dmi_fake_report_misuse("setup", "page size", NULL, new_page_size);
    _dmi_lock(&lock);
    if (live_reservations != 0 && new_page_size != page_size)
        _dmi_fake_report_misuse("setup", "page size changes under live reservations", NULL,
                                new_page_size);
    page_size = new_page_size;
    limit = memory_limit;
    redundant = breaks = 0;
    _dmi_unlock(&lock);
    _dmi_fake_world_reset();
}

void _dmi_fake_limit_set(size_t memory_limit) {
    _dmi_lock(&lock);
    limit = memory_limit;
    _dmi_unlock(&lock);
}

void _dmi_fake_strict_set(bool by_default) { strict = by_default; }

dmi_fake_page _dmi_fake_state(const void *address) {
    _dmi_lock(&lock);
    const reservation *r = find(address);
    dmi_fake_page state = DMI_FAKE_UNRESERVED;
    if (r != NULL)
        state = (dmi_fake_page)r->states[(size_t)((const char *)address - r->base) / page_size];
    _dmi_unlock(&lock);
    return state;
}

bool _dmi_fake_huge(const void *address) {
    _dmi_lock(&lock);
    const reservation *r = find(address);
    bool huge =
        r != NULL && r->states[r->pages + (size_t)((const char *)address - r->base) / page_size];
    _dmi_unlock(&lock);
    return huge;
}

uint64_t _dmi_fake_breaks(void) {
    _dmi_lock(&lock);
    uint64_t calls = breaks;
    _dmi_unlock(&lock);
    return calls;
}

size_t _dmi_fake_committed(void) {
    _dmi_lock(&lock);
    size_t bytes = committed;
    _dmi_unlock(&lock);
    return bytes;
}

size_t _dmi_fake_offered(void) {
    _dmi_lock(&lock);
    size_t bytes = offered;
    _dmi_unlock(&lock);
    return bytes;
}

size_t _dmi_fake_reservations(void) {
    _dmi_lock(&lock);
    size_t count = live_reservations;
    _dmi_unlock(&lock);
    return count;
}

uint64_t _dmi_fake_redundant(void) {
    _dmi_lock(&lock);
    uint64_t pages = redundant;
    _dmi_unlock(&lock);
    return pages;
}
