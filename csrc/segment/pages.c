/* pages.c - committing and giving back single pages of a segment; the ledger of both. */
#include "../os/lock.h"
#include "segment.h"

#include <errno.h>
#include <string.h>

size_t _dmi_page;
unsigned _dmi_page_shift;

static void add(_Atomic uint64_t *counter, uint64_t n) {
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

uint64_t _dmi_space_clock(dmi_space *space) {
    if (space->manual) return atomic_load_explicit(&space->now, memory_order_relaxed);
    uint64_t now = _dmi_os_clock();
    atomic_store_explicit(&space->now, now, memory_order_relaxed);
    return now;
}

/* A time as given_at has it. */
static uint32_t sixteenths(uint64_t ns) {
    uint32_t at = (uint32_t)(ns / 62500000);
    return at ? at : 1;
}

/* Ledger of pages that become committed: first time, again, or again within a second. */
static void note_commit(dmi_segment *segment, size_t first, size_t count) {
    dmi_ledger *ledger = &segment->space->ledger;
    size_t again = _dmi_bits_count(segment->touched, first, count);
    size_t fresh = count - again;
    if (fresh) {
        add(&ledger->commit_calls, 1);
        add(&ledger->commit_bytes, fresh << _dmi_page_shift);
        _dmi_bits_put(segment->touched, first, count, true);
    }
    if (!again) return;
    add(&ledger->recommit_calls, 1);
    add(&ledger->recommit_bytes, again << _dmi_page_shift);
    if (!segment->has_given_at) return;
    size_t churn = 0;
    uint32_t now = sixteenths(_dmi_space_clock(segment->space));
    for (size_t i = first; i < first + count; i++) {
        uint32_t at = segment->given_at[i]; /* 0: never */
        if (at && now - at <= 16) churn++;
    }
    if (churn) add(&ledger->recommit_churn_bytes, churn << _dmi_page_shift);
}

/* ---- mappings ---------------------------------------------------------------------------------------
 * Pages that change between writable and not cut the segment's mapping in pieces, and Linux allows a
 * process vm.max_map_count of them (65,530): at the end of that the host program can start no thread.
 * So what dmi causes is counted, and at half of it a decommit becomes a discard. */

#define DEFAULT_LIMIT 32765 /* half of Linux's default */

static _Atomic int64_t pieces, limit;

static void setup_limit(void) {
    char text[32];
    int64_t most = 0;
    int length = _dmi_os_read_file("/proc/sys/vm/max_map_count", text, sizeof text);
    for (int i = 0; i < length && text[i] >= '0' && text[i] <= '9' && most < INT32_MAX; i++)
        most = most * 10 + (text[i] - '0');
    int64_t unset = 0;
    atomic_compare_exchange_strong(&limit, &unset, most ? most / 2 : DEFAULT_LIMIT);
}

void _dmi_set_map_limit(uint64_t most) { atomic_store(&limit, most ? (int64_t)most : 0); }

static bool writable(const dmi_segment *s, size_t page) {
    return _dmi_bits_get(s->committed, page) || _dmi_bits_get(s->soft, page);
}

/* Pieces more (or fewer) when [first, first+count), all of one kind, becomes the other. */
static int64_t cut(const dmi_segment *s, size_t first, size_t count) {
    bool same = writable(s, first);
    int64_t more = 0;
    if (first > 0) more += writable(s, first - 1) == same ? 1 : -1;
    if (first + count < s->pages) more += writable(s, first + count) == same ? 1 : -1;
    return more;
}

static void count_pieces(dmi_segment *s, int64_t more) {
    atomic_fetch_add_explicit(&s->cuts, more, memory_order_relaxed);
    atomic_fetch_add_explicit(&pieces, more, memory_order_relaxed);
}

static bool may_cut(int64_t more) {
    if (more <= 0) return true;
    if (atomic_load_explicit(&limit, memory_order_relaxed) == 0) setup_limit();
    return atomic_load_explicit(&pieces, memory_order_relaxed) + more <=
           atomic_load_explicit(&limit, memory_order_relaxed);
}

void _dmi_segment_recount_cuts(dmi_segment *s, bool strict) {
    int64_t cuts = 0;
    for (size_t i = 1; strict && i < s->pages; i++) cuts += writable(s, i) != writable(s, i - 1);
    for (size_t u = 1; u < s->units; u++)
        cuts += _dmi_bits_get(s->split, u) != _dmi_bits_get(s->split, u - 1);
    count_pieces(s, cuts - atomic_load_explicit(&s->cuts, memory_order_relaxed));
}

bool _dmi_segment_cut_unit(dmi_segment *s, size_t unit) {
    bool split = _dmi_bits_get(s->split, unit);
    int64_t more = 0;
    if (unit > 0) more += _dmi_bits_get(s->split, unit - 1) == split ? 1 : -1;
    if (unit + 1 < s->units) more += _dmi_bits_get(s->split, unit + 1) == split ? 1 : -1;
    if (!may_cut(more)) return false;
    count_pieces(s, more);
    return true;
}

int _dmi_pages_commit(dmi_segment *segment, size_t first, size_t count) {
    size_t end = first + count;
    dmi_os_mode mode = segment->space->mode;
    _dmi_bits_put(segment->aged, first, count, false);
    if (segment->units) _dmi_bits_put(segment->deferred, first, count, false);
    for (size_t i = first; i < end;) {
        size_t from = _dmi_bits_find(segment->committed, i, end, false);
        if (from == end) break;
        size_t to = _dmi_bits_find(segment->committed, from, end, true);
        bool soft = _dmi_bits_get(segment->soft, from);
        to = _dmi_bits_find(segment->soft, from, to, !soft);
        char *start = segment->base + (from << _dmi_page_shift);
        int64_t more = mode == DMI_OS_STRICT && !soft ? cut(segment, from, to - from) : 0;
        /* What was discarded only is writable still. */
        int error =
            _dmi_os_commit(start, (to - from) << _dmi_page_shift, soft ? DMI_OS_LAZY : mode);
        if (error) {
            /* Back to where it was: what this call committed goes again. */
            for (size_t j = first; j < from; j++)
                if (_dmi_bits_get(segment->aged, j)) {
                    _dmi_bits_put(segment->aged, j, 1, false);
                    if (_dmi_os_decommit(segment->base + (j << _dmi_page_shift), _dmi_page, mode))
                        continue;
                    _dmi_bits_put(segment->committed, j, 1, false);
                    add(&segment->space->ledger.decommit_calls, 1);
                    add(&segment->space->ledger.decommit_bytes, _dmi_page);
                }
            return error;
        }
        if (more) count_pieces(segment, more);
        note_commit(segment, from, to - from);
        _dmi_bits_put(segment->committed, from, to - from, true);
        _dmi_bits_put(segment->soft, from, to - from, false);
        /* aged marks, for the length of this call, what a failure further on must undo; the age of a
         * page that was uncommitted means nothing. */
        _dmi_bits_put(segment->aged, from, to - from, true);
        i = to;
    }
    for (size_t i = first; i < end;) {
        size_t from = _dmi_bits_find(segment->offered, i, end, true);
        if (from == end) break;
        size_t to = _dmi_bits_find(segment->offered, from, end, false);
        (void)_dmi_os_unoffer(segment->base + (from << _dmi_page_shift), (to - from)
                                                                             << _dmi_page_shift);
        _dmi_bits_put(segment->offered, from, to - from, false);
        add(&segment->space->ledger.unoffer_bytes, (to - from) << _dmi_page_shift);
        i = to;
    }
    _dmi_pages_forget(segment, first, count);
    return 0;
}

/* Without room for the times only the figures of churn and age suffer, so a failure here is not one. */
static void need_given_at(dmi_segment *segment) {
    static dmi_lock lock; /* whoever holds it holds a lock that a fork waits for, too */
    if (segment->has_given_at) return;
    size_t bytes = (size_t)((char *)segment->page_busy - (char *)segment->given_at);
    _dmi_lock(&lock);
    if (!segment->has_given_at &&
        _dmi_os_commit(segment->given_at, bytes, segment->space->mode) == 0)
        segment->has_given_at = true;
    _dmi_unlock(&lock);
}

void _dmi_pages_note_free(dmi_segment *segment, size_t first, size_t count, uint64_t since) {
    size_t end = first + count;
    need_given_at(segment);
    if (!segment->has_given_at) return;
    for (size_t i = first; (i = _dmi_bits_find(segment->committed, i, end, true)) < end; i++)
        if (!segment->given_at[i]) segment->given_at[i] = sixteenths(since);
}

void _dmi_pages_forget(dmi_segment *segment, size_t first, size_t count) {
    size_t end = first + count;
    _dmi_bits_put(segment->aged, first, count, false);
    if (segment->units) _dmi_bits_put(segment->deferred, first, count, false);
    if (!segment->has_given_at) return;
    while ((first = _dmi_bits_find(segment->committed, first, end, true)) < end) {
        size_t stop = _dmi_bits_find(segment->committed, first, end, false);
        memset(segment->given_at + first, 0, (stop - first) * sizeof *segment->given_at);
        first = stop;
    }
}

int _dmi_segment_need_page_busy(dmi_segment *segment) {
    if (segment->has_page_busy) return 0;
    size_t bytes = (size_t)(segment->meta_end - (char *)segment->page_busy);
    int error = _dmi_os_commit(segment->page_busy, bytes, segment->space->mode);
    if (!error) segment->has_page_busy = true;
    return error;
}

int _dmi_segment_open_metadata(dmi_segment *segment) {
    char *given = (char *)segment->given_at, *busy = (char *)segment->page_busy;
    char *start = segment->reservation + segment->meta_committed;
    int error = 0;
    if (start < given) error = _dmi_os_convert(start, (size_t)(given - start), DMI_OS_SPARSE);
    if (!error && !segment->has_given_at)
        error = _dmi_os_convert(given, (size_t)(busy - given), DMI_OS_SPARSE);
    if (!error && !segment->has_page_busy)
        error = _dmi_os_convert(busy, (size_t)(segment->base - busy), DMI_OS_SPARSE);
    if (!error) _dmi_segment_fence(segment);
    return error;
}

void _dmi_pages_note_decommit(dmi_segment *segment, size_t first, size_t count, uint64_t calls) {
    size_t gone = _dmi_bits_put(segment->committed, first, count, false);
    _dmi_bits_put(segment->offered, first, count, false);
    _dmi_bits_put(segment->aged, first, count, false);
    _dmi_bits_put(segment->refused, first, count, false);
    if (segment->units) _dmi_bits_put(segment->deferred, first, count, false);
    add(&segment->space->ledger.decommit_calls, calls);
    add(&segment->space->ledger.decommit_bytes, gone << _dmi_page_shift);
    need_given_at(segment);
    if (segment->has_given_at) {
        uint32_t now = sixteenths(_dmi_space_clock(segment->space));
        for (size_t i = first; i < first + count; i++) segment->given_at[i] = now;
    }
}

static bool fence(dmi_segment *segment, char *start, size_t size) {
    dmi_os_mode mode = segment->space->mode;
    int64_t more = _dmi_os_guard_cuts(mode) ? 2 : 0;
    if (!may_cut(more) || _dmi_os_guard(start, size, mode)) {
        add(&segment->space->ledger.refused_calls, 1);
        return false;
    }
    if (more) count_pieces(segment, more);
    return true;
}

bool _dmi_pages_fence(dmi_segment *segment, size_t first, size_t count) {
    return fence(segment, segment->base + (first << _dmi_page_shift), count << _dmi_page_shift);
}

bool _dmi_pages_unfence(dmi_segment *segment, size_t first, size_t count) {
    dmi_os_mode mode = segment->space->mode;
    char *start = segment->base + (first << _dmi_page_shift);
    if (_dmi_os_unguard(start, count << _dmi_page_shift, mode)) return false;
    if (_dmi_os_guard_cuts(mode)) count_pieces(segment, -2);
    return true;
}

void _dmi_segment_fence(dmi_segment *segment) {
    if (segment->base > segment->meta_end)
        (void)fence(segment, segment->meta_end, (size_t)(segment->base - segment->meta_end));
}

int _dmi_pages_decommit(dmi_segment *segment, size_t first, size_t count) {
    char *start = segment->base + (first << _dmi_page_shift);
    size_t size = count << _dmi_page_shift;
    bool strict = segment->space->mode == DMI_OS_STRICT;
    int64_t more = strict ? cut(segment, first, count) : 0;
    int error = ENOMEM;
    if (may_cut(more)) error = _dmi_os_decommit(start, size, segment->space->mode);
    if (!error && more) count_pieces(segment, more);
    if (error == ENOMEM && strict) {
        /* No more mappings: the pages go, the addresses stay writable. */
        error = _dmi_os_decommit(start, size, DMI_OS_LAZY);
        if (!error) {
            _dmi_bits_put(segment->soft, first, count, true);
            add(&segment->space->ledger.refused_calls, 1);
        }
    }
    if (error) {
        add(&segment->space->ledger.refused_calls, 1);
        _dmi_bits_put(segment->refused, first, count, true);
        return error;
    }
    _dmi_pages_note_decommit(segment, first, count, 1);
    return 0;
}

int _dmi_pages_offer(dmi_segment *segment, size_t first, size_t count) {
    int error = _dmi_os_offer(segment->base + (first << _dmi_page_shift), count << _dmi_page_shift);
    if (error) {
        add(&segment->space->ledger.refused_calls, 1);
        _dmi_bits_put(segment->refused, first, count, true);
        return error;
    }
    size_t gone = _dmi_bits_put(segment->offered, first, count, true);
    if (segment->units) _dmi_bits_put(segment->deferred, first, count, false);
    _dmi_bits_put(segment->aged, first, count, false);
    add(&segment->space->ledger.offer_calls, 1);
    add(&segment->space->ledger.offer_bytes, gone << _dmi_page_shift);
    return 0;
}
