/* account.c - what each byte of a run is. On an uncommitted or offered page it counts as that; on any other page it
 * counts as what it belongs to. */
#include "account.h"

#include <string.h>

dmi_reason _dmi_reason(const dmi_policy *policy, unsigned kind, uint64_t bytes) {
    const dmi_policy_row *row = _dmi_policy_row(policy);
    return row->reason_of ? row->reason_of(policy, kind, bytes) : row->reason;
}

/* Usable pages (committed, not offered) of [first, first+count). */
static size_t usable_pages(const dmi_segment *segment, size_t first, size_t count) {
    return _dmi_bits_count(segment->committed, first, count) -
           _dmi_bits_count(segment->offered, first, count);
}

/* Bytes of [from, to), offsets in the run, that lie on usable pages. */
static size_t usable_bytes(const dmi_run *run, size_t from, size_t to) {
    size_t bytes = 0;
    while (from < to) {
        size_t page = from >> _dmi_page_shift, end = (page + 1) << _dmi_page_shift;
        if (end > to) end = to;
        if (_dmi_page_usable(run->segment, run->first + page)) bytes += end - from;
        from = end;
    }
    return bytes;
}

static size_t refused_pages(const dmi_run *run) {
    return _dmi_bits_count(run->segment->refused, run->first, run->pages);
}

static size_t deferred_pages(const dmi_run *run) {
    return run->segment->units ? _dmi_bits_count(run->segment->deferred, run->first, run->pages)
                               : 0;
}

static void lfh_detail(const dmi_run *run, dmi_account *out, size_t tail_from) {
    dmi_blockmap map;
    size_t pinned = SIZE_MAX;
    uint64_t pages[2], without[2];
    const void *bad;
    if (!_dmi_lfh_free_map(run, true, &map, &pinned, &bad)) {
        out->page_bound = out->busy;
        return;
    }
    size_t n = _dmi_lfh_free_pages(run, &map, pinned, pages);
    size_t all = n;
    if (pinned != SIZE_MAX) {
        map.word[pinned / 64] |= UINT64_C(1) << (pinned % 64);
        all = _dmi_lfh_free_pages(run, &map, SIZE_MAX, without);
    } else {
        memcpy(without, pages, sizeof pages);
    }
    memcpy(out->pages, pages, sizeof pages);
    size_t usable = usable_pages(run->segment, run->first, run->pages);
    out->page_bound = (uint64_t)(usable - all) << _dmi_page_shift;
    out->reclaimable = (uint64_t)n << _dmi_page_shift;
    out->in_flight = (uint64_t)(all - n) << _dmi_page_shift;
    /* The tail behind the last block is overhead, so it is never reclaimable or in flight. */
    for (size_t p = tail_from >> _dmi_page_shift; p < run->pages; p++) {
        size_t start = p << _dmi_page_shift, end = start + _dmi_page;
        size_t tail = end - (start > tail_from ? start : tail_from);
        if ((pages[p / 64] >> (p % 64)) & 1) out->reclaimable -= tail;
        else if ((without[p / 64] >> (p % 64)) & 1) out->in_flight -= tail;
    }
}

static void account_lfh(const dmi_heap *heap, const dmi_run *run, bool detail, uint64_t usable,
                        dmi_account *out) {
    size_t blocks = (size_t)run->capacity * run->block_size, size = _dmi_run_size(run);
    int64_t count = (int64_t)_dmi_lfh_busy(run) - run->taken_count -
                    DMI_REMOTE_COUNT(atomic_load_explicit(&run->remote, memory_order_relaxed));
    if (count < 0) count = 0;
    if (count > run->capacity) count = run->capacity;
    uint64_t tail = usable_bytes(run, blocks, size);
    uint64_t busy = (uint64_t)count * run->block_size;
    if (busy > usable - tail) busy = usable - tail; /* the owner may change it while it is read */
    uint64_t canaries = (uint64_t)count * heap->tail;
    if (canaries > busy) canaries = busy;
    out->busy += busy - canaries;
    out->busy_blocks += (uint64_t)count;
    out->overhead += tail + canaries;
    out->free_lfh += usable - tail - busy;
    size_t ghosts = usable == size ? 0 : _dmi_lfh_ghosts(run);
    uint64_t listed = (uint64_t)run->capacity - (uint64_t)count - ghosts;
    if (listed <= run->capacity) out->list_length += listed;
    if (detail) {
        lfh_detail(run, out, blocks);
        if (out->reclaimable > out->free_lfh) out->reclaimable = out->free_lfh;
        if (out->in_flight > out->free_lfh - out->reclaimable)
            out->in_flight = out->free_lfh - out->reclaimable;
    }
}

static void list_detail(const dmi_run *run, size_t tail, dmi_account *out) {
    char *base = _dmi_run_base(run);
    size_t marked = SIZE_MAX, bound = 0;
    for (dmi_tag *tag = _dmi_region_first(run); tag; tag = _dmi_region_next(run, tag)) {
        if (!_dmi_tag_sound(tag)) return;
        if (tag->flags & DMI_TAG_BUSY) {
            size_t from = (size_t)((char *)tag + DMI_LIST_TAG - base) >> _dmi_page_shift;
            size_t to =
                (size_t)((char *)tag + _dmi_tag_bytes(tag) - tail - 1 - base) >> _dmi_page_shift;
            bound += to - from + (from != marked);
            marked = to;
            continue;
        }
        size_t first, n = _dmi_tag_free_pages(run, tag, &first);
        if (!n) continue;
        uint64_t bytes = (uint64_t)usable_pages(run->segment, first, n) << _dmi_page_shift;
        /* The closing gap of the region is overhead. */
        if (bytes && tag->flags & DMI_TAG_LAST &&
            _dmi_page_usable(run->segment, run->first + run->pages - 1u))
            bytes -= 8;
        out->reclaimable += bytes;
    }
    out->page_bound = (uint64_t)bound << _dmi_page_shift;
}

