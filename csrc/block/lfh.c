/* lfh.c - subsegments: carving, remote frees, and giving single pages back. */
#include "lfh.h"

#include "note.h"
#include "watch.h"

#include <string.h>

/* Atomic, because a thread that frees another's block reads carved without a lock. Busy blocks lie below it at any
 * moment, so an old value does no harm. */
static void set_carved(dmi_run *run, size_t blocks) {
    __atomic_store_n(&run->carved, (uint16_t)blocks, __ATOMIC_RELAXED);
}

void _dmi_lfh_init(dmi_run *run, unsigned bucket) {
    size_t size = _dmi_bucket_size[bucket];
    run->bucket = (uint8_t)bucket;
    run->block_size = (uint16_t)size;
    run->capacity = (uint16_t)(_dmi_run_size(run) / size);
    set_carved(run, 0);
    run->parked = 0;
    run->list = run->taken = run->second = 0;
    run->inverse = UINT64_MAX / size + 1 + ((size & (size - 1)) == 0);
    /* Only 31 bits, so that what a mark adds for the block's place does not carry into the upper half. */
    uint64_t base = (uintptr_t)_dmi_run_base(run);
    uint64_t low = (_dmi_secret.mark ^ base ^ (uintptr_t)run) * UINT64_C(0x9e3779b97f4a7c15) >> 33;
    run->origin = base * run->inverse - ((uint64_t)(uint32_t)(uintptr_t)run << 32 | low);
    run->place = DMI_PLACE_FULL;
    run->seen = 0;
    run->bias = 0;
    run->taken_count = 0;
    _dmi_lfh_set_head(run, NULL);
    atomic_store_explicit(&run->used, 0, memory_order_relaxed);
    atomic_store_explicit(&run->remote, 0, memory_order_relaxed);
}

/* The free list that slow paths may write: the taken one, or the run's own. */
static void *list_get(const dmi_run *run) {
    return run->flags & DMI_RUN_TAKEN ? _dmi_lfh_numbered(run, run->list) : _dmi_lfh_head(run);
}
static void list_set(dmi_run *run, void *head) {
    if (run->flags & DMI_RUN_TAKEN) run->list = _dmi_lfh_number(run, head);
    else _dmi_lfh_set_head(run, head);
}

bool _dmi_lfh_all_marked(const dmi_run *run) {
    const uint32_t half = (uint32_t)(uintptr_t)run;
    /* The uppermost bit tells a watched page. */
    const uint32_t counts =
        run->flags & DMI_RUN_WATCHED ? ~(uint32_t)(DMI_MARK_WATCHED >> 32) : UINT32_MAX;
    const char *block = _dmi_run_base(run);
    uint32_t differ = 0;
    if (run->parked == 0) {
        for (size_t i = 0; i < run->carved; i++, block += run->block_size)
            differ |= ((const dmi_half *)(const void *)block)[3] ^ half;
        return (differ & counts) == 0;
    }
    for (size_t i = 0; i < run->carved; i++, block += run->block_size)
        if (_dmi_lfh_usable(run, i)) differ |= ((const dmi_half *)(const void *)block)[3] ^ half;
    return (differ & counts) == 0;
}

#define CARVE_MORE ((size_t)32 << 10)

bool _dmi_lfh_carve(dmi_run *run, int *error) {
    *error = 0;
    if (run->carved == run->capacity) return false;
    size_t start = (size_t)run->carved * run->block_size;
    size_t end = (start + run->block_size + _dmi_page - 1) & ~(_dmi_page - 1);
    if (run->segment->space->mode == DMI_OS_STRICT) {
        /* Each commit is a system call in this mode, so commit a sixteenth of the run at once. */
        size_t step = _dmi_run_size(run) / 16;
        if (end < start + step) end = (start + step + _dmi_page - 1) & ~(_dmi_page - 1);
    }
    if (end > _dmi_run_size(run)) end = _dmi_run_size(run);
    /* Pages that are still committed from an earlier use cost nothing, and each one carved now saves a slow path. */
    size_t limit = end + CARVE_MORE < _dmi_run_size(run) ? end + CARVE_MORE : _dmi_run_size(run);
    while (end < limit && _dmi_page_usable(run->segment, run->first + (end >> _dmi_page_shift)))
        end += _dmi_page;
    size_t page = start >> _dmi_page_shift, stop = end >> _dmi_page_shift;
    *error = _dmi_pages_commit(run->segment, run->first + page, stop - page);
    if (*error) return false;
    size_t last = end / run->block_size;
    if (last > run->capacity) last = run->capacity;
    void *head = list_get(run);
    if (__builtin_expect(_dmi_watch_every(), 0)) _dmi_watch_carve(run, last);
    const bool watched = run->flags & DMI_RUN_WATCHED;
    /* Kept in locals, because the compiler must assume that a store to a link changes the descriptor. */
    const size_t size = run->block_size;
    char *begin = _dmi_lfh_block(run, run->carved), *block = _dmi_lfh_block(run, last);
    while (block > begin) {
        block -= size;
        if (__builtin_expect(watched, 0)) _dmi_link_set(run, block, head);
        else _dmi_link_set_as(run, block, head, 0);
        head = block;
    }
    set_carved(run, last);
    list_set(run, head);
    return true;
}

