/* os.c - the only way into floor 1: checks, counts and injects failures, then calls the backend. */
#include "os.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "window.h"

#ifndef DMI_DEBUG
#define DMI_DEBUG 0
#endif

static const dmi_os_backend *os = &_dmi_os_native;

/* The counters are relaxed atomics: each is exact, but several read in a row are not of one moment. */
static struct {
    _Atomic uint64_t reserve_calls, commit_calls, decommit_calls, offer_calls, release_calls;
    _Atomic uint64_t reserved_bytes, committed_bytes, refused_calls;
} counters;

static _Atomic uint64_t fallible_calls;
static _Atomic uint64_t fail_at; /* the value of fallible_calls at which a call fails; 0: never */
static _Atomic bool fail_sticky;

static inline void add(_Atomic uint64_t *counter, uint64_t value) {
    atomic_fetch_add_explicit(counter, value, memory_order_relaxed);
}

static inline void subtract(_Atomic uint64_t *counter, uint64_t value) {
    atomic_fetch_sub_explicit(counter, value, memory_order_relaxed);
}

static inline bool inject_failure(void) {
    uint64_t call = atomic_fetch_add_explicit(&fallible_calls, 1, memory_order_relaxed) + 1;
    uint64_t at = atomic_load_explicit(&fail_at, memory_order_relaxed);
    if (__builtin_expect(at == 0, 1)) return false;
    return call == at || (call > at && atomic_load_explicit(&fail_sticky, memory_order_relaxed));
}

/* ---- preconditions --------------------------------------------------------------------------- */

#if DMI_DEBUG >= 1
static void require(bool holds, const char *text) {
    if (holds) return;
    static const char head[] = "dmi: os precondition broken: ";
    os->message(head, sizeof head - 1);
    os->message(text, strlen(text));
    os->message("\n", 1);
    abort();
}
static void require_range(const void *address, size_t size) {
    size_t mask = os->page_size() - 1;
    require(address != NULL, "address is NULL");
    require(((uintptr_t)address & mask) == 0, "address is not page aligned");
    require(size != 0, "size is 0");
    require((size & mask) == 0, "size is not a multiple of the page size");
    require((uintptr_t)address + size > (uintptr_t)address, "range wraps around");
}
#else
#define require(holds, text) ((void)0)
#define require_range(address, size) ((void)0)
#endif

/* ---- address ranges -------------------------------------------------------------------------- */

size_t _dmi_os_page_size(void) { return os->page_size(); }
size_t _dmi_os_granularity(void) { return os->granularity(); }
bool _dmi_os_can_trim(void) { return os->can_trim; }
bool _dmi_os_strict_default(void) { return os->strict_default(); }

static void *count_reserved(void *address, size_t size) {
    if (address != NULL) add(&counters.reserved_bytes, size);
    return address;
}

void *_dmi_os_reserve(size_t size, size_t align, dmi_os_mode mode, bool huge, const char *name) {
    require(size != 0 && (size & (os->page_size() - 1)) == 0, "reserve: size");
    require(align >= os->page_size() && (align & (align - 1)) == 0, "reserve: align");
    add(&counters.reserve_calls, 1);
    if (inject_failure()) return NULL;
    return count_reserved(os->reserve(size, align, mode, huge, name), size);
}

/* A place that something else took stays taken, and the next one is tried: only a few times, because whatever fills
 * the window may be faster. */
static void *reserve_in_window(size_t size, size_t align, dmi_os_mode mode, bool huge,
                               const char *name) {
    if (!_dmi_window_is_open()) {
        uint64_t random = 0;
        (void)os->random(&random, sizeof random);
        _dmi_window_open(random, os->granularity());
    }
    for (int tries = 0; tries < 8; tries++) {
        void *place = _dmi_window_claim(size, align);
        if (place == NULL) return NULL;
        int error = os->reserve_at(place, size, mode, huge, name);
        if (error == 0) return place;
        if (error != EEXIST) {
            _dmi_window_yield(place, size);
            return NULL;
        }
    }
    return NULL;
}

void *_dmi_os_reserve_in_order(size_t size, size_t align, dmi_os_mode mode, bool huge,
                               const char *name) {
    require(size != 0 && (size & (os->page_size() - 1)) == 0, "reserve: size");
    require(align >= os->granularity() && (align & (align - 1)) == 0, "reserve: align");
    add(&counters.reserve_calls, 1);
    if (inject_failure()) return NULL;
    void *address = reserve_in_window(size, align, mode, huge, name);
    return count_reserved(address ? address : os->reserve(size, align, mode, huge, name), size);
}

