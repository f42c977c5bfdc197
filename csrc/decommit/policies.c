/* policies.c - the table of policies: all that each of them is. To add one, add its number to dmi.h and a row here. */
#include "policies.h"

#include <stdint.h>
#include <string.h>

#include "pressure.h"

/* ---- parameters ----------------------------------------------------------------------------------- */

static const char *const combine_words[] = {"and", "or", NULL};
static const char *const how_words[] = {"", "discard", "decommit", "offer", NULL};

#define FIELD(member) .name = #member, .field = offsetof(dmi_policy, member)

const dmi_policy_key _dmi_policy_keys[DMI_KEYS] = {
    [DMI_KEY_DELAY] = {FIELD(delay), .form = DMI_KEY_NUMBER, .most = 1e9, .usual = 1,
                       .accepted = "seconds, 0 to 1e9"},
    [DMI_KEY_HALF_LIFE] = {FIELD(half_life), .form = DMI_KEY_NUMBER, .most = 1e9, .usual = 1,
                           .above = true, .accepted = "seconds, above 0 and at most 1e9"},
    [DMI_KEY_BLOCK] = {FIELD(block), .form = DMI_KEY_BYTES, .most = DMI_KEY_BYTES_MOST,
                       .usual = 4096,
                       .accepted = "bytes below 2^47, K, M and G are powers of 1024"},
    [DMI_KEY_TOTAL] = {FIELD(total), .form = DMI_KEY_BYTES, .most = DMI_KEY_BYTES_MOST,
                       .usual = 65536,
                       .accepted = "bytes below 2^47, K, M and G are powers of 1024"},
    [DMI_KEY_COMBINE] = {.name = "combine",
                         .field = offsetof(dmi_policy, combine_or),
                         .form = DMI_KEY_WORD,
                         .words = combine_words,
                         .accepted = "and, or"},
    [DMI_KEY_RATIO] = {FIELD(ratio), .form = DMI_KEY_NUMBER, .most = 1e9, .usual = 0.1,
                       .accepted = "a fraction of busy, 0 to 1e9"},
    [DMI_KEY_PSI] = {FIELD(psi), .form = DMI_KEY_NUMBER, .most = 100, .usual = 10, .above = true,
                     .accepted = "percent, above 0 and at most 100"},
    [DMI_KEY_HEADROOM] = {FIELD(headroom), .form = DMI_KEY_NUMBER, .most = 1, .usual = 0.1,
                          .accepted = "a fraction, 0 to 1"},
    [DMI_KEY_HOW] = {FIELD(how), .form = DMI_KEY_WORD, .words = how_words,
                     .accepted = "discard, decommit, offer"},
};

#define HAS(name) (1u << DMI_KEY_##name)

/* ---- eager: as soon as the page is free -------------------------------------------------------------- */

static bool always(const dmi_engine *engine, uint64_t bytes) {
    (void)engine;
    (void)bytes;
    return true;
}

/* Policies that act at once need passes only for huge pages, which are judged as a whole. */
static double for_huge_pages(const dmi_engine *engine) { return engine->space->huge ? 1.0 : -1; }
static bool judge_units(dmi_passes *passes) {
    passes->units(passes);
    return false;
}

/* ---- lazy: once it stayed free for a delay ------------------------------------------------------------ */

static double lazy_interval(const dmi_engine *engine) { return engine->policy.delay; }

/* What the last pass, a delay ago, found free as well is old enough. */
static bool lazy_pass(dmi_passes *passes) {
    dmi_outcome after = passes->sweep(passes, DMI_PASS_AGE, 0);
    return after.waiting || after.left > 0;
}

/* ---- decay: along a falling curve after each peak ------------------------------------------------------- */

static double decay_interval(const dmi_engine *engine) {
    return engine->policy.half_life / DMI_DECAY_RATE;
}

/* Bytes that may remain, given how many are free now; moves the curve one step on. step[i]: bytes that became free
 * i steps ago; what it counts falls by half each half-life and is nothing after six, so a single peak leaves along
 * 2^(-t / half_life). */
static uint64_t decay_limit(dmi_engine *engine, uint64_t free_now) {
    static const double falling[DMI_DECAY_RATE] = {1.0, 0.8408964152537145, 0.7071067811865476,
                                                   0.5946035575013605};
    memmove(engine->step + 1, engine->step, sizeof engine->step - sizeof engine->step[0]);
    engine->step[0] = free_now > engine->last_free ? free_now - engine->last_free : 0;
    double limit = 0;
    for (size_t i = 0; i < DMI_DECAY_STEPS - 1; i++) {
        size_t age = i + 1;
        double weight = falling[age % DMI_DECAY_RATE] / (double)(1u << (age / DMI_DECAY_RATE));
        limit += (double)engine->step[i] * weight;
    }
    engine->last_free = free_now < (uint64_t)limit ? free_now : (uint64_t)limit;
    return (uint64_t)limit;
}