void _dmi_lfh_relink(dmi_run *run, const uint64_t pages[2]) {
    void *head = list_get(run);
    for (size_t i = run->carved; i-- > 0;) {
        size_t first, last;
        bool back = false;
        _dmi_lfh_pages_of(run, i, &first, &last);
        for (size_t p = first; p <= last; p++) back |= (pages[p / 64] >> (p % 64)) & 1;
        if (!back || !_dmi_lfh_usable(run, i)) continue;
        char *block = _dmi_lfh_block(run, i);
        _dmi_link_set(run, block, head);
        head = block;
        run->parked--;
    }
    list_set(run, head);
}

bool _dmi_lfh_unpark(dmi_run *run, int *error) {
    *error = 0;
    if (run->parked == 0) return false;
    size_t pages = ((size_t)run->carved * run->block_size + _dmi_page - 1) >> _dmi_page_shift;
    size_t page = 0;
    while (page < pages && _dmi_page_usable(run->segment, run->first + page)) page++;
    size_t block = (page << _dmi_page_shift) / run->block_size, first, last;
    _dmi_lfh_pages_of(run, block, &first, &last);
    /* The first and the last page of that block may be in use. Commit only from the first page that is not to the last
     * one that is not. */
    size_t from = first;
    while (_dmi_page_usable(run->segment, run->first + from)) from++;
    size_t to = last + 1;
    while (_dmi_page_usable(run->segment, run->first + to - 1)) to--;
    dmi_bits before[3] = {0, 0, 0};
    for (size_t p = from; p < to; p++)
        if (_dmi_page_usable(run->segment, run->first + p)) _dmi_bits_put(before, p, 1, true);
    *error = _dmi_pages_commit(run->segment, run->first + from, to - from);
    if (*error) return false;
    size_t low = (from << _dmi_page_shift) / run->block_size;
    size_t high = ((to << _dmi_page_shift) - 1) / run->block_size + 1;
    if (high > run->carved) high = run->carved;
    void *head = list_get(run);
    for (size_t i = high; i-- > low;) {
        bool was_parked = false;
        _dmi_lfh_pages_of(run, i, &first, &last);
        for (size_t p = first; p <= last; p++)
            if (p >= from && p < to && !_dmi_bits_get(before, p)) was_parked = true;
        if (!was_parked || !_dmi_lfh_usable(run, i)) continue;
        char *b = _dmi_lfh_block(run, i);
        _dmi_link_set(run, b, head);
        head = b;
        run->parked--;
    }
    list_set(run, head);
    return true;
}

/* ---- remote frees ----------------------------------------------------------------------------------- */

bool _dmi_lfh_push_remote(dmi_run *run, void *block, uint64_t flipped) {
    uint64_t old = atomic_load_explicit(&run->remote, memory_order_relaxed), new;
    do {
        _dmi_link_set_as(run, block, DMI_REMOTE_HEAD(old), flipped);
        new = (uintptr_t)block | (uint64_t)(DMI_REMOTE_COUNT(old) + 1) << 48 | DMI_REMOTE_PENDING;
    } while (!atomic_compare_exchange_weak_explicit(&run->remote, &old, new, memory_order_release,
                                                    memory_order_relaxed));
    return !(old & DMI_REMOTE_PENDING);
}

