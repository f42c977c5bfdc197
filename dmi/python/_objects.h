/* _objects.h - which blocks are Python objects: only where type, GC header and size agree.
 *
 * Blocks are read while the GIL is held and nothing is allocated, so that what was an object when the heap was walked
 * still is. What is none may be gone, so nothing but a copy of it is read.
 */
#ifndef DMI_PYTHON_OBJECTS_H
#define DMI_PYTHON_OBJECTS_H

#include <errno.h>
#include <Python.h>
#include <stdint.h>
#include <string.h>
#ifdef __linux__
#include <sys/uio.h>
#include <unistd.h>
#endif

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

/* Bytes of a block's beginning that tell whether it is an object: what the debug hooks put there, two headers, the
 * longest head of an object. */
#define DMI_HEAD 160
#define DMI_HEADS 128 /* blocks that are copied by one system call */

/* Where in a busy block of usable bytes an object begins, and the number of its type; 0: nowhere for certain. head: a copy
 * of its first bytes, and zeroes behind the last one. */
static uint64_t dmi_recognise_in(const dmi_known *known, const char *head, uint64_t address,
                                 uint64_t usable, uint32_t *number) {
    if (usable < known->before + known->behind + sizeof(PyObject)) return 0;
    address += known->before;
    head += known->before;
    usable -= known->before + known->behind;
    for (size_t offset = 0; offset <= 2 * DMI_PAIR; offset += DMI_PAIR) {
        if (usable < offset + sizeof(PyObject)) return 0;
        const char *object = head + offset;
        uint64_t word = dmi_word(object + offsetof(PyObject, ob_type));
        if (!word) continue;
        uint64_t place = dmi_set_place(&known->types, word);
        if (!known->types.places[place]) continue;
        const PyTypeObject *type = (const PyTypeObject *)(uintptr_t)word;
        /* A count of references, and no pointer. */
        uint64_t count = dmi_word(object);
        if (count == 0 || count > UINT64_C(0x100000000)) continue;
        int collected = (type->tp_flags & Py_TPFLAGS_HAVE_GC) != 0;
        size_t before =
            (collected ? DMI_PAIR : 0) + (type->tp_flags & DMI_PREHEADER ? DMI_PAIR : 0);
        /* Static types say that they are collected, and their objects need not be. */
        if (offset != before) continue;
        size_t slack, size = dmi_object_size(object, type, &slack);
        if (!size || offset + size > usable) continue;
        size_t whole = offset + size + slack;
        if (!(collected && dmi_set_has(&known->tracked, address + offset))) {
            if (usable > whole + whole / 8 + 32 + known->behind) continue;
            if (collected && offset >= DMI_PAIR) {
                /* Not tracked, or in the permanent generation. */
                uint64_t next = dmi_word(object - DMI_PAIR);
                if (next & 7) continue;
            }
        }
        *number = known->types.values[place];
        return address + offset;
    }
    return 0;
}

static inline size_t dmi_head_size(const dmi_range *range) {
    return range->size < DMI_HEAD ? (size_t)range->size : DMI_HEAD;
}

/* Copy the beginnings of up to DMI_HEADS blocks. A block of the raw domain, or of C code, may be freed by a thread that does
 * not hold the GIL, and its pages may be gone: the system copies, and says so, where a load would end the process. */
static void dmi_copy_heads(const dmi_range *const *blocks, size_t count, char (*heads)[DMI_HEAD]) {
    memset(heads, 0, count * sizeof *heads);
#ifdef __linux__
    struct iovec to[DMI_HEADS], from[DMI_HEADS];
    for (size_t i = 0; i < count; i++) {
        to[i].iov_base = heads[i];
        from[i].iov_base = (void *)(uintptr_t)blocks[i]->address;
        to[i].iov_len = from[i].iov_len = dmi_head_size(blocks[i]);
    }
    for (size_t i = 0; i < count; i++) { /* the block after the last one that came whole */
        ssize_t got = process_vm_readv(getpid(), to + i, count - i, from + i, count - i, 0);
        if (got < 0 && errno != EFAULT) goto refused;
        for (; i < count && got >= (ssize_t)to[i].iov_len; i++) got -= (ssize_t)to[i].iov_len;
        if (i < count) memset(heads[i], 0, sizeof heads[i]);
    }
    return;
refused: /* a sandbox may forbid it */
#endif
    for (size_t i = 0; i < count; i++)
        memcpy(heads[i], (const void *)(uintptr_t)blocks[i]->address, dmi_head_size(blocks[i]));
}

static uint64_t dmi_recognise(const dmi_known *known, const dmi_range *range, uint32_t *number) {
    char head[1][DMI_HEAD];
    dmi_copy_heads(&range, 1, head);
    return dmi_recognise_in(known, head[0], range->address, range->size, number);
}

/* The number of each busy block's type, UINT32_MAX for what is no object for certain. */
static void dmi_recognise_all(const dmi_known *known, const dmi_range *ranges, size_t count,
                              uint32_t *numbers) {
    const dmi_range *blocks[DMI_HEADS];
    char heads[DMI_HEADS][DMI_HEAD];
    for (size_t i = 0; i < count;) {
        size_t some = 0;
        for (; i < count && some < DMI_HEADS; i++) {
            numbers[i] = UINT32_MAX;
            if (ranges[i].state == DMI_STATE_BUSY) blocks[some++] = &ranges[i];
        }
        dmi_copy_heads(blocks, some, heads);
        for (size_t k = 0; k < some; k++) {
            uint32_t number;
            if (dmi_recognise_in(known, heads[k], blocks[k]->address, blocks[k]->size, &number))
                numbers[blocks[k] - ranges] = number;
        }
    }
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