void *_dmi_os_reserve_table(size_t size, const char *name) {
    require(size != 0 && (size & (os->page_size() - 1)) == 0, "reserve_table: size");
    add(&counters.reserve_calls, 1);
    if (inject_failure()) return NULL;
    return count_reserved(os->reserve_table(size, name), size);
}

int _dmi_os_commit(void *address, size_t size, dmi_os_mode mode) {
    require_range(address, size);
    add(&counters.commit_calls, 1);
    int error = inject_failure() ? ENOMEM : os->commit(address, size, mode);
    if (error == 0) add(&counters.committed_bytes, size);
    return error;
}

int _dmi_os_decommit(void *address, size_t size, dmi_os_mode mode) {
    require_range(address, size);
    add(&counters.decommit_calls, 1);
    int error = inject_failure() ? ENOMEM : os->decommit(address, size, mode);
    if (error == 0) subtract(&counters.committed_bytes, size);
    else add(&counters.refused_calls, 1);
    return error;
}

/* When a failure is armed the ranges go one by one, so that it hits one range and not all of them. */
static size_t decommit_injected(const dmi_os_range *ranges, size_t count, int *refused,
                                uint64_t *calls) {
    size_t refusals = 0;
    for (size_t i = 0; i < count; i++) {
        if (inject_failure()) refused[i] = ENOMEM;
        else (void)os->decommit_many(&ranges[i], 1, &refused[i], calls);
        if (refused[i] != 0) refusals++;
    }
    return refusals;
}

size_t _dmi_os_decommit_many(const dmi_os_range *ranges, size_t count, int *refused,
                             uint64_t *calls) {
    if (count == 0) return 0;
    for (size_t i = 0; i < count; i++) require_range(ranges[i].address, ranges[i].size);
    uint64_t made = 0;
    size_t refusals;
    if (atomic_load_explicit(&fail_at, memory_order_relaxed) != 0) {
        refusals = decommit_injected(ranges, count, refused, &made);
    } else {
        add(&fallible_calls, count);
        refusals = os->decommit_many(ranges, count, refused, &made);
    }
    uint64_t gone = 0;
    for (size_t i = 0; i < count; i++)
        if (refused[i] == 0) gone += ranges[i].size;
    add(&counters.decommit_calls, made);
    subtract(&counters.committed_bytes, gone);
    if (refusals != 0) add(&counters.refused_calls, refusals);
    if (calls != NULL) *calls += made;
    return refusals;
}

int _dmi_os_offer(void *address, size_t size) {
    require_range(address, size);
    add(&counters.offer_calls, 1);
    int error = inject_failure() ? ENOMEM : os->offer(address, size);
    if (error != 0) add(&counters.refused_calls, 1);
    return error;
}

int _dmi_os_unoffer(void *address, size_t size) {
    require_range(address, size);
    return os->unoffer(address, size);
}

int _dmi_os_guard(void *address, size_t size, dmi_os_mode mode) {
    require_range(address, size);
    return inject_failure() ? ENOMEM : os->guard(address, size, mode, true);
}

bool _dmi_os_guard_cuts(dmi_os_mode mode) { return os->guard_cuts(mode); }

int _dmi_os_unguard(void *address, size_t size, dmi_os_mode mode) {
    require_range(address, size);
    return inject_failure() ? ENOMEM : os->guard(address, size, mode, false);
}

int _dmi_os_on_fault(void (*touched)(const void *)) { return os->on_fault(touched); }

int _dmi_os_convert(void *address, size_t size, dmi_os_mode to) {
    require_range(address, size);
    return os->convert(address, size, to);
}

bool _dmi_os_has_huge(void) { return os->has_huge(); }

void _dmi_os_advise_huge(void *address, size_t size, bool huge) {
    require_range(address, size);
    os->advise_huge(address, size, huge);
}

void _dmi_os_break_huge(void *address, size_t size) {
    require_range(address, size);
    os->break_huge(address, size);
}

void _dmi_os_forget(void *address, size_t size) {
    require_range(address, size);
    os->forget(address, size);
}

int _dmi_os_release(void *address, size_t size) {
    require_range(address, size);
    add(&counters.release_calls, 1);
    int error = os->release(address, size);
    if (error == 0) {
        subtract(&counters.reserved_bytes, size);
        _dmi_window_yield(address, size);
    }
    return error;
}

void *_dmi_os_remap(void *address, size_t old_size, size_t new_size, bool may_move) {
    require_range(address, old_size);
    require(new_size != 0 && (new_size & (os->page_size() - 1)) == 0, "remap: new size");
    void *moved = os->remap(address, old_size, new_size, may_move);
    if (moved != NULL)
        add(&counters.reserved_bytes,
            new_size - old_size); /* wraps when it shrinks; the sum is right */
    return moved;
}