unsigned _dmi_lfh_collect_some(dmi_run *run, bool keep_pending) {
    uint64_t old = atomic_fetch_and_explicit(&run->remote, keep_pending ? DMI_REMOTE_PENDING : 0,
                                             memory_order_acquire);
    unsigned count = DMI_REMOTE_COUNT(old);
    if (count == 0) return 0;
    void *first = DMI_REMOTE_HEAD(old), *rest = list_get(run), *last = first;
    /* The blocks belong to this thread now, so each link can be checked. Their words are needed soon anyway. */
    void *taken = run->flags & DMI_RUN_TAKEN_CURRENT ? _dmi_lfh_numbered(run, run->taken) : NULL;
    bool gone = false;
    for (unsigned left = count;; left--) {
        if (!_dmi_lfh_is_block(run, last) || !_dmi_lfh_marked(run, last)) {
            _dmi_fault_note(DMI_NOTE_LINK, last);
            return 0;
        }
        /* The head block that was noted comes back from another thread. So it was handed out, and the operation
         * that could be in flight has ended. */
        gone |= last == taken;
        void *next = _dmi_link_get(run, last);
        if (left == 1 ? next != NULL : next == NULL) {
            _dmi_fault_note(DMI_NOTE_LINK, last);
            return 0;
        }
        if (!next) break;
        last = next;
    }
    if (gone) run->flags |= DMI_RUN_TAKEN_GONE;
    if (rest) _dmi_link_set(run, last, rest);
    list_set(run, first);
    if (run->flags & DMI_RUN_TAKEN) run->taken_count = (uint16_t)(run->taken_count + count);
    else
        atomic_store_explicit(
            &run->used, atomic_load_explicit(&run->used, memory_order_relaxed) - (int32_t)count,
            memory_order_relaxed);
    return count;
}

/* The links are read in address order when at least one block in so many is free. */
#define LINKS_FEW 16
/* How far to prefetch: about as many cache lines as a processor loads at a time. */
#define AHEAD 24 /* blocks */
#define PAGES_AHEAD 4

/* ---- which blocks and pages are free ------------------------------------------------------------------ */

/* A link as a number: the index of the next block, or one of these. */
#define LINK_END UINT16_C(0xffff)
#define LINK_BAD UINT16_C(0xfffe)

typedef struct dmi_links {
    const dmi_run *run;
    uint64_t mask, end_link; /* a link is next ^ mask ^ mark; in the last one, next is end_link */
    const char *memory;      /* the run's pages, or a copy of them */
    uintptr_t base;          /* their address in their own process */
    uint64_t
        inverse; /* 2^40 / size: divides by a multiplication, exact for offset < 2^19 and size < 2^16 */
    size_t size, end;
    bool whole; /* every carved block lies on usable pages */
} dmi_links;

static dmi_links links_of(const dmi_run *run, const dmi_link_code *code, const char *memory) {
    size_t size = run->block_size;
    return (dmi_links){.run = run,
                       .mask = code->secret,
                       .end_link = code->end,
                       .memory = memory,
                       .base = (uintptr_t)_dmi_run_base(run),
                       .inverse = (UINT64_C(1) << 40) / size + 1,
                       .size = size,
                       .end = run->carved * size,
                       .whole = run->parked == 0};
}

static dmi_link_code own_code(void) {
    return (dmi_link_code){_dmi_secret.link, (uintptr_t)_dmi_end};
}

static inline uint16_t number_of(const dmi_links *links, uint64_t block) {
    uint64_t offset = block - links->base, i = offset * links->inverse >> 40;
    if (block == links->end_link) return LINK_END;
    return offset < links->end && i * links->size == offset ? (uint16_t)i : LINK_BAD;
}

/* The index of the block that the block at this offset links to; word is its first word. */
static inline uint16_t behind(const dmi_links *links, size_t offset, uint64_t word) {
    uint64_t mark = (links->base + offset) * links->run->inverse - links->run->origin;
    return number_of(links, word ^ links->mask ^ mark);
}

/* Read the links of all carved blocks in address order. To follow a list in random order costs a cache miss for each
 * block. The words of busy blocks are read too, perhaps while they are written, and not used. */
