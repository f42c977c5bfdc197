/* sites.c - counts of blocks by site: what was handed out, and what of it was freed. */
#include "sites.h"

#include "pyframes.h"

#include <stdatomic.h>

/* The first blocks of a site get stacks all; then as many as the square root of its blocks grows to. Of a site whose
 * blocks are freed soon the stacks matter less: for what a stack tells, that is where it is best left out (an error
 * is least where the share of blocks with a stack goes by the square root of what they hold in the end). */
#define FIRST_LOG 8 /* 256 */
#define LIVE_LOG 4
#define ALL_LOG 64
static _Atomic int first_log = FIRST_LOG, live_log = LIVE_LOG;
/* What was long ago says little: of so many blocks half are forgotten. So k is 5 at most. */
#define REMEMBERED 32768u

static struct site { _Atomic uint32_t handed, recent; } sites[DMI_SITES];

static inline uint64_t mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * UINT64_C(0x9fb21c651e98df25);
    return hash ^ hash >> 32;
}

uint32_t _dmi_sites_find(const void *frame, size_t size) {
    const uintptr_t *words = frame; /* the caller's frame pointer, and where it goes on */
    uint64_t python = _dmi_python_site();
    uint64_t key = mix(mix(words[1], size), python ? python : (uintptr_t)frame);
    uint32_t site = (uint32_t)(key >> 32) % DMI_SITES;
    return site ? site : 1;
}

static int log_of(uint32_t n) { return 31 - __builtin_clz(n | 1); }

unsigned _dmi_sites_note(uint32_t number) {
    struct site *site = &sites[number];
    uint32_t handed = atomic_fetch_add_explicit(&site->handed, 1, memory_order_relaxed) + 1;
    uint32_t recent = atomic_fetch_add_explicit(&site->recent, 1, memory_order_relaxed) + 1;
    uint32_t freed = atomic_load_explicit(&_dmi_watch_freed[number], memory_order_relaxed);
    int32_t live = (int32_t)(handed - freed);
    int all = log_of(recent);
    if (recent >= REMEMBERED)
        atomic_store_explicit(&site->recent, REMEMBERED / 2, memory_order_relaxed);
    int by_number = (all - atomic_load_explicit(&first_log, memory_order_relaxed)) / 2;
    int by_live = (all - log_of(live > 0 ? (uint32_t)live : 1) -
                   atomic_load_explicit(&live_log, memory_order_relaxed)) /
                  2;
    int k = by_number > by_live ? by_number : by_live;
    return k > 0 ? (unsigned)k : 0;
}

void _dmi_sites_halve(void) {
    for (size_t i = 0; i < DMI_SITES; i++) {
        uint32_t handed = atomic_load_explicit(&sites[i].handed, memory_order_relaxed);
        int32_t live =
            (int32_t)(handed - atomic_load_explicit(&_dmi_watch_freed[i], memory_order_relaxed));
        if (live > 0)
            atomic_fetch_add_explicit(&_dmi_watch_freed[i], (uint32_t)live / 2,
                                      memory_order_relaxed);
    }
}

void _dmi_sites_reset(unsigned times) {
    int more = times ? 2 * log_of(times) : ALL_LOG;
    if (!_dmi_python_found()) more++; /* native stacks alone cost a quarter, and sites tell less */
    atomic_store_explicit(&first_log, FIRST_LOG + more, memory_order_relaxed);
    atomic_store_explicit(&live_log, LIVE_LOG + more, memory_order_relaxed);
    for (size_t i = 0; i < DMI_SITES; i++) {
        atomic_store_explicit(&sites[i].handed, 0, memory_order_relaxed);
        atomic_store_explicit(&sites[i].recent, 0, memory_order_relaxed);
        atomic_store_explicit(&_dmi_watch_freed[i], 0, memory_order_relaxed);
    }
}

size_t _dmi_sites_metadata(void) { return sizeof sites + sizeof _dmi_watch_freed; }