int _dmi_os_move(void *from, size_t old_size, void *to, size_t new_size) {
    require_range(from, old_size);
    require_range(to, new_size);
    require(new_size >= old_size, "move: new size");
    int error;
    if (inject_failure()) {
        (void)os->release(to, new_size);
        error = ENOMEM;
    } else {
        error = os->move(from, old_size, to, new_size);
    }
    subtract(&counters.reserved_bytes, error == 0 ? old_size : new_size);
    return error;
}

bool _dmi_os_split(void *address, size_t size, size_t first) {
    require_range(address, size);
    require(first > 0 && first < size, "split: size of the first part");
    return os->split(address, size, first);
}

bool _dmi_os_join(void *left, size_t left_size, size_t right_size) {
    require_range(left, left_size + right_size);
    return os->join(left, left_size, right_size);
}

/* ---- questions ------------------------------------------------------------------------------- */

int64_t _dmi_os_resident(const void *address, size_t size) {
    require_range(address, size);
    return os->resident(address, size);
}

uint64_t _dmi_os_headroom(dmi_os_mode mode, bool *pages) { return os->headroom(mode, pages); }
int64_t _dmi_os_process_resident(void) { return os->process_resident(); }
uint64_t _dmi_os_clock(void) { return os->clock(); }
uint64_t _dmi_os_fine_clock(void) { return os->fine_clock(); }
uint64_t _dmi_os_cpu_time(void) { return os->cpu_time(); }
int _dmi_os_random(void *buffer, size_t size) { return os->random(buffer, size); }
int _dmi_os_read_file(const char *path, char *buffer, size_t size) {
    return os->read_file(path, buffer, size);
}
int _dmi_os_regions(uint64_t pid, dmi_os_region_visit visit, void *argument, uint64_t *total) {
    return os->regions(pid, visit, argument, total);
}
void _dmi_os_message(const char *text, size_t length) { os->message(text, length); }

/* ---- threads --------------------------------------------------------------------------------- */

void _dmi_os_wait(_Atomic uint32_t *word, uint32_t expected, uint64_t timeout_ns) {
    os->wait(word, expected, timeout_ns);
}
void _dmi_os_wake(_Atomic uint32_t *word, bool all) { os->wake(word, all); }
uint64_t _dmi_os_thread_id(void) { return os->thread_id(); }
int _dmi_os_thread_exit_setup(void (*handler)(void *value)) {
    return os->thread_exit_setup(handler);
}
int _dmi_os_thread_exit_arm(void *value) { return os->thread_exit_arm(value); }
int _dmi_os_barrier_setup(void) { return os->barrier_setup(); }
int _dmi_os_barrier(void) { return os->barrier(); }
int _dmi_os_at_fork(void (*prepare)(void), void (*parent)(void), void (*child)(void)) {
    return os->at_fork(prepare, parent, child);
}
int _dmi_os_thread_start(void (*body)(void)) { return os->thread_start(body); }
void _dmi_os_thread_join(void) { os->thread_join(); }

/* ---- accounting and tests -------------------------------------------------------------------- */

void _dmi_os_counters(dmi_os_counters *out) {
#define READ(name) out->name = atomic_load_explicit(&counters.name, memory_order_relaxed)
    READ(reserve_calls);
    READ(commit_calls);
    READ(decommit_calls);
    READ(offer_calls);
    READ(release_calls);
    READ(reserved_bytes);
    READ(committed_bytes);
    READ(refused_calls);
#undef READ
}

void _dmi_os_uncount(size_t committed_bytes) {
    subtract(&counters.committed_bytes, committed_bytes);
}

void _dmi_os_fail_at(uint64_t n, bool sticky) {
    atomic_store_explicit(&fail_at, 0, memory_order_relaxed);
    atomic_store_explicit(&fallible_calls, 0, memory_order_relaxed);
    atomic_store_explicit(&fail_sticky, sticky, memory_order_relaxed);
    atomic_store_explicit(&fail_at, n, memory_order_relaxed);
}

uint64_t _dmi_os_fallible_calls(void) {
    return atomic_load_explicit(&fallible_calls, memory_order_relaxed);
}

void _dmi_os_use(const dmi_os_backend *backend) {
    require(atomic_load_explicit(&counters.reserved_bytes, memory_order_relaxed) == 0,
            "backend swapped while ranges are reserved");
    _dmi_window_reset();
    os = backend;
}