__attribute__((no_sanitize("thread"), noinline)) static void read_links(const dmi_links *links,
                                                                        uint16_t *next) {
    const char *at = links->memory;
    size_t count = links->run->carved, size = links->size;
    for (size_t i = 0; i < count; i++, at += size) {
        __builtin_prefetch(at + AHEAD * size);
        next[i] =
            !links->whole && !_dmi_lfh_usable(links->run, i)
                ? LINK_BAD
                : behind(links, i * size, *(const volatile uint64_t *)(const volatile void *)at);
    }
}

/* Mark the blocks of a list in the map. next: the links that were read before, or NULL. *left: how many more may come. */
static bool mark_list(const dmi_links *links, void *head, const uint16_t *next, dmi_blockmap *map,
                      size_t *left, const void **bad) {
    const dmi_run *run = links->run;
    const void *holder = run;
    uint16_t i = head ? number_of(links, (uintptr_t)head) : LINK_END;
    while (i != LINK_END) {
        if (i == LINK_BAD || *left == 0 || _dmi_map_get(map, i) ||
            (!links->whole && !next && !_dmi_lfh_usable(run, i))) {
            if (bad) *bad = holder;
            return false;
        }
        map->word[i / 64] |= UINT64_C(1) << (i % 64);
        (*left)--;
        holder = _dmi_lfh_block(run, i);
        size_t offset = i * links->size;
        i = next ? next[i]
                 : behind(links, offset,
                          __atomic_load_n((const dmi_word *)(const void *)(links->memory + offset),
                                          __ATOMIC_RELAXED));
    }
    return true;
}

bool _dmi_lfh_free_map_in(const dmi_run *run, const dmi_link_code *code, const char *memory,
                          bool with_remote, dmi_blockmap *map, size_t *pinned, const void **bad) {
    size_t left = run->carved;
    uint16_t read[DMI_RUN_BLOCKS_MAX], *next = NULL;
    memset(map->word, 0, _dmi_bits_words(run->carved) * sizeof(uint64_t));
    uint64_t remote = atomic_load_explicit(&run->remote, memory_order_acquire);
    dmi_links links = links_of(run, code, memory);
    int64_t busy = _dmi_lfh_busy(run);
    if (run->carved - busy > run->carved / LINKS_FEW) {
        read_links(&links, read);
        next = read;
    }
    if (!mark_list(&links, list_get(run), next, map, &left, bad)) return false;
    if (with_remote && !mark_list(&links, DMI_REMOTE_HEAD(remote), next, map, &left, bad))
        return false;
    size_t pin = SIZE_MAX;
    if ((run->flags & (DMI_RUN_TAKEN_CURRENT | DMI_RUN_TAKEN_GONE)) == DMI_RUN_TAKEN_CURRENT &&
        run->taken)
        pin = run->taken - 1u;
    if (pinned) *pinned = pin;
    if (run->parked == 0) return true;
    size_t pages = ((size_t)run->carved * run->block_size + _dmi_page - 1) >> _dmi_page_shift;
    for (size_t p = 0; p < pages; p++) {
        if (_dmi_page_usable(run->segment, run->first + p)) continue;
        size_t from = (p << _dmi_page_shift) / run->block_size;
        size_t to = (((p + 1) << _dmi_page_shift) - 1) / run->block_size + 1;
        for (size_t i = from; i < to && i < run->carved; i++)
            map->word[i / 64] |= UINT64_C(1) << (i % 64);
    }
    return true;
}

bool _dmi_lfh_free_map(const dmi_run *run, bool with_remote, dmi_blockmap *map, size_t *pinned,
                       const void **bad) {
    dmi_link_code code = own_code();
    return _dmi_lfh_free_map_in(run, &code, _dmi_run_base(run), with_remote, map, pinned, bad);
}

__attribute__((no_sanitize("thread"))) bool _dmi_lfh_looks_free(const dmi_run *run,
                                                                const void *block) {
    dmi_link_code code = own_code();
    dmi_links links = links_of(run, &code, _dmi_run_base(run));
    uint64_t word = *(const volatile uint64_t *)block;
    return behind(&links, (size_t)((const char *)block - _dmi_run_base(run)), word) != LINK_BAD;
}

/* Are the blocks [from, to) of the map all free? */
static bool all_free(const dmi_blockmap *map, size_t from, size_t to) {
    for (size_t w = from / 64; from < to && w <= (to - 1) / 64; w++) {
        uint64_t mask = _dmi_bits_mask(w, from, to - from);
        if ((map->word[w] & mask) != mask) return false;
    }
    return true;
}

