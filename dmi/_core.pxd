# _core.pxd - what the other native modules of the package see of a heap's object.

from cpython.ref cimport PyObject
from libc.stdint cimport uint64_t
from libc.string cimport memset

from dmi cimport cdmi

cdef extern from "Python.h":
    ctypedef struct PyThreadState


cdef class HeapCore:
    cdef void *_handle
    cdef bint _owner
    # Block, for who makes one. Held, but no reference that the collector need know of.
    cdef PyObject *_block_type
    cdef bint _no_serialize
    cdef uint64_t _max_size
    # Buffer exports of this heap's blocks: the heap cannot go while there are any.
    cdef Py_ssize_t _exports
    # Calls that are inside the library without the GIL.
    cdef Py_ssize_t _inside
    # Blocks that came from and did not go back through this object: what is busy beyond them is
    # other code's. The other code may pass blocks on, so it is never more than a lower bound.
    cdef uint64_t _blocks
    # A heap made elsewhere, not the default one: held while there are Block objects of it.
    cdef bint _view
    cdef uint64_t _objects
    cdef object __weakref__

    cdef uint64_t strangers(self) noexcept
    cdef int refuse(self, uint64_t others) except -1
    cdef PyThreadState *enter(self) except? NULL
    cdef void leave(self, PyThreadState *state) noexcept
    cdef int need(self) except -1
    cdef size_t size_of(self, object size, str argument) except 0
    cdef void *fast_address(self, object address, str argument) except? NULL
    cdef int no_memory(self, size_t size) except -1


cdef inline object policy_to_fields(object PolicyFields, const cdmi.dmi_policy *policy):
    return PolicyFields(policy.when, policy.how, policy.delay, policy.half_life, policy.block,
                        policy.total, policy.combine_or, policy.ratio, policy.psi, policy.headroom)


cdef inline int policy_from_fields(cdmi.dmi_policy *policy, object fields) except -1:
    memset(policy, 0, sizeof(cdmi.dmi_policy))
    policy.size = sizeof(cdmi.dmi_policy)
    (policy.when, policy.how, policy.delay, policy.half_life, policy.block, policy.total,
     policy.combine_or, policy.ratio, policy.psi, policy.headroom) = fields
    return 0
