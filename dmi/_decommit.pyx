# cython: language_level=3, binding=False, embedsignature=True, embedsignature.format=clinic
# cython: subinterpreters_compatible=shared_gil, autotestdict=False
"""When free pages go back: policies as text and numbers, a heap's policy, its clock, and trim."""

from libc.errno cimport EINVAL, ENOMEM, errno
from libc.string cimport memset, strerror

from dmi cimport cdmi
from dmi._core cimport HeapCore, PyThreadState, policy_from_fields, policy_to_fields
from dmi._faults cimport heap_name

from dmi._faults import NO_PRESSURE as _NO_PRESSURE
from dmi._records import PolicyFields as _PolicyFields, TrimFields as _TrimFields
from dmi.errors import HeapError

cdef extern from "<errno.h>":
    const int ENOTSUP  # Cython's own list lacks it


def policy_parse(str text not None):
    """Read one policy; returns its fields in the order of dmi_policy. ValueError says why not."""
    cdef cdmi.dmi_policy policy
    cdef char error[256]
    cdef bytes raw = text.encode("utf-8", "replace")
    if b"\0" in raw:
        raise ValueError("a policy holds no NUL character")
    memset(&policy, 0, sizeof(policy))
    policy.size = sizeof(policy)
    error[0] = 0
    if cdmi.dmi_policy_parse(raw, &policy, error, sizeof(error)) != 0:
        raise ValueError(error.decode("utf-8", "replace"))
    return policy_to_fields(_PolicyFields, &policy)


def policy_format(object fields not None):
    """Write a policy; only what is not a default is named."""
    cdef cdmi.dmi_policy policy
    cdef char text[512]
    policy_from_fields(&policy, fields)
    if cdmi.dmi_policy_format(&policy, text, sizeof(text)) < 0:
        raise ValueError(f"no such policy: {fields!r}")
    return text.decode()


def set_policy(HeapCore heap not None, object fields not None):
    """Change the policy; it applies to what is free already before this returns."""
    cdef cdmi.dmi_policy policy
    cdef PyThreadState *state
    cdef int failed, error
    policy_from_fields(&policy, fields)
    state = heap.enter()
    failed = cdmi.dmi_heap_set_policy(heap._handle, &policy)
    error = errno
    heap.leave(state)
    if failed:
        text = f"{policy_format(fields)}: {strerror(error).decode()}"
        if error == EINVAL:
            raise ValueError(f"the policy was refused: {text}")
        if error == ENOMEM:
            raise MemoryError(f"the policy could not be applied: {text}")
        if error == ENOTSUP and policy.when == cdmi.DMI_WHEN_PRESSURE:
            text = f"{policy_format(fields)}: {_NO_PRESSURE}"
        raise OSError(error, f"the policy could not be applied: {text}")


def advance_clock(HeapCore heap not None, double seconds):
    """Let seconds pass on a manual clock."""
    cdef PyThreadState *state = heap.enter()
    cdef int failed = cdmi.dmi_heap_advance(heap._handle, seconds)
    cdef int error = errno
    heap.leave(state)
    if failed:
        raise HeapError(f"{heap_name(heap._handle)}: {strerror(error).decode()}")


def trim_report(HeapCore heap not None):
    """The TrimFields of a trim."""
    cdef cdmi.dmi_trim_report report
    cdef PyThreadState *state
    cdef int failed, error
    memset(&report, 0, sizeof(report))
    report.size = sizeof(report)
    state = heap.enter()
    failed = cdmi.dmi_heap_trim(heap._handle, &report)
    error = errno
    heap.leave(state)
    if failed:
        raise HeapError(f"{heap_name(heap._handle)}: trim failed: "
                        f"{strerror(error).decode()}")
    return _TrimFields(report.decommitted, report.resident_before, report.resident_after,
                       report.calls)
