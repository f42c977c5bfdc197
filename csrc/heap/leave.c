/* leave.c - released virtual blocks leave the address space while the heap's lock is open. */
#include "leave.h"

void _dmi_heap_unlock_and_unmap(dmi_heap *heap) {
    if (_dmi_lock_try(&heap->unmapping)) {
        dmi_run *leaving;
        while ((leaving = _dmi_virtual_take_leaving(&heap->space))) {
            _dmi_unlock(&heap->lock);
            _dmi_virtual_unmap(leaving);
            _dmi_lock(&heap->lock);
        }
        _dmi_unlock(&heap->unmapping);
    }
    _dmi_unlock(&heap->lock);
}

void _dmi_heap_await_unmapping(dmi_heap *heap) {
    _dmi_lock(&heap->unmapping);
    _dmi_unlock(&heap->unmapping);
}
