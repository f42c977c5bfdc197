/* sampler.c - takes a stack where a slow path hands out a block that is sampled. */
#include "sampler.h"

#include "../block/watch.h"
#include "../heap/draw.h"
#include "../heap/fork.h"
#include "../heap/observe.h"
#include "../heap/registry.h"
#include "../os/frames.h"
#include "../os/os.h"
#include "../os/own.h"
#include "agent.h"
#include "merge.h"
#include "pyframes.h"
#include "pytypes.h"
#include "sites.h"
#include "stacks.h"

#include <dmi/dmi.h>
#include <errno.h>
#include <string.h>

#define PERIOD_DEFAULT 64
#define PERIOD_MOST (UINT32_C(1) << 20)
#define PROBES 64 /* places that a larger block may have */

static dmi_large *large; /* DMI_SAMPLER_LARGE */
static _Atomic uint64_t state, lost;
static _Atomic uint32_t one_in; /* as dmi_profile_start was asked; 0: it never was */
static dmi_lock lock;           /* starting and stopping */
static _Atomic bool runs;
static _Atomic bool for_agent;      /* it runs because an agent is attached, and takes no stacks */
static _Atomic double large_period; /* bytes for which a larger block is recorded once, about */

/* ---- what it costs ------------------------------------------------------------------------------------- */

/* What it costs, in ns, to hand out a block of a watched page and take it back, its stack, and each frame of that: 700
 * instructions, 900 and 140, measured on programs that do little else, at 2.3 a ns. */
#define BLOCK_NS 300
#define STACK_NS 400
#define FRAME_NS 60
#define COST_PPM 8000  /* of the time that passes, by default */
#define SPAN_NS 500000 /* a span ends when it has cost so much: then it is judged */
#define FREE_NS                                                                                    \
    8000000 /* what may be spent ahead of time: at the start, or after a while that cost little */

static _Atomic uint32_t most_ppm, every;
static _Atomic uint64_t spent, span_spent, span_began;
static _Atomic int64_t credit; /* ns that may still be spent */

static _Atomic int64_t credit_most;

/* What these nanoseconds are on this machine, now: one stack in MEASURED is measured, and what it took is compared with
 * what it was charged for. In parts of PACE_ONE. So the share that is allowed is one of the program's own work, on a fast
 * machine as on a slow one. */
#define MEASURED 16u
#define PACE_ONE 1024u
#define PACE_MOST (2 * PACE_ONE)
static _Atomic uint32_t pace = PACE_ONE;

static void learn_pace(uint64_t took, uint64_t charged) {
    uint64_t here = charged ? took * PACE_ONE / charged : PACE_ONE;
    if (here > PACE_MOST) here = PACE_MOST; /* it was interrupted, perhaps */
    uint32_t was = atomic_load_explicit(&pace, memory_order_relaxed);
    uint32_t now = was - was / 8 + (uint32_t)here / 8;
    atomic_store_explicit(&pace, now > PACE_ONE / 32 ? now : PACE_ONE / 32, memory_order_relaxed);
}

/* What is left after a span that cost so much. Time fills it up, to its most and no further. */
static int64_t settle_credit(uint64_t cost, uint64_t passed, uint32_t ppm) {
    int64_t most = atomic_load_explicit(&credit_most, memory_order_relaxed);
    double earned = (double)passed * ppm / 1e6;
    int64_t gained = (earned < (double)most ? (int64_t)earned : most) - (int64_t)cost;
    int64_t left = atomic_fetch_add_explicit(&credit, gained, memory_order_relaxed) + gained;
    if (left <= most) return left;
    atomic_store_explicit(&credit, most, memory_order_relaxed);
    return most;
}

/* Who asks for more samples than usual may pay as many times more, up to DENSER_MOST times: they would be given up
 * again otherwise. Locked. */
