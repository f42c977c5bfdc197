/* _objects.h - which blocks are Python objects: only where type, GC header and size agree.
 *
 * Blocks are read while the GIL is held and nothing is allocated, so that what was busy when the heap was walked
 * still is.
 */
#ifndef DMI_PYTHON_OBJECTS_H
#define DMI_PYTHON_OBJECTS_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

/* A set of addresses: open addressing, a power of two of places, at most half full. 0 is no address. */
typedef struct dmi_set {
    uint64_t *places;
    uint32_t *values; /* may be NULL */
    uint64_t mask;
} dmi_set;

static inline uint64_t dmi_set_place(const dmi_set *set, uint64_t address) {
    uint64_t at = (address >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 20 & set->mask;
    while (set->places[at] && set->places[at] != address) at = (at + 1) & set->mask;
    return at;
}
static int dmi_set_make(dmi_set *set, size_t members, int valued) {
    uint64_t size = 64;
    while (size < 2 * (uint64_t)members + 2) size *= 2;
    set->mask = size - 1;
    set->places = PyMem_RawCalloc(size, sizeof *set->places);
    set->values = valued ? PyMem_RawCalloc(size, sizeof *set->values) : NULL;
    return set->places && (!valued || set->values) ? 0 : -1;
}
static inline void dmi_set_add(dmi_set *set, uint64_t address, uint32_t value) {
    uint64_t at = dmi_set_place(set, address);
    set->places[at] = address;
    if (set->values) set->values[at] = value;
}
static inline int dmi_set_has(const dmi_set *set, uint64_t address) {
    return set->places[dmi_set_place(set, address)] != 0;
}
static void dmi_set_free(dmi_set *set) {
    PyMem_RawFree(set->places);
    PyMem_RawFree(set->values);
    memset(set, 0, sizeof *set);
}

/* What is known of this interpreter's objects at a moment. */
typedef struct dmi_known {
    dmi_set types;   /* every type, with its number */
    dmi_set tracked; /* every object that the collector tracks */
    size_t before;   /* bytes that the debug hooks put before and behind a block; 0 without */
    size_t behind;
} dmi_known;

#ifdef Py_TPFLAGS_PREHEADER
#define DMI_PREHEADER Py_TPFLAGS_PREHEADER
#elif PY_VERSION_HEX >= 0x030c0000
#define DMI_PREHEADER ((1UL << 3) | (1UL << 4)) /* managed weak references, managed dict */
#else
#define DMI_PREHEADER (1UL << 4) /* managed dict */
#endif
#define DMI_PAIR (2 * sizeof(void *)) /* a GC header, a pre-header */

static inline uint64_t dmi_word(const char *at) {
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

/* How many items an object of variable size says that it has; -1: that makes no sense. */
static inline Py_ssize_t dmi_items(const char *object, const PyTypeObject *type) {
#if PY_VERSION_HEX >= 0x030c0000
    if (type->tp_flags & Py_TPFLAGS_LONG_SUBCLASS) return (Py_ssize_t)(dmi_word(object + 16) >> 3);
#endif
    Py_ssize_t items = (Py_ssize_t)dmi_word(object + 16);
    if (items < 0 && (type->tp_flags & Py_TPFLAGS_LONG_SUBCLASS)) items = -items;
    return items >= 0 && items < ((Py_ssize_t)1 << 46) ? items : -1;
}

/* The bytes of the object alone, and what it may have beyond; 0: its fields make no sense. */
static inline size_t dmi_object_size(const char *object, const PyTypeObject *type, size_t *slack) {
    *slack = 0;
    if (type->tp_basicsize < (Py_ssize_t)sizeof(PyObject)) return 0;
    size_t size = (size_t)type->tp_basicsize;
    if (type == &PyUnicode_Type) {
        const PyASCIIObject *text = (const PyASCIIObject *)(const void *)object;
        if (text->length < 0 || text->length >= ((Py_ssize_t)1 << 46)) return 0;
        if (!text->state.compact) return size;
        if (text->state.ascii) return sizeof(PyASCIIObject) + (size_t)text->length + 1;
        if (text->state.kind == 0 || text->state.kind > 4) return 0;
        return sizeof(PyCompactUnicodeObject) + ((size_t)text->length + 1) * text->state.kind;
    }
    if (type->tp_itemsize > 0) {
        Py_ssize_t items = dmi_items(object, type);
        if (items < 0) return 0;
        size += (size_t)items * (size_t)type->tp_itemsize;
        /* One more than it says, a sentinel for example; and alignment. */
        *slack = 2 * (size_t)type->tp_itemsize + 16;
        /* Types have a table of members behind them that their size says nothing of. */
        if (type->tp_flags & Py_TPFLAGS_TYPE_SUBCLASS) *slack += 4096;
    }
    return size;
}

/* Where in a busy block of usable bytes an object begins, and the number of its type; 0: nowhere for certain. */
static uint64_t dmi_recognise(const dmi_known *known, uint64_t address, uint64_t usable,
                              uint32_t *number) {
    if (usable < known->before + known->behind + sizeof(PyObject)) return 0;
    address += known->before;
    usable -= known->before + known->behind;
    for (size_t offset = 0; offset <= 2 * DMI_PAIR; offset += DMI_PAIR) {
        if (usable < offset + sizeof(PyObject)) return 0;
        const char *object = (const char *)(uintptr_t)(address + offset);
        uint64_t word = dmi_word(object + offsetof(PyObject, ob_type));
        if (!word) continue;
        uint64_t place = dmi_set_place(&known->types, word);
        if (!known->types.places[place]) continue;
        const PyTypeObject *type = (const PyTypeObject *)(uintptr_t)word;
        /* A count of references, and no pointer. */
        uint64_t count = dmi_word(object);
        if (count == 0 || count > UINT64_C(0x100000000)) continue;
        int collected = (type->tp_flags & Py_TPFLAGS_HAVE_GC) != 0;
        size_t head = (collected ? DMI_PAIR : 0) + (type->tp_flags & DMI_PREHEADER ? DMI_PAIR : 0);
        /* Static types say that they are collected, and their objects need not be. */
        if (offset != head) continue;
        size_t slack, size = dmi_object_size(object, type, &slack);
        if (!size || offset + size > usable) continue;
        size_t whole = offset + size + slack;
        if (!(collected && dmi_set_has(&known->tracked, (uint64_t)(uintptr_t)object))) {
            if (usable > whole + whole / 8 + 32 + known->behind) continue;
            if (collected && offset >= DMI_PAIR) {
                /* Not tracked, or in the permanent generation. */
                uint64_t next = dmi_word(object - DMI_PAIR);
                if (next & 7) continue;
            }
        }
        *number = known->types.values[place];
        return (uint64_t)(uintptr_t)object;
    }
    return 0;
}

/* ---- pins ------------------------------------------------------------------------------------------------- */

/* For each range its share of the free bytes that stay on its pages: those of a page are shared by the busy blocks
 * that lie on it, equally. Ranges come by address. */
static void dmi_pins_of(const dmi_range *ranges, size_t count, double *pinned, uint64_t page) {
    for (size_t i = 0; i < count; i++) pinned[i] = 0;
    size_t first = 0;
    while (first < count) {
        /* One page after another, from the first range that reaches into it. */
        uint64_t at = ranges[first].address / page * page;
        for (;;) {
            uint64_t end = at + page, free = 0, busy = 0;
            size_t i = first;
            for (; i < count && ranges[i].address < end; i++) {
                uint64_t from = ranges[i].address > at ? ranges[i].address : at;
                uint64_t to = ranges[i].address + ranges[i].size;
                if (to > end) to = end;
                if (to <= from) continue;
                if (ranges[i].state == DMI_STATE_BUSY) busy++;
                else if (ranges[i].state == DMI_STATE_FREE) free += to - from;
            }
            if (busy && free)
                for (size_t k = first; k < i; k++)
                    if (ranges[k].state == DMI_STATE_BUSY &&
                        ranges[k].address + ranges[k].size > at)
                        pinned[k] += (double)free / (double)busy;
            /* The next page is the one in which something still goes on, or begins. */
            while (first < count && ranges[first].address + ranges[first].size <= end) first++;
            if (first == count) return;
            if (ranges[first].address >= end) break;
            /* A long range: no page inside it holds anything else. */
            uint64_t last = (ranges[first].address + ranges[first].size - 1) / page * page;
            at = last > end ? last : end;
        }
    }
}
#endif
