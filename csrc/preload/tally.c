/* tally.c - how many busy blocks there are of each size, counted during a walk.
 *
 * A hash table with linear probing that doubles when it is half full. It runs while the heap is locked,
 * so its memory comes from the system.
 */
#include "tally.h"

#include <string.h>
#include <sys/mman.h>

#define FIRST_SLOTS 4096u

static dmi_tally_row *get(size_t slots) {
    void *rows = mmap(NULL, slots * sizeof(dmi_tally_row), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return rows == MAP_FAILED ? NULL : rows;
}

void _dmi_tally_begin(dmi_tally *tally) {
    memset(tally, 0, sizeof *tally);
    tally->rows = get(FIRST_SLOTS);
    tally->slots = tally->rows ? FIRST_SLOTS : 0;
    tally->failed = !tally->rows;
}

void _dmi_tally_end(dmi_tally *tally) {
    if (tally->rows) (void)munmap(tally->rows, tally->slots * sizeof *tally->rows);
    tally->rows = NULL;
}

static dmi_tally_row *slot(const dmi_tally *tally, uint64_t size) {
    size_t at = (size_t)(size * UINT64_C(0x9e3779b97f4a7c15) >> 32) & (tally->slots - 1);
    while (tally->rows[at].count && tally->rows[at].size != size)
        at = (at + 1) & (tally->slots - 1);
    return &tally->rows[at];
}

static bool grow(dmi_tally *tally) {
    dmi_tally larger = {.rows = get(2 * tally->slots), .slots = 2 * tally->slots};
    if (!larger.rows) return false;
    for (size_t i = 0; i < tally->slots; i++)
        if (tally->rows[i].count) *slot(&larger, tally->rows[i].size) = tally->rows[i];
    larger.used = tally->used;
    _dmi_tally_end(tally);
    *tally = larger;
    return true;
}

void _dmi_tally_add(dmi_tally *tally, uint64_t size) {
    if (tally->failed) return;
    dmi_tally_row *row = slot(tally, size);
    if (row->count == 0) {
        if (2 * tally->used >= tally->slots) {
            tally->failed = !grow(tally);
            if (tally->failed) return;
            row = slot(tally, size);
        }
        row->size = size;
        tally->used++;
    }
    row->count++;
}

static bool before(const dmi_tally_row *one, const dmi_tally_row *other) {
    uint64_t left = one->size * one->count, right = other->size * other->count;
    return left != right ? left > right : one->size < other->size;
}

static void sift(dmi_tally_row *rows, size_t at, size_t end) {
    for (size_t child; (child = 2 * at + 1) < end; at = child) {
        if (child + 1 < end && before(&rows[child], &rows[child + 1])) child++;
        if (!before(&rows[at], &rows[child])) return;
        dmi_tally_row row = rows[at];
        rows[at] = rows[child];
        rows[child] = row;
    }
}

/* A heap sort: the C library's may allocate. */
void _dmi_tally_sort(dmi_tally *tally) {
    size_t n = 0;
    for (size_t i = 0; i < tally->slots; i++)
        if (tally->rows[i].count) tally->rows[n++] = tally->rows[i];
    for (size_t i = n / 2; i-- > 0;) sift(tally->rows, i, n);
    for (size_t end = n; end-- > 1;) {
        dmi_tally_row row = tally->rows[0];
        tally->rows[0] = tally->rows[end];
        tally->rows[end] = row;
        sift(tally->rows, 0, end);
    }
}
