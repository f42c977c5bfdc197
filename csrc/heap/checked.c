/* checked.c - doors for callers that must never crash: Python's. */
#include "check.h"
#include "fast.h"
#include "registry.h"

#include <errno.h>

/* The common case in few steps: a block of a run of this thread's. The run tells the heap, and a live one by its
 * handle. False: nothing was done, and the whole check is to say why. */
static bool free_own(void *handle, void *block) {
    dmi_thread *guard = _dmi_guard();
    dmi_run *run = _dmi_pagemap_look(block);
    bool own = guard != &_dmi_no_thread && _dmi_owner_is(run, guard) &&
               _dmi_heap_of_run(run)->handle == handle;
    if (own) {
        /* A run is short: 32 bits, which are divided faster. */
        uint32_t offset = (uint32_t)((char *)block - _dmi_run_base(run));
        uint32_t index = offset / run->block_size;
        own = index < run->carved && index * run->block_size == offset && run->parked == 0 &&
              !_dmi_lfh_marked(run, block);
    }
    int32_t used = 1;
    if (own) used = _dmi_fast_push(run, block, _dmi_lfh_mark(run, block));
    _dmi_unguard(guard);
    if (used == 0) _dmi_free_settle(run);
    return own;
}

int dmi_heap_free_checked(void *handle, void *block) {
    if (__builtin_expect(free_own(handle, block), 1)) return DMI_OK;
    int saved = errno;
    dmi_heap *heap = _dmi_heap_resolve(handle);
    errno = saved;
    if (!heap) return DMI_FAULT_STALE_HEAP;
    dmi_run *run;
    int fault = _dmi_check(heap, block, &run);
    if (fault) return fault;
    _dmi_fast_free(block);
    return DMI_OK;
}

void *dmi_heap_malloc_checked(void *handle, size_t size) {
    return _dmi_fast_heap_malloc(handle, size);
}
