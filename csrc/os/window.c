/* window.c - a sorted table of the stretches that are taken. Neighbours share an entry, gaps included, so that the
 * table has about as many entries as the window has holes. */
#include "window.h"

#include "lock.h"

#include <string.h>

enum { STRETCHES = 512 };

typedef struct stretch {
    uintptr_t from, to;
} stretch;

static dmi_lock lock;
static stretch taken[STRETCHES];
static size_t count;
static size_t gap;
static _Atomic uintptr_t begin; /* 0: no window yet */

uintptr_t _dmi_window_draw(uint64_t random, size_t granule) {
    uintptr_t offsets = (DMI_WINDOW_STRETCH - DMI_WINDOW_WHOLE) / granule;
    uintptr_t stretches = (DMI_WINDOW_AREA - DMI_WINDOW_SIZE) / DMI_WINDOW_STRETCH;
    /* The product is far below 2^64, so that the remainder favours no place that anybody could measure. */
    uintptr_t drawn = (uintptr_t)(random % (offsets * stretches));
    return DMI_WINDOW_FROM + drawn / offsets * DMI_WINDOW_STRETCH + drawn % offsets * granule;
}

bool _dmi_window_is_open(void) { return atomic_load_explicit(&begin, memory_order_relaxed) != 0; }

void _dmi_window_open(uint64_t random, size_t granule) {
    _dmi_lock(&lock);
    if (!_dmi_window_is_open()) { /* two threads may have found it closed */
        gap = granule;
        atomic_store_explicit(&begin, _dmi_window_draw(random, granule), memory_order_relaxed);
    }
    _dmi_unlock(&lock);
}

/* Take from..to, which lies behind entry i - 1 and before entry i. False: the table is full. */
static bool take(size_t i, uintptr_t from, uintptr_t to) {
    bool left = i > 0 && taken[i - 1].to == from, right = i < count && taken[i].from == to;
    if (left && right) {
        taken[i - 1].to = taken[i].to;
        memmove(taken + i, taken + i + 1, (--count - i) * sizeof *taken);
    } else if (left) {
        taken[i - 1].to = to;
    } else if (right) {
        taken[i].from = from;
    } else {
        if (count == STRETCHES) return false;
        memmove(taken + i + 1, taken + i, (count++ - i) * sizeof *taken);
        taken[i] = (stretch){from, to};
    }
    return true;
}

void *_dmi_window_claim(size_t size, size_t align) {
    uintptr_t place = 0;
    _dmi_lock(&lock);
    uintptr_t first = atomic_load_explicit(&begin, memory_order_relaxed);
    uintptr_t end = first + DMI_WINDOW_SIZE, from = first;
    if (first && size <= DMI_WINDOW_SIZE / 2 && align <= DMI_WINDOW_SIZE / 4) {
        for (size_t i = 0; i <= count && !place; i++) {
            uintptr_t at = (from + align - 1) & ~(uintptr_t)(align - 1);
            uintptr_t until = i < count ? taken[i].from : end;
            if (at < until && until - at >= size + gap && take(i, at, at + size + gap)) place = at;
            if (i < count) from = taken[i].to;
        }
    }
    _dmi_unlock(&lock);
    return (void *)place;
}

void _dmi_window_yield(const void *address, size_t size) {
    uintptr_t from = (uintptr_t)address, first = atomic_load_explicit(&begin, memory_order_relaxed);
    if (!first || from < first || from - first >= DMI_WINDOW_SIZE) return;
    _dmi_lock(&lock);
    uintptr_t to = from + size + gap;
    size_t i = 0;
    while (i < count && taken[i].to <= from) i++;
    if (i < count && taken[i].from <= from && to <= taken[i].to) {
        uintptr_t behind = taken[i].to;
        if (taken[i].from == from && behind == to) {
            memmove(taken + i, taken + i + 1, (--count - i) * sizeof *taken);
        } else if (taken[i].from == from) {
            taken[i].from = to;
        } else if (behind == to) {
            taken[i].to = from;
        } else if (count < STRETCHES) { /* else the hole is not remembered, and stays unused */
            taken[i].to = from;
            (void)take(i + 1, to, behind);
        }
    }
    _dmi_unlock(&lock);
}

void _dmi_window_reset(void) {
    _dmi_lock(&lock);
    count = 0;
    atomic_store_explicit(&begin, 0, memory_order_relaxed);
    _dmi_unlock(&lock);
}

void _dmi_window_lock(void) { _dmi_lock(&lock); }
void _dmi_window_unlock(void) { _dmi_unlock(&lock); }
