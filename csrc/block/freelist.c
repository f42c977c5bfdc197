/* freelist.c - blocks of any size with boundary tags. */
#include "freelist.h"

#include "note.h"
#include "secret.h"

#include <string.h>

#define LINKS sizeof(dmi_free_block)
#define MIN_UNITS 2 /* 32 bytes: a tag, two links, 8 bytes to spare */

void _dmi_freelist_init(dmi_freelist *list, dmi_space *space) {
    memset(list, 0, sizeof *list);
    list->space = space;
    _dmi_secret_setup();
}

/* ---- tags --------------------------------------------------------------------------------------- */

static uint16_t checksum_at(const dmi_tag *tag, uint64_t key, uint64_t address) {
    uint64_t h = key ^ address;
    h ^= (uint64_t)tag->size | (uint64_t)tag->before << 16 | (uint64_t)tag->flags << 32;
    h *= UINT64_C(0x9e3779b97f4a7c15);
    return (uint16_t)(h >> 48);
}
static uint16_t checksum(const dmi_tag *tag) {
    return checksum_at(tag, _dmi_secret.tag, (uintptr_t)tag);
}

static void seal(dmi_tag *tag, size_t size, size_t before, unsigned flags) {
    tag->size = (uint16_t)size;
    tag->before = (uint16_t)before;
    tag->flags = (uint16_t)flags;
    tag->check = checksum(tag);
}

/* Clear a tag whose block became part of another, so that what is left there never reads as a block. */
static void unseal(dmi_tag *tag) { memset(tag, 0, sizeof *tag); }

bool _dmi_tag_sound(const dmi_tag *tag) {
    return tag->check == checksum(tag) && tag->size >= MIN_UNITS;
}

bool _dmi_tag_sound_at(const dmi_tag *tag, uint64_t key, uint64_t address) {
    return tag->check == checksum_at(tag, key, address) && tag->size >= MIN_UNITS;
}

static dmi_tag *tag_at(const void *p) { return (dmi_tag *)(uintptr_t)p; }
static char *block_end(const dmi_tag *tag) { return (char *)(uintptr_t)tag + _dmi_tag_bytes(tag); }
static dmi_tag *after(const dmi_tag *tag) {
    return tag->flags & DMI_TAG_LAST ? NULL : tag_at(block_end(tag));
}
static dmi_tag *before(const dmi_tag *tag) {
    return tag->before ? tag_at((const char *)tag - (size_t)tag->before * 16) : NULL;
}

dmi_tag *_dmi_region_first(const dmi_run *run) { return tag_at(_dmi_run_base(run) + 8); }

dmi_tag *_dmi_region_next(const dmi_run *run, dmi_tag *tag) {
    (void)run;
    return after(tag);
}

static size_t page_index(const dmi_run *run, const void *p) {
    return (size_t)((const char *)p - run->segment->base) >> _dmi_page_shift;
}

/* Read a tag at p by one load. A caller's data may lie there and change at this moment: only the copy is judged. */
__attribute__((no_sanitize("thread"), noinline)) static dmi_tag peek(const char *p) {
    union {
        uint64_t word;
        dmi_tag tag;
    } seen = {.word = *(const volatile uint64_t *)(const volatile void *)p};
    return seen.tag;
}

/* Does a sound tag lie at p, in bounds and on a page that may be read? */
static bool tag_here(const dmi_run *run, const char *p, dmi_tag *tag) {
    const char *base = _dmi_run_base(run);
    if (p < base + 8 || p >= base + _dmi_run_size(run) - 8 ||
        !_dmi_page_usable(run->segment, page_index(run, p)))
        return false;
    *tag = peek(p);
    return _dmi_tag_sound_at(tag, _dmi_secret.tag, (uintptr_t)p);
}

/* Do the blocks on both sides of a sound tag agree with it? One in 65,536 words of user data passes as a sound tag;
 * with both neighbours it is one in 2^48. */
static bool neighbours_agree(const dmi_run *run, const char *at, const dmi_tag *tag) {
    const char *base = _dmi_run_base(run), *end = at + _dmi_tag_bytes(tag);
    const char *left = at - (size_t)tag->before * 16;
    dmi_tag other;
    if (tag->before ? !tag_here(run, left, &other) || other.size != tag->before : at != base + 8)
        return false;
    if (tag->flags & DMI_TAG_LAST) return end == base + _dmi_run_size(run) - 8;
    return tag_here(run, end, &other) && other.before == tag->size;
}

