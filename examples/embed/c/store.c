/* store.c - the part that allocates. Not the file that imports: hence DMI_CAPI_EXTERN. */
#define PY_SSIZE_T_CLEAN
#define DMI_CAPI_EXTERN
#include <dmi/capi.h>
#include <string.h>

#include "store.h"

typedef struct item {
    size_t length;
    char bytes[];
} item;

static void *heap;
static item **items;
static long count, room;

int store_open(void) {
    dmi_heap_options options = {.size = sizeof options, .name = "embed_c"};
    if (heap == NULL) heap = dmi_heap_create(&options);
    return heap == NULL ? -1 : 0;
}

void *store_heap(void) {
    return heap;
}

long store_put(const char *bytes, size_t length) {
    if (count == room) {
        long more = room ? room * 2 : 16;
        item **grown = dmi_heap_realloc(heap, items, (size_t)more * sizeof *items);
        if (grown == NULL) return -1;
        items = grown;
        room = more;
    }
    item *made = dmi_heap_malloc(heap, sizeof *made + length);
    if (made == NULL) return -1;
    made->length = length;
    memcpy(made->bytes, bytes, length);
    items[count] = made;
    return count++;
}

const char *store_get(long number, size_t *length) {
    if (number < 0 || number >= count || items[number] == NULL) return NULL;
    *length = items[number]->length;
    return items[number]->bytes;
}

int store_drop(long number) {
    if (number < 0 || number >= count || items[number] == NULL) return -1;
    dmi_heap_free(heap, items[number]);
    items[number] = NULL;
    return 0;
}
