/* namespaces.c - unshare and setns, which the kernel refuses to a process with a second thread when they are
 * about user namespaces: the scavenger steps aside for the moment of the call. */
#include "preload.h"

#include "../heap/scavenger.h"
#include "../os/linux_threads.h"

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

static int alone(long number, long first, long second) {
    if (!_dmi_linux_is_home())
        return (int)syscall(number, first, second); /* it is not in this process */
    _dmi_scavenger_stop();
    long result = syscall(number, first, second);
    int error = errno;
    _dmi_scavenger_resume();
    if (result < 0) errno = error;
    return (int)result;
}

DMI_DOOR int unshare(int flags);
DMI_DOOR int setns(int file, int kind);

DMI_DOOR int unshare(int flags) { return alone(SYS_unshare, flags, 0); }
DMI_DOOR int setns(int file, int kind) { return alone(SYS_setns, file, kind); }
