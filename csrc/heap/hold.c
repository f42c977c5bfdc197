/* hold.c - who keeps a heap from being destroyed.
 *
 * No block says who allocated it, for that would be a word or a table on the fast path. So whoever needs
 * a heap that belongs to another says so once, by name; a hold is exact wherever blocks wander afterwards.
 */
#include "hold.h"
#include "registry.h"

#include <errno.h>
#include <string.h>

typedef struct {
    char text[sizeof((dmi_heap *)0)->holders[0].who];
} holder_name;

/* The name as it is written down; empty for none. */
static holder_name name_of(const char *who) {
    holder_name name = {{0}};
    for (size_t n = 0; who && who[n] && n + 1 < sizeof name.text; n++) name.text[n] = who[n];
    return name;
}

/* The slot of a name, DMI_HEAP_HOLDERS if it has none. The registry is locked. */
static size_t slot_of(const dmi_heap *heap, const char *name) {
    size_t i = 0;
    while (i < DMI_HEAP_HOLDERS &&
           (!heap->holders[i].holds || strcmp(heap->holders[i].who, name) != 0))
        i++;
    return i;
}

/* One that nobody has; not the last, which is for those who find no other. */
static size_t free_slot(const dmi_heap *heap) {
    size_t i = 0;
    while (i < DMI_HEAP_HOLDERS - 1 && heap->holders[i].holds) i++;
    return i;
}

bool _dmi_heap_held(const dmi_heap *heap) {
    for (size_t i = 0; i < DMI_HEAP_HOLDERS; i++)
        if (heap->holders[i].holds) return true;
    return false;
}

/* 0, or the error for a call with that handle and name. */
static int refuse(const dmi_heap *heap, const holder_name *name) {
    return heap && name->text[0] ? 0 : EINVAL;
}

int dmi_heap_hold(void *handle, const char *who) {
    holder_name name = name_of(who);
    _dmi_heaps_lock();
    dmi_heap *heap = _dmi_heap_resolve(handle);
    int error = refuse(heap, &name);
    if (!error) {
        size_t i = slot_of(heap, name.text);
        if (i == DMI_HEAP_HOLDERS) {
            i = free_slot(heap);
            if (i == DMI_HEAP_HOLDERS - 1) name = name_of("others");
            memcpy(heap->holders[i].who, name.text, sizeof name.text);
        }
        heap->holders[i].holds++;
    }
    _dmi_heaps_unlock();
    if (error) errno = error;
    return error ? -1 : 0;
}

int dmi_heap_unhold(void *handle, const char *who) {
    holder_name name = name_of(who);
    _dmi_heaps_lock();
    dmi_heap *heap = _dmi_heap_resolve(handle);
    int error = refuse(heap, &name);
    if (!error) {
        size_t i = slot_of(heap, name.text);
        /* A name that came when all slots were taken. */
        if (i == DMI_HEAP_HOLDERS && heap->holders[i - 1].holds) i--;
        if (i == DMI_HEAP_HOLDERS) error = ENOENT;
        else heap->holders[i].holds--;
    }
    _dmi_heaps_unlock();
    if (error) errno = error;
    return error ? -1 : 0;
}

int dmi_heap_holder(void *handle, size_t index, char *who, size_t size, uint64_t *holds) {
    int error = ENOENT;
    _dmi_heaps_lock();
    dmi_heap *heap = _dmi_heap_resolve(handle);
    if (!heap) error = EINVAL;
    for (size_t i = 0; heap && i < DMI_HEAP_HOLDERS; i++) {
        if (!heap->holders[i].holds || index--) continue;
        if (holds) *holds = heap->holders[i].holds;
        if (who && size) {
            size_t length = strlen(heap->holders[i].who);
            if (length >= size) length = size - 1;
            memcpy(who, heap->holders[i].who, length);
            who[length] = 0;
        }
        error = 0;
        break;
    }
    _dmi_heaps_unlock();
    if (error) errno = error;
    return error ? -1 : 0;
}
