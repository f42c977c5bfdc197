/* newfile.c - a new file that takes its name when it is whole.
 *
 * A snapshot is written when a program ends, with all signals blocked and perhaps into a folder where others may
 * write. So nothing that is there is opened: a link would lead elsewhere, a pipe would wait for a reader.
 */
#include "newfile.h"

#include "../os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FIRST_OWN 100 /* descriptors from here on are not those that a program closes blindly */
#define ATTEMPTS 8

static const char *kind_of(mode_t mode) {
    if (S_ISDIR(mode)) return "it is a directory";
    if (S_ISLNK(mode)) return "it is a symbolic link, which is not followed";
    if (S_ISFIFO(mode)) return "it is a named pipe, not a regular file";
    return "it is a device or a socket, not a regular file";
}

/* Only a regular file is replaced. */
static bool may_take_the_name(dmi_newfile *to) {
    struct stat is;
    if (lstat(to->whole, &is)) return errno == ENOENT;
    if (S_ISREG(is.st_mode)) return true;
    to->fault = kind_of(is.st_mode);
    errno = EEXIST;
    return false;
}

/* A hidden name beside the whole one. */
static bool name_part(dmi_newfile *to) {
    uint64_t chance[2];
    const char *slash = strrchr(to->whole, '/');
    size_t folder = slash ? (size_t)(slash + 1 - to->whole) : 0;
    (void)_dmi_os_random(chance, sizeof chance); /* O_EXCL refuses a name that was guessed */
    memcpy(to->part, to->whole, folder);
    int n = snprintf(to->part + folder, sizeof to->part - folder, ".%016llx%016llx.dmi-part",
                     (unsigned long long)chance[0], (unsigned long long)chance[1]);
    if (n > 0 && (size_t)n < sizeof to->part - folder) return true;
    errno = ENAMETOOLONG;
    return false;
}

bool _dmi_newfile_open(dmi_newfile *to) {
    to->open = false;
    to->fault = NULL;
    if (!may_take_the_name(to)) return false;
    int file = -1;
    for (int i = 0; i < ATTEMPTS && file < 0; i++) {
        if (!name_part(to)) return false;
        file = open(to->part, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (file < 0 && errno != EEXIST) return false;
    }
    if (file < 0) return false;
    int moved = fcntl(file, F_DUPFD_CLOEXEC, FIRST_OWN);
    if (moved >= 0) {
        (void)close(file);
        file = moved;
    }
    _dmi_writer_begin(&to->out, file);
    to->open = true;
    return true;
}

bool _dmi_newfile_close(dmi_newfile *to, bool keep) {
    if (!to->open) return false;
    to->open = false;
    _dmi_writer_flush(&to->out);
    int error = to->out.error;
    if (close(to->out.file) && !error && errno != EINTR) error = errno;
    keep = keep && !error;
    if (keep && (!may_take_the_name(to) || rename(to->part, to->whole))) {
        error = errno;
        keep = false;
    }
    if (!keep) (void)unlink(to->part);
    errno = error;
    return keep;
}
