/* ages.c - for how long free pages have been known to be free.
 *
 * A free notes no time. Passes, and the functions of this file, look which pages are free. The segment notes since when
 * every look has found a page free (pages.c). Here that becomes a histogram.
 */
#include "ages.h"

#define BOUND(name, bound, doc) bound,
static const uint32_t bounds[] = {DMI_AGES(BOUND)};
#define AGES (sizeof bounds / sizeof bounds[0])

/* The ages stand side by side at the end of the stats. */
static uint64_t *histogram(dmi_stats *stats) { return &stats->age_unseen; }
_Static_assert(sizeof(dmi_stats) - offsetof(dmi_stats, age_unseen) == AGES * sizeof(uint64_t),
               "the ages are the last fields");

static uint32_t sixteenths(uint64_t ns) { return (uint32_t)(ns / 62500000); }

static size_t bucket(uint32_t age) {
    size_t i = 1;
    while (i < AGES - 1 && age >= bounds[i]) i++;
    return i;
}

typedef struct spread {
    uint64_t age[AGES];
    uint32_t now;
} spread;

static void add(spread *s, uint64_t bytes, bool known, uint32_t since) {
    /* The run may have been freed after the clock was read. */
    uint32_t age = s->now > since ? s->now - since : 0;
    s->age[known ? bucket(age) : 0] += bytes;
}

static spread begin(const dmi_run *run) {
    dmi_space *space = run->segment->space;
    return (spread){.now = sixteenths(atomic_load_explicit(&space->now, memory_order_relaxed))};
}

/* Add the histogram to the stats, and make its sum what the account says: bytes that no page accounts for have no known
 * age. */
static void finish(spread *s, uint64_t reclaimable, dmi_stats *stats) {
    uint64_t sum = 0, *out = histogram(stats);
    for (size_t i = 0; i < AGES; i++) {
        if (s->age[i] > reclaimable - sum) s->age[i] = reclaimable - sum;
        sum += s->age[i];
    }
    s->age[0] += reclaimable - sum;
    for (size_t i = 0; i < AGES; i++) out[i] += s->age[i];
}

static void age_pages(spread *s, dmi_segment *segment, size_t first, size_t count,
                      const uint64_t *freed_at) {
    for (size_t page = first; page < first + count; page++) {
        if (!_dmi_page_usable(segment, page)) continue;
        uint32_t since = _dmi_page_free_since(segment, page);
        bool noted = since != 0;
        if (!noted && freed_at) since = sixteenths(*freed_at);
        add(s, _dmi_page, noted || freed_at, since);
    }
    uint64_t now = atomic_load_explicit(&segment->space->now, memory_order_relaxed);
    _dmi_pages_note_free(segment, first, count, freed_at ? *freed_at : now);
}

static void age_lfh(spread *s, const dmi_run *run, const uint64_t pages[2]) {
    dmi_segment *segment = run->segment;
    uint64_t now = atomic_load_explicit(&segment->space->now, memory_order_relaxed);
    size_t blocks = (size_t)run->capacity * run->block_size;
    for (size_t p = 0; p < run->pages; p++) {
        size_t page = run->first + p, start = p << _dmi_page_shift, end = start + _dmi_page;
        if (!((pages[p / 64] >> (p % 64)) & 1)) {
            if (_dmi_page_free_since(segment, page)) _dmi_pages_forget(segment, page, 1);
            continue;
        }
        uint32_t since = _dmi_page_free_since(segment, page);
        size_t tail = end <= blocks ? 0 : start >= blocks ? _dmi_page : end - blocks;
        add(s, _dmi_page - tail, since != 0, since);
        _dmi_pages_note_free(segment, page, 1, now);
    }
}

static void age_list(spread *s, const dmi_run *run) {
    uint64_t now = atomic_load_explicit(&run->segment->space->now, memory_order_relaxed);
    for (dmi_tag *tag = _dmi_region_first(run); tag; tag = _dmi_region_next(run, tag)) {
        if (!_dmi_tag_sound(tag)) return;
        if (tag->flags & DMI_TAG_BUSY) continue;
        size_t first, count = _dmi_tag_free_pages(run, tag, &first);
        size_t last = first + count - 1;
        if (!count) continue;
        /* The closing gap of the region is overhead. */
        bool gap = tag->flags & DMI_TAG_LAST && last == run->first + run->pages - 1u &&
                   _dmi_page_usable(run->segment, last);
        if (gap) {
            uint32_t since = _dmi_page_free_since(run->segment, last);
            add(s, _dmi_page - 8, since != 0, since);
            count--;
        }
        age_pages(s, run->segment, first, count, NULL);
        if (gap) _dmi_pages_note_free(run->segment, last, 1, now);
    }
}

void _dmi_ages_add_run(const dmi_run *run, const dmi_account *account, dmi_stats *stats) {
    spread s = begin(run);
    if (run->kind == DMI_RUN_LFH) age_lfh(&s, run, account->pages);
    else if (run->kind == DMI_RUN_LIST) age_list(&s, run);
    else if (run->kind == DMI_RUN_FREE)
        age_pages(&s, run->segment, run->first, run->pages, &run->freed_at);
    finish(&s, account->reclaimable, stats);
}

void _dmi_ages_add_virtual(const dmi_run *run, const dmi_account *account, dmi_stats *stats) {
    spread s = begin(run);
    add(&s, account->reclaimable, true, sixteenths(run->freed_at));
    finish(&s, account->reclaimable, stats);
}
