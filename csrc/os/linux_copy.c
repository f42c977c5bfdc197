/* linux_copy.c - the kernel reads for us, and says so where it cannot. */
#define _GNU_SOURCE
#include "copy.h"

#include <sys/uio.h>
#include <unistd.h>

bool _dmi_os_copy(void *to, const void *from, size_t size) {
    struct iovec here = {to, size}, there = {(void *)(size_t)from, size};
    return process_vm_readv(getpid(), &here, 1, &there, 1, 0) == (ssize_t)size;
}