static void account_list(const dmi_heap *heap, const dmi_run *run, bool detail, uint64_t usable,
                         dmi_account *out) {
    uint64_t blocks = (uint64_t)run->blocks;
    uint64_t count = (uint64_t)atomic_load_explicit(&run->used, memory_order_relaxed);
    uint64_t busy = run->busy_bytes - count * heap->tail;
    uint64_t overhead = blocks * DMI_LIST_TAG + count * heap->tail + 8;
    if (_dmi_page_usable(run->segment, run->first + run->pages - 1u)) overhead += 8;
    out->busy_blocks += count;
    out->busy += busy;
    out->overhead += overhead;
    out->free_list += usable - busy - overhead;
    out->list_length += blocks - count;
    if (detail) list_detail(run, heap->tail, out);
}

/* Add what the pages are, and return the usable bytes. Each bit is read once, because the bits of pages that were free a
 * moment ago may change meanwhile. */
static uint64_t account_pages(const dmi_segment *segment, size_t first, size_t pages,
                              dmi_account *out) {
    size_t missing = 0, offered = 0;
    for (size_t w = first / 64; pages && w <= (first + pages - 1) / 64; w++) {
        uint64_t mask = _dmi_bits_mask(w, first, pages);
        uint64_t is = mask & atomic_load_explicit(&segment->committed[w], memory_order_relaxed);
        uint64_t given = is & atomic_load_explicit(&segment->offered[w], memory_order_relaxed);
        /* Most runs are committed as a whole. Then the count, which is a function call in portable code, is saved. */
        if (is != mask) missing += (size_t)__builtin_popcountll(mask & ~is);
        if (given) offered += (size_t)__builtin_popcountll(given);
    }
    out->bytes += (uint64_t)pages << _dmi_page_shift;
    out->uncommitted += (uint64_t)missing << _dmi_page_shift;
    out->offered += (uint64_t)offered << _dmi_page_shift;
    return (uint64_t)(pages - missing - offered) << _dmi_page_shift;
}

void _dmi_account_free(const dmi_segment *segment, size_t first, size_t pages, dmi_account *out) {
    memset(out, 0, sizeof *out);
    out->free_pages = out->reclaimable = account_pages(segment, first, pages, out);
    out->list_length = out->free_pages != 0 || out->offered != 0;
}

static void add_run(const dmi_heap *heap, const dmi_run *run, bool detail, dmi_account *out) {
    const dmi_segment *segment = run->segment;
    uint64_t offered = out->offered;
    uint64_t usable = account_pages(segment, run->first, run->pages, out);
    if (segment->space->mode == DMI_OS_STRICT && segment->soft)
        out->soft += (uint64_t)_dmi_bits_count(segment->soft, run->first, run->pages)
                     << _dmi_page_shift;
    switch (run->kind) {
    case DMI_RUN_LFH: account_lfh(heap, run, detail, usable, out); break;
    case DMI_RUN_LIST: account_list(heap, run, detail, usable, out); break;
    case DMI_RUN_GUARDED: {
        uint64_t busy = run->flags & DMI_RUN_KEPT ? 0 : run->block_size;
        if (busy > usable) busy = usable;
        out->busy += busy;
        out->overhead += usable - busy;
        out->busy_blocks += busy != 0;
        if (detail && busy) {
            size_t from = (size_t)run->capacity * 16;
            size_t pages = _dmi_pages(from + busy) - (from >> _dmi_page_shift);
            out->page_bound = (uint64_t)pages << _dmi_page_shift;
        }
        break;
    }
    case DMI_RUN_LARGE:
        out->busy += _dmi_run_size(run) - heap->tail;
        out->overhead += heap->tail;
        out->busy_blocks++;
        if (detail)
            out->page_bound = (uint64_t)_dmi_pages(_dmi_run_size(run) - heap->tail)
                              << _dmi_page_shift;
        break;
    default:
        out->free_pages += usable;
        out->list_length += usable != 0 || out->offered != offered;
        if (detail) out->reclaimable = usable;
        break;
    }
}

void _dmi_account_add(const dmi_heap *heap, const dmi_run *run, dmi_account *sum) {
    add_run(heap, run, false, sum);
}

void _dmi_account_run(const dmi_heap *heap, const dmi_run *run, dmi_account *out) {
    memset(out, 0, sizeof *out);
    add_run(heap, run, true, out);
    out->refused = (uint64_t)refused_pages(run) << _dmi_page_shift;
    if (out->refused > out->reclaimable) out->refused = out->reclaimable;
    out->deferred = (uint64_t)deferred_pages(run) << _dmi_page_shift;
    if (out->deferred > out->reclaimable - out->refused)
        out->deferred = out->reclaimable - out->refused;
}

void _dmi_account_virtual(const dmi_heap *heap, const dmi_run *run, dmi_account *out) {
    memset(out, 0, sizeof *out);
    out->bytes = run->segment->size;
    if (!(run->flags & DMI_RUN_KEPT)) {
        out->busy = out->bytes - heap->tail;
        out->overhead = heap->tail;
        out->busy_blocks = 1;
        out->page_bound = (uint64_t)_dmi_pages(out->busy) << _dmi_page_shift;
    } else if (run->segment->has_given_at) {
        out->offered = out->bytes;
        out->list_length = 1;
    } else {
        out->free_pages = out->reclaimable = out->bytes;
        out->list_length = 1;
    }
}
