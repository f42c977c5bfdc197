/* records.c - the records of threads: a list that only grows, and those without a thread. */
#include "records.h"
#include "quarantine.h"

/* What is popped from a stack that is empty: no secret makes two zeroes of an address. */
static const uint64_t never_intact[2];
static dmi_waiting nothing = {.block = (void *)(uintptr_t)never_intact};
static dmi_bin empty = {.top = &nothing + 1, .limit = &nothing + 1, .bottom = &nothing + 1};
static dmi_cache of_no_cache;
dmi_quarantine _dmi_no_quarantine = {.cache = &of_no_cache,
                                     .bin = {[0 ... DMI_BUCKETS - 1] = &empty}};

#define NO_CACHES                                                                                  \
    {                                                                                              \
        .memo_heap = DMI_NO_HANDLE, .door = &_dmi_no_thread.cache, .favour = &_dmi_no_quarantine,  \
        .cache = {                                                                                 \
            .direct = {[0 ... DMI_DIRECT_MAX / 16] = &_dmi_no_run},                                \
            .current = {[0 ... DMI_BUCKETS - 1] = &_dmi_no_run}                                    \
        }                                                                                          \
    }
/* A thread without a record may say that it is inside this one, where it finds nothing: nobody reads how many there are. */
dmi_thread _dmi_no_thread = NO_CACHES;
static const dmi_thread fresh = NO_CACHES;
DMI_TLS dmi_thread *_dmi_self = &_dmi_no_thread;
DMI_TLS dmi_thread *_dmi_record;
static dmi_lock registry;
static dmi_pool pool = {
    .name = "dmi-threads", .item = (sizeof(dmi_thread) + 63) / 64 * 64, .chunk = 1024};
static dmi_thread *_Atomic all;
static dmi_thread *abandoned;
bool _dmi_have_barrier;

dmi_thread *_dmi_record_get(bool *adopted) {
    _dmi_lock(&registry);
    dmi_thread *self = abandoned;
    *adopted = self != NULL;
    if (self) {
        abandoned = self->abandoned;
    } else {
        self = _dmi_pool_alloc(&pool);
        if (self) {
            *self = fresh;
            self->state = DMI_THREAD_ABANDONED;
            self->next = all;
            atomic_store_explicit(&all, self, memory_order_release);
        }
    }
    _dmi_unlock(&registry);
    return self;
}

void _dmi_record_put_locked(dmi_thread *self) {
    self->abandoned = abandoned;
    abandoned = self;
}

void _dmi_record_put(dmi_thread *self) {
    _dmi_lock(&registry);
    _dmi_record_put_locked(self);
    _dmi_unlock(&registry);
}

void _dmi_records_lock(void) { _dmi_lock(&registry); }
void _dmi_records_unlock(void) { _dmi_unlock(&registry); }
void _dmi_records_forget_abandoned(void) { abandoned = NULL; }

dmi_thread *_dmi_threads(void) { return atomic_load_explicit(&all, memory_order_acquire); }

size_t _dmi_threads_metadata(void) { return pool.live_bytes; }