#define DENSER_MOST 8u
static void begin_costs(uint32_t one, uint32_t ppm) {
    uint32_t denser = PERIOD_DEFAULT / one, most = ppm;
    denser = denser < 1 ? 1 : denser > DENSER_MOST ? DENSER_MOST : denser;
    _dmi_sites_reset(ppm == UINT32_MAX ? 0 : denser);
    if (ppm != UINT32_MAX) most = ppm > 1000000 ? 1000000 : ppm * denser;
    int64_t free_ns = (int64_t)FREE_NS * denser;
    atomic_store_explicit(&credit_most, free_ns, memory_order_relaxed);
    atomic_store_explicit(&credit, free_ns, memory_order_relaxed);
    atomic_store_explicit(&most_ppm, most, memory_order_relaxed);
    atomic_store_explicit(&spent, 0, memory_order_relaxed);
    atomic_store_explicit(&span_spent, 0, memory_order_relaxed);
    atomic_store_explicit(&span_began, _dmi_os_fine_clock(), memory_order_relaxed);
}

/* Where more was spent than is there, and the span that ends cost a larger share of the time than it may, pages are
 * given up; a short while that costs much does not matter, so that few of them are. After a span that cost less than
 * half of its share new pages are drawn more often again, up to the rate that was asked for. */
static void settle_costs(uint64_t now_spent) {
    uint64_t before = atomic_load_explicit(&span_spent, memory_order_relaxed);
    uint32_t most = atomic_load_explicit(&most_ppm, memory_order_relaxed);
    if (now_spent - before < SPAN_NS || most == UINT32_MAX) return;
    if (!atomic_compare_exchange_strong_explicit(&span_spent, &before, now_spent,
                                                 memory_order_relaxed, memory_order_relaxed))
        return;
    uint64_t now = _dmi_os_fine_clock(), cost = now_spent - before;
    uint64_t passed = now - atomic_exchange_explicit(&span_began, now, memory_order_relaxed);
    uint32_t period = atomic_load_explicit(&every, memory_order_relaxed);
    passed = passed * PACE_ONE / atomic_load_explicit(&pace, memory_order_relaxed);
    int64_t left = settle_credit(cost, passed, most);
    int64_t full = atomic_load_explicit(&credit_most, memory_order_relaxed);
    double times = (double)cost * 1e6 / ((double)(passed + 1) * (most + 1.0));
    if ((left < 0 && times > 2) || (left < -full / 4 && times > 1)) {
        if (period >= PERIOD_MOST) return;
        _dmi_watch_thin();
        _dmi_sites_halve();
        period *= 2;
    } else if (times < (left > full / 2 ? 1 : 0.5) &&
               period > atomic_load_explicit(&one_in, memory_order_relaxed)) {
        period /= 2;
    } else {
        return;
    }
    atomic_store_explicit(&every, period, memory_order_relaxed);
    /* Else pages would be given up for what larger blocks cost. */
    atomic_store_explicit(&large_period, (double)period * DMI_WATCH_PAGE, memory_order_relaxed);
    if (atomic_load_explicit(&runs, memory_order_relaxed)) _dmi_watch_begin(period, 0);
}

static void charge(uint64_t ns) {
    settle_costs(atomic_fetch_add_explicit(&spent, ns, memory_order_relaxed) + ns);
}

/* ---- stacks -------------------------------------------------------------------------------------------- */

/* A signal handler may allocate while its thread takes a stack: that allocation takes none. */
static DMI_TLS bool taking;

static void (*_Atomic when_python)(void);
void _dmi_sampler_call_at_python(void (*call)(void)) {
    atomic_store_explicit(&when_python, call, memory_order_release);
}

static void tell_of_python(void) {
    void (*call)(void) = atomic_exchange_explicit(&when_python, NULL, memory_order_acquire);
    if (call) call();
}

/* Frames of a stack, at most; what lies further out is cut. They lie on the stack that is looked at: 8 KiB. */
#define NATIVES 192
#define PYTHONS 128

/* Stacks that were entered, by all that they are made of: a program asks again and again from the same places. An entry is
 * the upper part of a key, and the number. */
#define RECALLED 2048u
#define NUMBER UINT64_C(0x7fff)
static _Atomic uint64_t recalled[RECALLED];

static inline uint64_t mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * UINT64_C(0x9fb21c651e98df25);
    return hash ^ hash >> 32;
}

static uint64_t key_of(const dmi_native *native, size_t natives, const dmi_frame *python,
                       const uintptr_t *place, size_t pythons) {
    uint64_t key = mix(natives, pythons);
    for (size_t i = 0; i < natives; i++) key = mix(mix(key, native[i].address), native[i].end);
    for (size_t i = 0; i < pythons; i++) key = mix(mix(key, python[i].key), place[i]);
    return key;
}

