# _faults.pxd - what the library refuses, in words, for the other native modules of the package.

from dmi cimport cdmi


cdef str heap_name(void *handle)
cdef object fault_error(str what, void *handle, void *address, int fault)