/* ---- bins ----------------------------------------------------------------------------------------- */

static size_t bin_of(size_t units) {
    if (units < 64) return units;
    unsigned log = 63 - (unsigned)__builtin_clzll(units);
    return 64 + (log - 6) * 8 + ((units >> (log - 3)) & 7);
}

/* A link is encoded with its own address, so that a copy of it elsewhere leads nowhere. */
static uint64_t code_of(const uint64_t *place) {
    return _dmi_secret.list ^ (uint64_t)(uintptr_t)place * UINT64_C(0x9e3779b97f4a7c15);
}
static dmi_free_block *link_at(const uint64_t *place) {
    return (dmi_free_block *)(uintptr_t)(*place ^ code_of(place));
}
static void set_link(uint64_t *place, const dmi_free_block *to) {
    *place = (uintptr_t)to ^ code_of(place);
}

dmi_free_block *_dmi_free_next(const dmi_free_block *block) { return link_at(&block->next); }
dmi_free_block *_dmi_free_prev(const dmi_free_block *block) { return link_at(&block->prev); }

/* Does a free block of this list begin here? Asks its tag, not its neighbours. */
static bool is_free(const dmi_freelist *list, const dmi_free_block *block) {
    const char *at = (const char *)block;
    const dmi_run *run = _dmi_pagemap_find(at);
    if ((uintptr_t)at % 16 != 8 || run->kind != DMI_RUN_LIST || run->segment->space != list->space)
        return false;
    if (at < _dmi_run_base(run) || at + LINKS > _dmi_run_base(run) + _dmi_run_size(run) ||
        !_dmi_page_usable(run->segment, page_index(run, at)) ||
        !_dmi_page_usable(run->segment, page_index(run, at + LINKS - 1)))
        return false;
    return _dmi_tag_sound(&block->tag) && !(block->tag.flags & DMI_TAG_BUSY);
}

bool _dmi_free_listed(const dmi_freelist *list, const dmi_free_block *block) {
    if (!is_free(list, block)) return false;
    const dmi_free_block *next = _dmi_free_next(block), *prev = _dmi_free_prev(block);
    if (next && (!is_free(list, next) || _dmi_free_prev(next) != block)) return false;
    if (prev) return is_free(list, prev) && _dmi_free_next(prev) == block;
    return list->bins[bin_of(block->tag.size)] == block;
}

static void bin_insert(dmi_freelist *list, dmi_tag *tag) {
    dmi_free_block *block = (dmi_free_block *)(void *)tag;
    size_t bin = bin_of(tag->size);
    dmi_free_block *next = list->bins[bin];
    if (next && !is_free(list, next)) { /* the bin is damaged: do not write a link there */
        _dmi_fault_note(DMI_NOTE_TAG, next);
        next = NULL;
    }
    set_link(&block->prev, NULL);
    set_link(&block->next, next);
    if (next) set_link(&next->prev, block);
    list->bins[bin] = block;
    list->bin_map[bin / 64] |= UINT64_C(1) << (bin % 64);
    list->free_bytes += _dmi_tag_bytes(tag);
}

/* Take a block out of its bin. False: its links are damaged; nothing changed. */
static bool bin_remove(dmi_freelist *list, dmi_tag *tag) {
    dmi_free_block *block = (dmi_free_block *)(void *)tag;
    if (!_dmi_free_listed(list, block)) {
        _dmi_fault_note(DMI_NOTE_TAG, block);
        return false;
    }
    size_t bin = bin_of(tag->size);
    dmi_free_block *next = _dmi_free_next(block), *prev = _dmi_free_prev(block);
    if (prev) set_link(&prev->next, next);
    else list->bins[bin] = next;
    if (next) set_link(&next->prev, prev);
    if (!list->bins[bin]) list->bin_map[bin / 64] &= ~(UINT64_C(1) << (bin % 64));
    list->free_bytes -= _dmi_tag_bytes(tag);
    block->next = block->prev = 0;
    return true;
}