/* 0: it is not known. */
static uint32_t recall(uint64_t key) {
    uint64_t entry = atomic_load_explicit(&recalled[key % RECALLED], memory_order_relaxed);
    return (entry ^ key) & ~NUMBER ? 0 : (uint32_t)(entry & NUMBER);
}

static void remember(uint64_t key, uint32_t number) {
    if (number == 0 || number > NUMBER) return;
    atomic_store_explicit(&recalled[key % RECALLED], (key & ~NUMBER) | number,
                          memory_order_relaxed);
}

typedef struct both_frames {
    dmi_frame python[PYTHONS];
    dmi_native native[NATIVES];
    uint16_t order[NATIVES + PYTHONS];
} both_frames;

/* The number of the stack of the innermost n frames; cut: it does not begin with the outermost of the thread. */
static uint32_t enter_stack(const both_frames *both, size_t n, bool cut, dmi_stack_kind kind) {
    uint32_t node = 0;
    if (cut) {
        node = _dmi_stacks_enter(node, &(dmi_frame){.key = DMI_FRAME_CUT}, kind);
        if (node == 0) return _dmi_stacks_number(node, kind);
    }
    for (size_t i = n; i-- > 0;) {
        size_t number = both->order[i] & (DMI_MERGE_PYTHON - 1);
        bool is_python = both->order[i] & DMI_MERGE_PYTHON;
        dmi_frame here = {.key = is_python ? 0 : both->native[number].address};
        node = _dmi_stacks_enter(node, is_python ? &both->python[number] : &here, kind);
        if (node == 0) break;
    }
    return _dmi_stacks_number(node, kind);
}

/* So many frames a kind of stack has, of which native ones only among the first: the innermost, which name the line. */
static const struct {
    size_t all, native;
} most_frames[] = {[DMI_STACK_LINE] = {6, 1}, [DMI_STACK_SHORT] = {12, 3}};

/* Leave what a stack of that kind has; how many of n frames those are. */
static size_t leave_frames(uint16_t *order, size_t n, dmi_stack_kind kind) {
    size_t kept = 0;
    for (size_t i = 0; i < n && kept < most_frames[kind].all; i++)
        if (i < most_frames[kind].native || order[i] & DMI_MERGE_PYTHON) order[kept++] = order[i];
    return kept;
}

static uint32_t take_stack(const void *frame, uint64_t *cost) {
    both_frames both;
    dmi_frame *python = both.python;
    dmi_native *native = both.native;
    uintptr_t place[PYTHONS];
    bool cut;
    size_t natives = _dmi_os_frames(frame, native, NATIVES, &cut);
    size_t pythons = _dmi_python_frames(python, place, PYTHONS);
    if (pythons && atomic_load_explicit(&when_python, memory_order_relaxed)) tell_of_python();
    *cost = STACK_NS + FRAME_NS * (natives + pythons);
    charge(*cost);
    uint64_t key = key_of(native, natives, python, place, pythons) ^ cut;
    uint32_t known = recall(key);
    if (known) return known;
    size_t n = _dmi_merge(native, natives, place, pythons, both.order);
    if (n == 0) return 0;
    cut |= pythons == PYTHONS;
    uint32_t number = enter_stack(&both, n, cut, DMI_STACK_WHOLE);
    for (int less = DMI_STACK_SHORT; number == 0 && less >= DMI_STACK_LINE; less--) {
        dmi_stack_kind kind = (dmi_stack_kind)less;
        size_t kept = leave_frames(both.order, n, kind);
        cut |= kept < n;
        n = kept;
        number = enter_stack(&both, n, cut, kind);
    }
    remember(key, number);
    return number;
}

static uint32_t measured_stack(const void *frame) {
    static _Atomic uint32_t taken;
    uint64_t cost = 0;
    if (atomic_fetch_add_explicit(&taken, 1, memory_order_relaxed) % MEASURED)
        return take_stack(frame, &cost);
    uint64_t began = _dmi_os_fine_clock();
    uint32_t number = take_stack(frame, &cost);
    learn_pace(_dmi_os_fine_clock() - began, cost);
    return number;
}