__attribute__((no_sanitize("thread"))) bool _dmi_lfh_may_free(const dmi_run *run) {
    dmi_link_code code = own_code();
    dmi_links links = links_of(run, &code, _dmi_run_base(run));
    size_t size = links.size, left = run->carved;
    for (size_t p = 0; p < run->pages; p++) {
        if (!_dmi_page_usable(run->segment, run->first + p)) continue;
        size_t i = (p << _dmi_page_shift) / size;
        size_t end = (((p + 1) << _dmi_page_shift) - 1) / size + 1;
        if (i >= left) return true; /* committed, and behind the carved blocks */
        if (end > left) end = left;
        __builtin_prefetch(links.memory + (p + PAGES_AHEAD) * _dmi_page);
        for (; i < end; i++) {
            if (!links.whole && !_dmi_lfh_usable(run, i)) continue;
            const volatile void *block = links.memory + i * size;
            if (behind(&links, i * size, *(const volatile uint64_t *)block) == LINK_BAD) break;
        }
        if (i == end) return true;
    }
    return false;
}

size_t _dmi_lfh_free_pages(const dmi_run *run, const dmi_blockmap *map, size_t pinned,
                           uint64_t pages[2]) {
    size_t n = 0;
    pages[0] = pages[1] = 0;
    for (size_t p = 0; p < run->pages; p++) {
        if (!_dmi_page_usable(run->segment, run->first + p)) continue;
        size_t from = (p << _dmi_page_shift) / run->block_size;
        size_t to = (((p + 1) << _dmi_page_shift) - 1) / run->block_size + 1;
        if (to > run->carved) to = run->carved;
        if (pinned >= from && pinned < to) continue;
        if (from < to && !all_free(map, from, to)) continue;
        pages[p / 64] |= UINT64_C(1) << (p % 64);
        n++;
    }
    return n;
}

static bool page_in(const uint64_t pages[2], size_t p) { return (pages[p / 64] >> (p % 64)) & 1; }

/* Must block i stay off the list, because it overlaps a page that goes or is gone? */
static bool stays_off(const dmi_run *run, size_t i, const uint64_t pages[2]) {
    size_t first, last;
    _dmi_lfh_pages_of(run, i, &first, &last);
    for (size_t p = first; p <= last; p++)
        if (page_in(pages, p) || !_dmi_page_usable(run->segment, run->first + p)) return true;
    return false;
}

void _dmi_lfh_park(dmi_run *run, const dmi_blockmap *map, size_t pinned, const uint64_t pages[2]) {
    while (run->carved && run->carved - 1u != pinned && _dmi_map_get(map, run->carved - 1u) &&
           stays_off(run, run->carved - 1u, pages))
        set_carved(run, run->carved - 1u);
    /* The list is built from its end. First come the blocks on pages with a busy byte, so that the next requests fill
     * those pages; each half is in the order of addresses. */
    uint64_t empty[2];
    (void)_dmi_lfh_free_pages(run, map, pinned, empty);
    void *head = NULL;
    size_t parked = 0;
    for (int half = 0; half < 2; half++) {
        for (size_t i = run->carved; i-- > 0;) {
            if (!_dmi_map_get(map, i) || i == pinned) continue;
            size_t first, last;
            _dmi_lfh_pages_of(run, i, &first, &last);
            bool on_empty = page_in(empty, first) && page_in(empty, last);
            if (on_empty != (half == 0)) continue;
            if (stays_off(run, i, pages)) {
                parked++;
                continue;
            }
            char *block = _dmi_lfh_block(run, i);
            _dmi_link_set(run, block, head);
            head = block;
        }
    }
    run->parked = (uint16_t)parked;
    list_set(run, head);
}

size_t _dmi_lfh_ghosts(const dmi_run *run) {
    size_t ghosts = 0, end = run->first + run->pages;
    for (size_t p = run->first; p < end;) {
        size_t from = _dmi_bits_find(run->segment->committed, p, end, false);
        if (from == end) break;
        size_t to = _dmi_bits_find(run->segment->committed, from, end, true);
        size_t low =
            (((from - run->first) << _dmi_page_shift) + run->block_size - 1) / run->block_size;
        size_t high = ((to - run->first) << _dmi_page_shift) / run->block_size;
        if (high > run->capacity) high = run->capacity;
        if (high > low) ghosts += high - low;
        p = to;
    }
    return ghosts;
}