/* Empty a bin in which damage was found: the blocks behind it cannot be reached any more. */
static void bin_drop(dmi_freelist *list, size_t bin, const void *damaged) {
    _dmi_fault_note(DMI_NOTE_TAG, damaged);
    list->bins[bin] = NULL;
    list->bin_map[bin / 64] &= ~(UINT64_C(1) << (bin % 64));
}

/* Take a neighbour out of its bin if it can be joined. False: it is busy or damaged; nothing changed. */
static bool detach(dmi_freelist *list, const dmi_run *run, dmi_tag *tag) {
    if (tag->flags & DMI_TAG_BUSY) return false;
    if (!_dmi_tag_sound(tag) || !neighbours_agree(run, (const char *)tag, tag)) {
        _dmi_fault_note(DMI_NOTE_TAG, tag);
        return false;
    }
    return bin_remove(list, tag);
}

/* Units to leave free in front so that the payload is aligned: 0, or at least MIN_UNITS for a block of their own. */
static size_t skip_for(const dmi_tag *tag, size_t align) {
    size_t skip = (size_t)(-((uintptr_t)tag + DMI_LIST_TAG) & (align - 1)) / 16;
    while (skip && skip < MIN_UNITS) skip += align / 16;
    return skip;
}

static dmi_tag *bin_search(dmi_freelist *list, size_t units, size_t align) {
    for (size_t bin = bin_of(units); bin < DMI_LIST_BINS; bin++) {
        uint64_t word = list->bin_map[bin / 64] >> (bin % 64);
        if (!word) {
            bin = bin / 64 * 64 + 63;
            continue;
        }
        bin += (size_t)__builtin_ctzll(word);
        if (bin >= DMI_LIST_BINS) break;
        dmi_tag *best = NULL;
        int looked = 0;
        for (dmi_free_block *b = list->bins[bin]; b && looked < 32;
             b = _dmi_free_next(b), looked++) {
            if (!is_free(list, b)) {
                bin_drop(list, bin, b);
                best = NULL;
                break;
            }
            if (b->tag.size < units + skip_for(&b->tag, align)) continue;
            if (!best || b->tag.size < best->size) best = &b->tag;
        }
        if (best) return best;
    }
    return NULL;
}

/* ---- pages ---------------------------------------------------------------------------------------- */

/* Commit the pages under [from, to). */
static bool commit(dmi_run *run, const void *from, const void *to) {
    size_t first = page_index(run, from), last = page_index(run, (const char *)to - 1);
    return _dmi_pages_commit(run->segment, first, last - first + 1) == 0;
}

size_t _dmi_tag_free_pages(const dmi_run *run, const dmi_tag *tag, size_t *first) {
    char *base = run->segment->base;
    size_t from =
        (size_t)((const char *)tag + LINKS - base + (ptrdiff_t)_dmi_page - 1) >> _dmi_page_shift;
    /* The page with the gap at the end of the region may go with the last block. */
    const char *end = tag->flags & DMI_TAG_LAST ? block_end(tag) + 8 : block_end(tag);
    size_t to = (size_t)(end - base) >> _dmi_page_shift;
    *first = from;
    return to > from ? to - from : 0;
}

/* ---- regions ---------------------------------------------------------------------------------------- */

/* Make a region of one free block, with `units` units and the tag and links behind them committed. One commit covers
 * all that the first request needs, so that it cannot fail later and leave an empty region. */
static dmi_tag *region_create(dmi_freelist *list, size_t units) {
    size_t bytes = 8 + units * 16 + LINKS, whole = _dmi_pages(DMI_LIST_REGION) << _dmi_page_shift;
    if (units > (whole - 16) / 16) return NULL;
    dmi_run *run =
        _dmi_run_alloc(list->space, _dmi_pages(DMI_LIST_REGION), 1, DMI_RUN_LIST, false, NULL);
    if (!run) return NULL;
    char *base = _dmi_run_base(run);
    if (!commit(run, base, base + (bytes < whole ? bytes : whole))) {
        (void)_dmi_run_free(list->space, run);
        return NULL;
    }
    dmi_tag *tag = tag_at(base + 8);
    run->blocks = 1;
    run->busy_bytes = 0;
    atomic_store_explicit(&run->used, 0, memory_order_relaxed);
    seal(tag, (whole - 16) / 16, 0, DMI_TAG_LAST);
    bin_insert(list, tag);
    return tag;
}

