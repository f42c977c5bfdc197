/* canary.c - hardened heaps: a word behind what the caller may use. */
#include "canary.h"

#include <string.h>

#define CANARY(address) (_dmi_secret.canary ^ (uintptr_t)(address))

void _dmi_canary_set(const dmi_heap *heap, void *block, size_t usable) {
    if (!heap->tail) return;
    char *at = (char *)block + usable - sizeof(uint64_t);
    uint64_t canary = CANARY(at);
    memcpy(at, &canary, sizeof canary);
}

bool _dmi_canary_sound(const dmi_heap *heap, const void *block, size_t usable) {
    if (!heap->tail) return true;
    const char *at = (const char *)block + usable - sizeof(uint64_t);
    uint64_t canary;
    memcpy(&canary, at, sizeof canary);
    return canary == CANARY(at);
}
