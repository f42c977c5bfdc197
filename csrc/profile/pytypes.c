/* pytypes.c - objects by their type pointer; types are looked at once and remembered. */
#include "pytypes.h"

#include "../os/copy.h"
#include "../os/frames.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

/* A type as every CPython for 64 bits with the GIL lays it out, from 3.8 on. */
#define NAME 24
#define BASIC_SIZE 32
#define ITEM_SIZE 40
#define FLAGS 168
#define TYPE_BYTES 176
#define READY (UINT64_C(1) << 12)
#define HAS_COLLECTOR (UINT64_C(1) << 14)
#define MANAGED                                                                                    \
    (UINT64_C(3) << 3) /* two more words in front, since 3.11; values behind, since 3.13 */
#define IS_TEXT (UINT64_C(1) << 28)
#define IS_METACLASS (UINT64_C(1) << 31)
#define LARGEST (UINT64_C(1) << 20)
#define LONGEST 64

/* What stands in front of an object: the collector's two words, and two more. Debug hooks put two of their own before all
 * that. */
#define PAIR 16u

#define TYPES 1024 /* a power of two; seven eighths are used */
static struct known {
    uint64_t type; /* 0: none */
    uint64_t size;
    uint32_t front;
    bool varies; /* objects of one type may be longer than the type says */
    char name[LONGEST];
} known[TYPES];
static size_t used;
/* What was seen to be none: most of what stands where a type would is something else. */
#define OTHERS 4096
static uint64_t others[OTHERS];

static _Atomic uint64_t type_of_types;

void _dmi_python_types_find(void) {
    const uint32_t *version = _dmi_os_symbol("Py_Version"); /* since 3.11 */
    const void *type = _dmi_os_symbol("PyType_Type");
    /* Without the GIL objects begin otherwise, and with this symbol. */
    if (!version || !type || *version >> 24 != 3 || _dmi_os_symbol("_Py_MergeZeroLocalRefcount"))
        return;
    atomic_store_explicit(&type_of_types, (uintptr_t)type, memory_order_release);
}

void _dmi_python_types_begin(void) {
    memset(known, 0, sizeof known);
    memset(others, 0, sizeof others);
    used = 0;
}

static uint64_t word(const unsigned char *at, size_t offset) {
    uint64_t value;
    memcpy(&value, at + offset, sizeof value);
    return value;
}

static bool copy(unsigned char *to, uint64_t from, size_t size) {
    return from % 8 == 0 && from > 4096 && _dmi_os_copy(to, (const void *)(uintptr_t)from, size);
}

/* Is it a metaclass: type, or a class derived from it? */
static bool is_metaclass(uint64_t address) {
    unsigned char meta[TYPE_BYTES];
    uint64_t top = atomic_load_explicit(&type_of_types, memory_order_relaxed);
    if (address == top) return true;
    if (!copy(meta, address, sizeof meta)) return false;
    return (word(meta, FLAGS) & (READY | IS_METACLASS)) == (READY | IS_METACLASS) &&
           word(meta, BASIC_SIZE) >= TYPE_BYTES && word(meta, 8) % 8 == 0 && word(meta, 8) > 4096;
}

/* Copied bytes up to the end of the text. A name may lie at the end of what is mapped. */
static bool read_name(char *name, uint64_t from) {
    size_t n = 0;
    for (; n < LONGEST; n++) {
        size_t left = 16 - (from + n) % 16;
        if (left > LONGEST - n) left = LONGEST - n;
        if (!_dmi_os_copy(name + n, (const void *)(uintptr_t)(from + n), left)) return false;
        const char *end = memchr(name + n, 0, left);
        size_t stop = end ? (size_t)(end - name) : n + left;
        for (; n < stop; n++)
            if ((unsigned char)name[n] < ' ' || name[n] == 0x7f) return false;
        if (end) return n > 0;
        n--;
    }
    name[LONGEST - 1] = 0;
    return true;
}

static bool look(struct known *out, uint64_t address) {
    unsigned char type[TYPE_BYTES];
    out->type = address;
    if (!copy(type, address, sizeof type)) return false;
    uint64_t flags = word(type, FLAGS);
    out->size = word(type, BASIC_SIZE);
    out->front = (flags & HAS_COLLECTOR ? PAIR : 0) + (flags & MANAGED ? PAIR : 0);
    out->varies = word(type, ITEM_SIZE) || flags & (MANAGED | IS_TEXT);
    return flags & READY && out->size >= 16 && out->size <= LARGEST &&
           is_metaclass(word(type, 8)) && read_name(out->name, word(type, NAME));
}

/* NULL: it is no type. */
static const struct known *type_at(uint64_t address) {
    uint64_t hash = address * UINT64_C(0x9e3779b97f4a7c15);
    size_t i = (size_t)(hash >> 54);
    for (; known[i].type; i = (i + 1) % TYPES)
        if (known[i].type == address) return &known[i];
    uint64_t *other = &others[hash >> 52];
    if (*other == address || used >= TYPES / 8 * 7) return NULL;
    if (look(&known[i], address)) {
        used++;
        return &known[i];
    }
    known[i].type = 0;
    *other = address;
    return NULL;
}
_Static_assert(TYPES == 1 << 10 && OTHERS == 1 << 12, "type_at takes ten bits and twelve");

/* Is an object there, so far behind the beginning of the block? */
static const struct known *type_behind(const unsigned char *start, size_t bytes, size_t block_size,
                                       size_t before, size_t front) {
    size_t at = before + front;
    if (at + 16 > bytes) return NULL;
    uint64_t count = word(start, at), address = word(start, at + 8);
    /* Of immortal objects the upper half of the count is used otherwise. */
    if ((uint32_t)count == 0 || address % 8 || address <= 4096 || address >> 47) return NULL;
    const struct known *type = type_at(address);
    if (!type || type->front != front) return NULL;
    uint64_t size = at + type->size + before / 2; /* hooks put a word behind it */
    if (size > block_size || (!type->varies && block_size > size + size / 8 + 32)) return NULL;
    return type;
}

const char *_dmi_python_type(const unsigned char *start, size_t bytes, size_t block_size) {
    if (!atomic_load_explicit(&type_of_types, memory_order_acquire)) return NULL;
    for (size_t before = 0; before <= PAIR; before += PAIR)
        for (size_t front = 0; front <= 2 * PAIR; front += PAIR) {
            const struct known *type = type_behind(start, bytes, block_size, before, front);
            if (type) return type->name;
        }
    return "";
}