static bool decay_pass(dmi_passes *passes) {
    dmi_outcome now = passes->sweep(passes, DMI_PASS_COUNT, 0);
    uint64_t limit = decay_limit(passes->engine, now.left);
    if (now.left > limit) (void)passes->sweep(passes, DMI_PASS_LIMIT, limit);
    return now.waiting || now.left > 0;
}

/* ---- threshold: when a free block and the total are large enough ------------------------------------------ */

static bool threshold_at_free(const dmi_engine *engine, uint64_t bytes) {
    const dmi_policy *policy = &engine->policy;
    bool large = bytes >= policy->block;
    bool much = _dmi_engine_backend_free(engine) >= policy->total;
    return policy->combine_or ? large || much : large && much;
}

/* Blocks inside a subsegment never reach the back end that the thresholds watch. */
static dmi_reason threshold_reason(const dmi_policy *policy, unsigned kind, uint64_t bytes) {
    if (kind == DMI_RUN_LFH || kind == DMI_RUN_LIST) return DMI_REASON_block_threshold;
    return bytes < policy->block ? DMI_REASON_block_threshold : DMI_REASON_total_threshold;
}

/* ---- budget: when more than a fraction of busy is retained -------------------------------------------------- */

/* Short, for retained passes its share for that long. */
static double budget_interval(const dmi_engine *engine) {
    (void)engine;
    return 0.1;
}

static bool budget_pass(dmi_passes *passes) {
    double share = passes->engine->policy.ratio * (double)passes->busy(passes);
    return passes->sweep(passes, DMI_PASS_LIMIT, (uint64_t)share).waiting;
}

/* ---- pressure: when the machine runs short of memory ---------------------------------------------------------- */

static double pressure_interval(const dmi_engine *engine) {
    (void)engine;
    return 1.0;
}

/* Whatever is kept must go when the machine asks for it, so somebody goes on looking. */
static bool pressure_pass(dmi_passes *passes) {
    if (!_dmi_pressure_high(&passes->engine->policy)) return true;
    return passes->sweep(passes, DMI_PASS_ALL, 0).waiting;
}

/* ---- the table ------------------------------------------------------------------------------------------------- */

/* A new policy is a new last row, for the place of a row is the public number of its policy. Then tools/generate.py
 * writes the lists of names and numbers: in dmi.h, cdmi.pxd and policy.py. */
const dmi_policy_row _dmi_policies[DMI_POLICIES] = {
    [DMI_WHEN_NEVER] = {.name = "never",
                        .doc = "keep everything",
                        .keys = HAS(HOW),
                        .promised = true,
                        .reason = DMI_REASON_never},
    [DMI_WHEN_EAGER] = {.name = "eager",
                        .doc = "as soon as the page is free",
                        .keys = HAS(HOW),
                        .counts = true,
                        .reason = DMI_REASON_commit_granularity,
                        .interval = for_huge_pages,
                        .pass = judge_units,
                        .at_free = always},
    [DMI_WHEN_LAZY] = {.name = "lazy",
                       .doc = "once it stayed free for a delay",
                       .keys = HAS(DELAY) | HAS(HOW),
                       .bounded = true,
                       .reason = DMI_REASON_delay,
                       .interval = lazy_interval,
                       .pass = lazy_pass},
    [DMI_WHEN_DECAY] = {.name = "decay",
                        .doc = "along a falling curve after each peak",
                        .keys = HAS(HALF_LIFE) | HAS(HOW),
                        .reason = DMI_REASON_decay,
                        .interval = decay_interval,
                        .pass = decay_pass},
    [DMI_WHEN_THRESHOLD] = {.name = "threshold",
                            .doc = "when a free block and the total are large enough",
                            .keys = HAS(BLOCK) | HAS(TOTAL) | HAS(COMBINE) | HAS(HOW),
                            .reason_of = threshold_reason,
                            .interval = for_huge_pages,
                            .pass = judge_units,
                            .at_free = threshold_at_free},
    [DMI_WHEN_BUDGET] = {.name = "budget",
                         .doc = "when more than a fraction of busy is retained",
                         .keys = HAS(RATIO) | HAS(HOW),
                         .reason = DMI_REASON_budget,
                         .interval = budget_interval,
                         .pass = budget_pass},
    [DMI_WHEN_PRESSURE] = {.name = "pressure",
                           .doc = "when the machine runs short of memory",
                           .keys = HAS(PSI) | HAS(HEADROOM) | HAS(HOW),
                           .reason = DMI_REASON_pressure,
                           .probe = _dmi_pressure_probe,
                           .interval = pressure_interval,
                           .pass = pressure_pass},
};
