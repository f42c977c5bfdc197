/* attributes.c - a sorted table of the reservations that have a name or a huge page advice. */
#include "attributes.h"

#include <string.h>

#include "lock.h"
#include "os.h"

/* Sorted from high to low. The kernel places new mappings below older ones, so a new entry goes to the end, and none
 * has to move. */
typedef struct entry {
    uintptr_t base;
    size_t size : 47; /* bytes */
    size_t name : 16; /* index + 1 into names, 0: none */
    size_t huge : 1;
} entry;

enum { FIRST_CAPACITY = 64, MAX_NAMES = 64, NAME_SIZE = 80 };
#define MAX_SIZE (((size_t)1 << 47) - 1)

static dmi_lock lock;
static entry first_entries[FIRST_CAPACITY];
static entry *entries = first_entries;
static size_t capacity = FIRST_CAPACITY;
static _Atomic size_t count; /* written under the lock */
static char names[MAX_NAMES][NAME_SIZE];

static size_t entry_count(void) { return atomic_load_explicit(&count, memory_order_relaxed); }
static void set_count(size_t value) { atomic_store_explicit(&count, value, memory_order_relaxed); }

/* The first entry whose base is not above address. */
static size_t place_of(uintptr_t address) {
    size_t low = 0, high = entry_count();
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (entries[middle].base > address) low = middle + 1;
        else high = middle;
    }
    return low;
}

static entry *find(const void *address) {
    size_t place = place_of((uintptr_t)address);
    if (place == entry_count()) return NULL;
    return (uintptr_t)address - entries[place].base < entries[place].size ? &entries[place] : NULL;
}

/* The number of a name, which is kept for ever. There is one for each purpose; when there are too many, a new one
 * counts as none (0). */
static size_t number_of(const char *name) {
    if (name == NULL || *name == 0 || strlen(name) >= NAME_SIZE) return 0;
    for (size_t i = 0; i < MAX_NAMES; i++) {
        if (names[i][0] == 0) strcpy(names[i], name);
        if (strcmp(names[i], name) == 0) return i + 1;
    }
    return 0;
}

/* Make the table larger. *old is to be released after the lock is: a release comes back to this file. */
static bool grow(dmi_os_range *old) {
    const dmi_os_backend *os = &_dmi_os_native;
    size_t bytes = capacity * sizeof *entries;
    size_t mask = os->granularity() - 1;
    size_t wanted = (2 * bytes + mask) & ~mask;
    entry *larger = os->reserve(wanted, os->page_size(), DMI_OS_LAZY, false, NULL);
    if (larger == NULL) return false;
    if (os->commit(larger, wanted, DMI_OS_LAZY) != 0) {
        *old = (dmi_os_range){larger, wanted};
        return false;
    }
    memcpy(larger, entries, entry_count() * sizeof *entries);
    if (entries != first_entries) *old = (dmi_os_range){entries, bytes};
    entries = larger;
    capacity = wanted / sizeof *entries;
    return true;
}

void _dmi_attributes_set(const void *address, size_t size, dmi_attributes given) {
    if ((given.name == NULL && !given.huge) || size > MAX_SIZE) return;
    dmi_os_range old = {NULL, 0};
    _dmi_lock(&lock);
    size_t used = entry_count();
    if (used < capacity || grow(&old)) {
        size_t place = place_of((uintptr_t)address);
        memmove(&entries[place + 1], &entries[place], (used - place) * sizeof *entries);
        entries[place] = (entry){.base = (uintptr_t)address,
                                 .size = size & MAX_SIZE,
                                 .name = number_of(given.name) & 0xffff,
                                 .huge = given.huge};
        set_count(used + 1);
    }
    _dmi_unlock(&lock);
    if (old.address != NULL) (void)_dmi_os_native.release(old.address, old.size);
}

dmi_attributes _dmi_attributes_get(const void *address) {
    dmi_attributes given = {NULL, false};
    if (entry_count() == 0) return given;
    _dmi_lock(&lock);
    const entry *found = find(address);
    if (found != NULL) {
        given.huge = found->huge;
        if (found->name != 0) given.name = names[found->name - 1];
    }
    _dmi_unlock(&lock);
    return given;
}

void _dmi_attributes_clear(const void *address, size_t size) {
    /* The entry of this range was made before its address could come here, so a count of 0 is up to date. */
    if (entry_count() == 0) return;
    _dmi_lock(&lock);
    entry *found = find(address);
    if (found != NULL) {
        size_t before = (uintptr_t)address - found->base;
        if (size >= found->size) {
            size_t used = entry_count() - 1;
            memmove(found, found + 1, (size_t)(entries + used - found) * sizeof *found);
            set_count(used);
        } else if (before == 0) {
            found->base += size;
            found->size = (found->size - size) & MAX_SIZE;
        } else if (before + size == found->size) {
            found->size = before & MAX_SIZE;
        }
    }
    _dmi_unlock(&lock);
}

bool _dmi_attributes_split(const void *address, size_t first) {
    if (entry_count() == 0) return true;
    dmi_os_range old = {NULL, 0};
    bool done = true;
    _dmi_lock(&lock);
    if (find(address) != NULL) {
        size_t used = entry_count();
        done = used < capacity || grow(&old);
        if (done) {
            size_t place = place_of((uintptr_t)address); /* the upper part comes first */
            memmove(&entries[place + 1], &entries[place], (used - place) * sizeof *entries);
            entries[place].base += first;
            entries[place].size = (entries[place].size - first) & MAX_SIZE;
            entries[place + 1].size = first & MAX_SIZE;
            set_count(used + 1);
        }
    }
    _dmi_unlock(&lock);
    if (old.address != NULL) (void)_dmi_os_native.release(old.address, old.size);
    return done;
}

bool _dmi_attributes_join(const void *left, const void *right) {
    if (entry_count() == 0) return true;
    _dmi_lock(&lock);
    entry *low = find(left), *high = find(right);
    bool same = low != NULL && high != NULL && low->name == high->name && low->huge == high->huge;
    if (same && low != high) {
        low->size = (low->size + high->size) & MAX_SIZE;
        size_t used = entry_count() - 1;
        memmove(high, high + 1, (size_t)(entries + used - high) * sizeof *high);
        set_count(used);
    }
    bool done = same || (low == NULL && high == NULL);
    _dmi_unlock(&lock);
    return done;
}

void _dmi_attributes_lock(void) { _dmi_lock(&lock); }
void _dmi_attributes_unlock(void) { _dmi_unlock(&lock); }