size_t _dmi_freelist_units(size_t size) {
    size_t units = (size + DMI_LIST_TAG + 15) / 16;
    return units < MIN_UNITS ? MIN_UNITS : units;
}

/* Shorten a block to `units`, and make the rest a free block, joined with a free one behind it. The pages of the new
 * tag and its links are committed. */
static void cut_tail(dmi_freelist *list, dmi_run *run, dmi_tag *tag, size_t units) {
    size_t rest = tag->size - units;
    if (rest < MIN_UNITS) return;
    unsigned last = tag->flags & DMI_TAG_LAST;
    dmi_tag *next = after(tag);
    dmi_tag *tail = tag_at((char *)tag + units * 16);
    if (next && detach(list, run, next)) {
        rest += next->size;
        last = next->flags & DMI_TAG_LAST;
        dmi_tag *merged = next;
        next = after(next);
        unseal(merged);
        run->blocks--;
    }
    seal(tag, units, tag->before, tag->flags & ~DMI_TAG_LAST);
    seal(tail, rest, units, last);
    if (next) seal(next, next->size, rest, next->flags);
    bin_insert(list, tail);
    run->blocks++;
}

static void count_busy(dmi_run *run, int32_t blocks, int64_t bytes) {
    atomic_store_explicit(&run->used,
                          atomic_load_explicit(&run->used, memory_order_relaxed) + blocks,
                          memory_order_relaxed);
    run->busy_bytes += (uint64_t)bytes;
}

static int64_t payload(const dmi_tag *tag) { return (int64_t)(_dmi_tag_bytes(tag) - DMI_LIST_TAG); }

void *_dmi_freelist_alloc(dmi_freelist *list, size_t size, size_t align) {
    size_t units = _dmi_freelist_units(size);
    dmi_tag *tag = bin_search(list, units, align);
    for (; tag; tag = bin_search(list, units, align)) {
        const dmi_free_block *block = (const dmi_free_block *)(void *)tag;
        if (_dmi_free_listed(list, block) &&
            neighbours_agree(_dmi_pagemap_get(tag), (const char *)tag, tag))
            break;
        bin_drop(list, bin_of(tag->size), tag);
    }
    if (!tag) {
        /* Each region begins at a page, so how much to skip is the same in every region. */
        tag = region_create(list, units + skip_for(tag_at((void *)(_dmi_page + 8)), align));
        if (!tag) return NULL;
    }
    dmi_run *run = _dmi_pagemap_get(tag);
    size_t skip = skip_for(tag, align);
    char *start = (char *)tag + skip * 16, *end = start + units * 16;
    size_t rest = tag->size - skip - units;
    if (!commit(run, start, rest >= MIN_UNITS ? end + LINKS : block_end(tag))) return NULL;
    (void)bin_remove(list, tag);
    if (skip) {
        dmi_tag *front = tag;
        dmi_tag *next = after(front);
        tag = tag_at(start);
        seal(tag, front->size - skip, skip, front->flags);
        if (next) seal(next, next->size, tag->size, next->flags);
        seal(front, skip, front->before, front->flags & ~DMI_TAG_LAST);
        bin_insert(list, front);
        run->blocks++;
    }
    cut_tail(list, run, tag, units);
    seal(tag, tag->size, tag->before, tag->flags | DMI_TAG_BUSY);
    count_busy(run, 1, payload(tag));
    return (char *)tag + DMI_LIST_TAG;
}