/* As the number of the second block: the link that would tell it had been written over. */
#define SECOND_LOST UINT16_MAX

/* ---- take and repair ---------------------------------------------------------------------------------- */

/* The block that this one links to. The block may be handed out and written at this moment, so the caller uses the
 * result only if the head is still this block afterwards. The race is meant, hence no_sanitize. */
__attribute__((no_sanitize("thread"), noinline)) static void *peek(const dmi_run *run,
                                                                   const void *block) {
    uintptr_t word = (uintptr_t) * (const volatile uint64_t *)block;
    uintptr_t next = word ^ _dmi_lfh_mark(run, block) ^ (uintptr_t)_dmi_secret.link;
    return next == (uintptr_t)_dmi_end ? NULL : (void *)next;
}

void _dmi_lfh_take(dmi_run *run, bool current) {
    if (run->flags & DMI_RUN_TAKEN) return;
    void *head = atomic_load_explicit(&run->head, memory_order_acquire), *second = NULL;
    while (current && head != DMI_END) {
        second = _dmi_lfh_is_block(run, head) ? peek(run, head) : NULL;
        atomic_thread_fence(memory_order_acquire);
        void *again = atomic_load_explicit(&run->head, memory_order_acquire);
        if (again == head) break;
        head = again; /* the operation in flight ended just now, and no other can begin */
        second = NULL;
    }
    if (head == DMI_END) head = NULL;
    /* A link that leads to no block was overwritten. The list behind it is lost. */
    bool lost = second && !_dmi_lfh_is_block(run, second);
    if (lost) second = NULL;
    if (head && !_dmi_lfh_is_block(run, head)) head = NULL;
    run->taken = _dmi_lfh_number(run, head);
    run->second = lost ? SECOND_LOST : _dmi_lfh_number(run, second);
    run->taken_count = 0;
    /* The head block of a current run may be handed out at any moment: the taker's list begins behind it. */
    run->list = !current ? run->taken : lost ? 0 : run->second;
    run->flags = (uint8_t)(run->flags | DMI_RUN_TAKEN | (current ? DMI_RUN_TAKEN_CURRENT : 0));
}

void _dmi_lfh_repair(dmi_run *run) {
    if (!(run->flags & DMI_RUN_TAKEN)) return;
    bool current = run->flags & DMI_RUN_TAKEN_CURRENT;
    void *head = _dmi_lfh_head(run);
    void *taken = _dmi_lfh_numbered(run, run->taken);
    bool lost = run->second == SECOND_LOST;
    void *second = lost ? NULL : _dmi_lfh_numbered(run, run->second);
    void *list = _dmi_lfh_numbered(run, run->list);
    if (run->flags & DMI_RUN_TAKEN_GONE) {
        /* The head block was handed out, freed by another thread, and collected already. */
    } else if (head == taken) {
        /* Nothing was in flight. */
        if (current && head) {
            _dmi_link_set(run, head, list);
            list = head;
        }
    } else if (current && !lost && head == second) {
        /* The head block was handed out. */
    } else if (lost || !_dmi_lfh_is_block(run, head)) {
        /* The head block was handed out, and its link led to no block. Or the link was overwritten while the operation
         * was in flight: then nobody can tell whether the head block was handed out or another block came back, and
         * to list it could hand it out twice. */
        _dmi_fault_note(DMI_NOTE_LINK, taken);
    } else {
        /* A free was in flight: its block is the head now. The link in it is out of date. */
        if (current && taken) {
            _dmi_link_set(run, taken, list);
            list = taken;
        }
        _dmi_link_set(run, head, list);
        list = head;
    }
    run->flags &= (uint8_t) ~(DMI_RUN_TAKEN | DMI_RUN_TAKEN_CURRENT | DMI_RUN_TAKEN_GONE);
    _dmi_lfh_set_head(run, list);
    atomic_store_explicit(&run->used,
                          atomic_load_explicit(&run->used, memory_order_relaxed) - run->taken_count,
                          memory_order_relaxed);
    run->taken_count = 0;
    run->list = run->taken = run->second = 0;
}