static uint32_t stack_of(const void *frame, double weight, size_t size) {
    if (atomic_load_explicit(&for_agent, memory_order_relaxed)) return 0;
    int saved = errno;
    uint32_t number = 0;
    if (!taking) {
        taking = true;
        atomic_signal_fence(memory_order_seq_cst);
        number = measured_stack(frame);
        atomic_signal_fence(memory_order_seq_cst);
        taking = false;
    }
    dmi_stack *stack = _dmi_stacks_get(number);
    if (stack) {
        atomic_fetch_add_explicit(&stack->bytes, (uint64_t)((double)size * weight),
                                  memory_order_relaxed);
        atomic_fetch_add_explicit(&stack->count, (uint64_t)(weight * DMI_STACK_PARTS),
                                  memory_order_relaxed);
        atomic_fetch_add_explicit(&stack->samples, 1, memory_order_relaxed);
    }
    errno = saved;
    return number;
}

/* ---- larger blocks ------------------------------------------------------------------------------------- */

static uint64_t draw(void) {
    uint64_t z =
        atomic_fetch_add_explicit(&state, UINT64_C(0x9e3779b97f4a7c15), memory_order_relaxed);
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static double draw_part(void) { return (double)(draw() >> 11) * 0x1p-53; }

static size_t place_of(uint64_t address) {
    return (size_t)(address * UINT64_C(0x9e3779b97f4a7c15) >> 40) % DMI_SAMPLER_LARGE;
}

static void forget(const void *block) {
    uint64_t address = (uintptr_t)block;
    for (size_t i = place_of(address), n = 0; n < PROBES; i = (i + 1) % DMI_SAMPLER_LARGE, n++) {
        uint64_t now = atomic_load_explicit(&large[i].address, memory_order_relaxed);
        if (now == 0) return;
        if (now != address) continue;
        if (atomic_load_explicit(&large[i].stack, memory_order_relaxed) & DMI_HOLDER_TOLD)
            _dmi_os_probe_free(block);
        atomic_store_explicit(&large[i].address, 1, memory_order_release);
        return;
    }
}

static __attribute__((noinline)) void note_large(void *block, size_t size, const void *frame) {
    double chance =
        _dmi_agent_chance((double)size / atomic_load_explicit(&large_period, memory_order_relaxed));
    forget(block);
    if (draw_part() >= chance) return;
    /* An agent takes its own stacks: none is saved here. */
    unsigned k = atomic_load_explicit(&for_agent, memory_order_relaxed)
                     ? 0
                     : _dmi_sites_note(_dmi_sites_find(frame, size));
    if (k && draw() & ((1u << k) - 1)) return;
    chance /= 1u << k;
    uint32_t stack = stack_of(frame, 1 / chance, size);
    stack |= _dmi_agent_tell(block, size, chance, draw_part());
    uint64_t address = (uintptr_t)block;
    for (size_t i = place_of(address), n = 0; n < PROBES; i = (i + 1) % DMI_SAMPLER_LARGE, n++) {
        dmi_large *entry = &large[i];
        uint64_t now = atomic_load_explicit(&entry->address, memory_order_relaxed);
        /* 2: about to be filled. */
        if (now > 1 || !atomic_compare_exchange_strong_explicit(
                           &entry->address, &now, 2, memory_order_acquire, memory_order_relaxed))
            continue;
        atomic_store_explicit(&entry->size, size, memory_order_relaxed);
        atomic_store_explicit(&entry->weight, 1 / chance, memory_order_relaxed);
        atomic_store_explicit(&entry->stack, stack, memory_order_relaxed);
        atomic_store_explicit(&entry->address, address, memory_order_release);
        return;
    }
    if (stack & DMI_HOLDER_TOLD) _dmi_os_probe_free(block);
    atomic_fetch_add_explicit(&lost, 1, memory_order_relaxed);
}

const dmi_large *_dmi_sampler_large(size_t i) { return large ? &large[i] : NULL; }

/* ---- what the slow paths call -------------------------------------------------------------------------- */

static void attend(void);

#define LEFT_OUT 7u
_Static_assert(DMI_STACKS_MOST <= DMI_HOLDER_STACK, "a holder has the number of a stack");

uint32_t _dmi_sampler_times(uint32_t holder) {
    uint32_t k = holder >> DMI_HOLDER_RARER_SHIFT & 7;
    return k == LEFT_OUT ? 0 : UINT32_C(1) << k;
}

/* Who has a block of a page that stands for so many: with a stack, or left out by chance. */
static uint32_t holder_of(const void *frame, uint32_t one, size_t size) {
    uint32_t site = _dmi_sites_find(frame, size);
    unsigned k = _dmi_sites_note(site);
    charge(BLOCK_NS);
    uint32_t held = site << DMI_HOLDER_CLASS_SHIFT;
    if (k && draw() & ((1u << k) - 1)) return held | LEFT_OUT << DMI_HOLDER_RARER_SHIFT;
    held |= k << DMI_HOLDER_RARER_SHIFT;
    return held | stack_of(frame, (double)one * (1u << k), size);
}

static __attribute__((noinline)) void note_watched(dmi_watch *watch, void *block, size_t size,
                                                   const void *frame) {
    uint32_t one = atomic_load_explicit(&watch->every, memory_order_relaxed);
    uint32_t held = 0;
    if (!atomic_load_explicit(&for_agent, memory_order_relaxed))
        held = holder_of(frame, one, _dmi_watch_run(watch)->block_size);
    if (_dmi_os_probes_wanted()) held |= _dmi_agent_tell(block, size, 1.0 / one, draw_part());
    _dmi_watch_hold(watch, block, held);
}

static inline void note_run(dmi_run *run, void *block, size_t size, const void *frame) {
    if (_dmi_run_is_shadow(run)) {
        note_watched((dmi_watch *)(void *)run, block, size, frame);
    } else if (run->kind == DMI_RUN_LARGE || run->kind == DMI_RUN_VIRTUAL) {
        note_large(block, size, frame);
    }
}

static __attribute__((noinline, cold)) void note_without_agent(void *block, size_t size,
                                                               const void *frame) {
    attend();
    note_run(_dmi_pagemap_look(block), block, size, frame);
}

/* Of most blocks that slow paths hand out nothing is noted: all calls are the last thing that it does, so that it saves no
 * register. */
static void note_block(void *block, size_t size, const void *frame) {
    if (atomic_load_explicit(&for_agent, memory_order_relaxed) && !_dmi_os_probes_wanted())
        note_without_agent(block, size, frame);
    else note_run(_dmi_pagemap_look(block), block, size, frame);
}

static void forget_block(const void *block) { forget(block); }

static const dmi_observer observer = {note_block, forget_block};

/* ---- start and stop ------------------------------------------------------------------------------------ */

static int setup(void) {
    size_t page = _dmi_os_page_size();
    size_t bytes = (DMI_SAMPLER_LARGE * sizeof(dmi_large) + page - 1) & ~(page - 1);
    if (large) return 0;
    dmi_large *made = _dmi_own_reserve(bytes, "dmi-profile");
    if (!made || _dmi_os_commit(made, bytes, DMI_OS_LAZY)) return ENOMEM;
    large = made;
    return 0;
}

/* Locked. ppm: of the time, as in dmi_profile_options. */
static void begin(uint32_t one, uint64_t seed, uint32_t ppm) {
    atomic_store_explicit(&state, ~seed, memory_order_relaxed);
    atomic_store_explicit(&large_period, (double)one * DMI_WATCH_PAGE, memory_order_relaxed);
    atomic_store_explicit(&every, one, memory_order_relaxed);
    begin_costs(one, ppm);
    atomic_store_explicit(&runs, true, memory_order_relaxed);
    atomic_store_explicit(&_dmi_observer, &observer, memory_order_release);
    _dmi_watch_begin(one, seed);
}

/* Locked. */
static void end(void) {
    atomic_store_explicit(&runs, false, memory_order_relaxed);
    atomic_store_explicit(&for_agent, false, memory_order_relaxed);
    _dmi_watch_begin(0, 0);
    atomic_store_explicit(&_dmi_observer, NULL, memory_order_release);
}

int dmi_profile_start(const dmi_profile_options *options) {
    dmi_profile_options given = {.size = sizeof given};
    if (options && options->size < sizeof given) {
        errno = EINVAL;
        return -1;
    }
    if (options) given = *options;
    if (given.one_in == 0) given.one_in = PERIOD_DEFAULT;
    if (given.one_in > PERIOD_MOST) {
        errno = EINVAL;
        return -1;
    }
    while (given.seed == 0) (void)_dmi_os_random(&given.seed, sizeof given.seed);
    _dmi_python_find();
    _dmi_python_types_find();
    _dmi_os_frames_begin();
    _dmi_lock(&lock);
    bool taken = atomic_load_explicit(&runs, memory_order_relaxed) &&
                 !atomic_load_explicit(&for_agent, memory_order_relaxed);
    int error = taken ? EBUSY : setup();
    if (!error) error = _dmi_stacks_setup();
    if (!error) {
        _dmi_stacks_reset();
        atomic_store_explicit(&lost, 0, memory_order_relaxed);
        atomic_store_explicit(&one_in, given.one_in, memory_order_relaxed);
        atomic_store_explicit(&for_agent, false, memory_order_relaxed);
        begin(given.one_in, given.seed, given.most_ppm ? given.most_ppm : COST_PPM);
    }
    _dmi_unlock(&lock);
    if (!error) _dmi_draw_carved_pages();
    if (!error) return 0;
    errno = error;
    return -1;
}

/* ---- agents: probes.h ---------------------------------------------------------------------------------- */

static void note_for_agent(void *block, size_t size, const void *frame) {
    attend();
    const dmi_observer *now = atomic_load_explicit(&_dmi_observer, memory_order_acquire);
    if (now == &observer) note_block(block, size, frame);
}
static void forget_nothing(const void *block) { (void)block; }
/* There from the moment an agent was seen until the sampler starts for it. */
static const dmi_observer waiting = {note_for_agent, forget_nothing};

static void take_lock(void) { _dmi_lock(&lock); }
static void let_lock(void) { _dmi_unlock(&lock); }

__attribute__((constructor)) static void expect_agents(void) {
    static const dmi_fork_part part = {take_lock, let_lock, NULL};
    _dmi_fork_add(&part);
    atomic_store_explicit(&_dmi_observer_for_agents, &waiting, memory_order_release);
}

/* Locked, while nothing runs. No stacks are taken, so nothing is thinned: an agent would not hear of frees. */
static void begin_for_agent(void) {
    uint64_t seed = 0;
    int error = setup();
    if (!error && _dmi_os_random(&seed, sizeof seed)) error = EAGAIN;
    if (error) { /* it is not tried again */
        atomic_store_explicit(&_dmi_observer_for_agents, NULL, memory_order_release);
        end();
        return;
    }
    atomic_store_explicit(&for_agent, true, memory_order_relaxed);
    begin(PERIOD_DEFAULT, seed | 1, UINT32_MAX);
}

/* An agent came or went. This may be a signal handler that interrupted a thread with locks; and whoever holds this one is
 * about to change all that, or did not come along when the process forked: the next slow path asks again. */
static void attend(void) {
    int saved = errno;
    if (_dmi_locks_held || !_dmi_lock_try(&lock)) return;
    bool running = atomic_load_explicit(&runs, memory_order_relaxed);
    bool wanted = _dmi_os_probes_wanted();
    bool begins = !running && wanted;
    if (begins) begin_for_agent();
    else if (!wanted && (!running || atomic_load_explicit(&for_agent, memory_order_relaxed))) end();
    _dmi_unlock(&lock);
    if (begins) _dmi_draw_carved_pages();
    errno = saved;
}

int dmi_profile_stop(void) {
    _dmi_lock(&lock);
    bool ran = atomic_load_explicit(&runs, memory_order_relaxed) &&
               !atomic_load_explicit(&for_agent, memory_order_relaxed);
    if (ran) end();
    if (ran && _dmi_os_probes_wanted()) begin_for_agent();
    _dmi_unlock(&lock);
    if (ran) return 0;
    errno = ENOENT;
    return -1;
}

uint64_t _dmi_sampler_lost(void) { return atomic_load_explicit(&lost, memory_order_relaxed); }
uint32_t _dmi_sampler_one_in(void) { return atomic_load_explicit(&one_in, memory_order_relaxed); }
size_t _dmi_sampler_metadata(void) {
    return large ? DMI_SAMPLER_LARGE * sizeof(dmi_large) + _dmi_sites_metadata() : 0;
}
