/* level.c - the most that was in use within the last delay, and giving back what would exceed it. */
#include "level.h"
#include "room.h"

/* Free runs that are shorter are left to the passes. */
#define LONG ((size_t)1 << 20)

static uint64_t committed(const dmi_space *space) {
    const dmi_ledger *l = &space->ledger;
    uint64_t in = atomic_load_explicit(&l->commit_bytes, memory_order_relaxed) +
                  atomic_load_explicit(&l->recommit_bytes, memory_order_relaxed);
    uint64_t out = atomic_load_explicit(&l->decommit_bytes, memory_order_relaxed);
    return in > out ? in - out : 0;
}

static uint64_t in_use(const dmi_space *space) {
    uint64_t all = committed(space);
    uint64_t idle = space->kept_bytes + space->free_committed + space->unseen;
    return all > idle ? all - idle : 0;
}

/* Two periods of one delay each: the one that runs, and the one before. */
static void turn(dmi_level *level, uint64_t now, uint64_t delay) {
    uint64_t passed = now - level->began;
    if (passed < delay) return;
    bool next = passed < 2 * delay;
    level->most[1] = next ? level->most[0] : 0;
    level->served[1] = next ? level->served[0] : 0;
    level->most[0] = level->served[0] = 0;
    level->began = now;
}

static void note(dmi_engine *engine) {
    dmi_level *level = &engine->level;
    turn(level, _dmi_space_clock(engine->space), (uint64_t)(engine->policy.delay * 1e9));
    uint64_t now = in_use(engine->space);
    if (now > level->most[0]) level->most[0] = now;
}

static uint64_t bound(const dmi_level *level) {
    uint64_t most = level->most[0] > level->most[1] ? level->most[0] : level->most[1];
    uint64_t earned = level->served[0] + level->served[1];
    return most + (earned < most / 16 * 5 ? earned : most / 16 * 5);
}

static dmi_run *oldest(const dmi_space *space) {
    dmi_run *old = space->kept;
    for (dmi_run *run = old; run; run = run->next)
        if (run->freed_at < old->freed_at) old = run;
    return old;
}

static void give_runs(dmi_space *space, uint64_t bytes) {
    dmi_run *next;
    for (size_t bin = DMI_BINS; bin-- > 64 && bytes && space->free_committed;)
        for (int warm = 0; warm < DMI_WARMTHS; warm++)
            for (dmi_run *run = space->bins[warm][bin]; run && bytes; run = next) {
                next = run->next;
                if (_dmi_run_size(run) < LONG || run->segment->units) continue;
                size_t given = _dmi_room_give_run(space, run, bytes);
                bytes -= given < bytes ? given : bytes;
            }
}

/* Give back so many bytes of what is kept. */
static void give(dmi_space *space, uint64_t bytes) {
    dmi_run *run;
    while (bytes && (run = oldest(space))) {
        size_t given = _dmi_virtual_drop_part(space, run, bytes);
        bytes -= given < bytes ? given : bytes;
    }
    if (bytes) give_runs(space, bytes);
}

/* Give back what exceeds the bound, and no more bytes than most. */
static void enforce(dmi_engine *engine, uint64_t most) {
    dmi_space *space = engine->space;
    if (!space->kept_bytes && !space->free_committed) return;
    if (committed(space) <= bound(&engine->level)) return;
    _dmi_virtual_look(space);
    note(engine);
    uint64_t all = committed(space), may = bound(&engine->level);
    if (all > may) give(space, all - may < most ? all - may : most);
}

void _dmi_level_note_served(dmi_engine *engine, size_t bytes) {
    if (!_dmi_level_counts(engine)) return;
    note(engine);
    engine->level.served[0] += bytes;
}

void _dmi_level_make_way(dmi_engine *engine, size_t bytes) {
    if (!_dmi_level_counts(engine)) return;
    note(engine);
    enforce(engine, bytes);
}

void _dmi_level_note(dmi_engine *engine) {
    if (!_dmi_level_counts(engine)) return;
    note(engine);
    /* Without what nobody touched yet: is there a question at all? */
    if (committed(engine->space) <= bound(&engine->level)) return;
    _dmi_virtual_look(engine->space);
    note(engine);
}

void _dmi_level_enforce(dmi_engine *engine) {
    if (_dmi_level_counts(engine)) enforce(engine, UINT64_MAX);
}
