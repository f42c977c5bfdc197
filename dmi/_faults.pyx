# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: subinterpreters_compatible=shared_gil, autotestdict=False
"""What the library refuses, in words: the faults of checked calls, and what lies at an address."""

from libc.stdint cimport uintptr_t
from libc.string cimport memset

from dmi cimport cdmi

from dmi.errors import HeapError

cdef extern from *:
    """
    #include <dmi/dmi.h>

    typedef struct { int number; const char *word; const char *sentence; } dmi_fault_words;
    #define DMI_PY_FAULT(name, word, sentence) {DMI_FAULT_##name, word, sentence},
    static const dmi_fault_words dmi_py_faults[] = {DMI_FAULTS(DMI_PY_FAULT)};
    #define DMI_PY_FAULTS (sizeof dmi_py_faults / sizeof *dmi_py_faults)
    """
    ctypedef struct dmi_fault_words:
        int number
        const char *word
        const char *sentence
    dmi_fault_words dmi_py_faults[]
    size_t DMI_PY_FAULTS
    const char *DMI_NO_PRESSURE

NO_PRESSURE = DMI_NO_PRESSURE.decode()

# {number: (word, sentence)}, as the library has them.
FAULTS = {
    dmi_py_faults[i].number: (dmi_py_faults[i].word.decode(), dmi_py_faults[i].sentence.decode())
    for i in range(DMI_PY_FAULTS)
}


cdef str heap_name(void *handle):
    """'heap 0x7f... (name)' for messages."""
    cdef cdmi.dmi_heap_info info
    memset(&info, 0, sizeof(info))
    info.size = sizeof(info)
    if cdmi.dmi_heap_get_info(handle, &info) != 0:
        return f"heap {<uintptr_t>handle:#x}"
    name = info.name.decode("utf-8", "replace")
    if name:
        return f"heap {<uintptr_t>handle:#x} ({name})"
    return f"heap {<uintptr_t>handle:#x}"


cdef str describe(void *address):
    """What lies at an address, as the end of a sentence."""
    cdef cdmi.dmi_found found
    memset(&found, 0, sizeof(found))
    found.size = sizeof(found)
    if address == NULL or cdmi.dmi_find(address, &found) != 0:
        return "no heap owns this address"
    state = {cdmi.DMI_STATE_BUSY: "a busy block", cdmi.DMI_STATE_FREE: "a free block",
             cdmi.DMI_STATE_UNCOMMITTED: "an uncommitted range",
             cdmi.DMI_STATE_OFFERED: "a free block on offered pages",
             cdmi.DMI_STATE_OVERHEAD: "the heap's own bytes"}.get(found.range.state, "a range")
    size, start = found.range.size, found.range.address
    where = f"of {size} bytes at {start:#x} of {heap_name(found.heap)}"
    offset = <uintptr_t>address - start
    if offset == 0:
        return f"it is {state} {where}"
    return f"it lies {offset} bytes inside {state} {where}"


cdef object fault_error(str what, void *handle, void *address, int fault):
    """The HeapError for a fault that a checked call of the library returned."""
    word, sentence = FAULTS.get(fault, ("corrupt", f"unknown fault {fault}"))
    if fault == cdmi.DMI_FAULT_STALE_HEAP:
        text = f"{what}({<uintptr_t>address:#x}): heap {<uintptr_t>handle:#x} was destroyed"
    else:
        text = (f"{what}({<uintptr_t>address:#x}) on {heap_name(handle)}: {sentence}; "
                f"{describe(address)}")
    return HeapError(text, address=<uintptr_t>address, fault=word)