dmi_tag *_dmi_freelist_free(dmi_freelist *list, dmi_run *run, void *p, dmi_run **freed) {
    dmi_tag *tag = tag_at((char *)p - DMI_LIST_TAG);
    count_busy(run, -1, -payload(tag));
    dmi_tag *left = before(tag), *right = after(tag);
    size_t units = tag->size;
    unsigned last = tag->flags & DMI_TAG_LAST;
    /* Judge both neighbours before either tag changes, since they are checked against each other. */
    bool with_left = left && detach(list, run, left),
         with_right = right && detach(list, run, right);
    if (with_left) {
        units += left->size;
        unseal(tag);
        tag = left;
        run->blocks--;
    }
    if (with_right) {
        units += right->size;
        last = right->flags & DMI_TAG_LAST;
        dmi_tag *merged = right;
        right = after(right);
        unseal(merged);
        run->blocks--;
    }
    seal(tag, units, tag->before, last);
    if (right) seal(right, right->size, units, right->flags);
    if (run->blocks == 1) {
        unseal(tag);
        *freed = _dmi_run_free(list->space, run);
        return NULL;
    }
    bin_insert(list, tag);
    return tag;
}

bool _dmi_freelist_resize(dmi_freelist *list, dmi_run *run, void *p, size_t size) {
    dmi_tag *tag = tag_at((char *)p - DMI_LIST_TAG);
    size_t units = _dmi_freelist_units(size);
    int64_t old = payload(tag);
    if (units > tag->size) {
        dmi_tag *right = after(tag);
        if (!right || (right->flags & DMI_TAG_BUSY) || tag->size + right->size < units)
            return false;
        size_t all = tag->size + right->size;
        char *end = (char *)tag + units * 16;
        if (!commit(run, right, all - units >= MIN_UNITS ? end + LINKS : block_end(right)))
            return false;
        unsigned last = right->flags & DMI_TAG_LAST;
        dmi_tag *next = after(right);
        if (!detach(list, run, right)) return false;
        unseal(right);
        run->blocks--;
        seal(tag, all, tag->before, DMI_TAG_BUSY | last);
        if (next) seal(next, next->size, all, next->flags);
    } else if (tag->size - units < MIN_UNITS) {
        return true;
    }
    cut_tail(list, run, tag, units);
    count_busy(run, 0, payload(tag) - old);
    return true;
}

size_t _dmi_freelist_usable(const void *p) {
    return (size_t)payload(tag_at((const char *)p - DMI_LIST_TAG));
}

dmi_list_state _dmi_freelist_check(const dmi_run *run, const void *p) {
    const char *asked = (const char *)p - DMI_LIST_TAG;
    dmi_tag seen;
    if ((uintptr_t)p % 16 == 0 && tag_here(run, asked, &seen) &&
        neighbours_agree(run, asked, &seen))
        return seen.flags & DMI_TAG_BUSY ? DMI_LIST_BUSY : DMI_LIST_FREE;
    for (dmi_tag *tag = _dmi_region_first(run); tag; tag = after(tag)) {
        if (!_dmi_tag_sound(tag)) return DMI_LIST_CORRUPT;
        if ((const char *)tag ==
            asked) { /* the tags before it are sound: only it or the one behind can be damaged */
            if (!neighbours_agree(run, asked, tag)) return DMI_LIST_CORRUPT;
            return tag->flags & DMI_TAG_BUSY ? DMI_LIST_BUSY : DMI_LIST_FREE;
        }
        if ((uintptr_t)p < (uintptr_t)block_end(tag))
            return tag->flags & DMI_TAG_BUSY ? DMI_LIST_INTERIOR : DMI_LIST_FREE;
    }
    return DMI_LIST_INTERIOR;
}

/* How far to look back for a tag before the region is walked from its start. */
#define LOOK_BACK 4096

const dmi_tag *_dmi_freelist_holding(const dmi_run *run, const void *address) {
    const char *base = _dmi_run_base(run), *at = address;
    size_t offset = (size_t)(at - base);
    if (offset >= 8 && offset < _dmi_run_size(run) - 8) {
        const char *p = base + ((offset - 8) & ~(size_t)15) + 8;
        dmi_tag seen;
        for (; p >= base + 8 && at - p < LOOK_BACK; p -= 16)
            if (tag_here(run, p, &seen) && neighbours_agree(run, p, &seen))
                return at < p + _dmi_tag_bytes(&seen) ? tag_at(p) : NULL;
    }
    for (dmi_tag *tag = _dmi_region_first(run); tag && _dmi_tag_sound(tag); tag = after(tag))
        if (at < block_end(tag)) return at < (const char *)tag ? NULL : tag;
    return NULL;
}
