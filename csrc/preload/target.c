/* target.c - names of what is written, made from a pattern. */
#include "target.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void _dmi_target_start(dmi_target *target, const char *file) {
    size_t length = 0;
    target->home = getpid();
    target->number = 0;
    target->pattern[0] = 0;
    if (!file) return;
    /* Programs change their directory. */
    if (file[0] != '/' && getcwd(target->pattern, sizeof target->pattern - 1)) {
        length = strlen(target->pattern);
        if (length > 1) target->pattern[length++] = '/';
    }
    for (size_t i = 0; file[i] && length < sizeof target->pattern - 1; i++)
        target->pattern[length++] = file[i];
    target->pattern[length] = 0;
}

bool _dmi_target_mine(const dmi_target *target, long only) {
    pid_t self = getpid();
    if (only) return self == (pid_t)only;
    /* With one name for all, children of a fork would write over what their parent wrote. */
    return self == target->home || strstr(target->pattern, "%p");
}

static bool make_name(const dmi_target *target, char *name, const char *behind) {
    size_t length = 0;
    for (const char *at = target->pattern; *at && length < PATH_MAX; at++) {
        if (*at != '%') {
            name[length++] = *at;
            continue;
        }
        at++;
        int n = *at == 'p'   ? snprintf(name + length, PATH_MAX - length, "%ld", (long)getpid())
                : *at == 'n' ? snprintf(name + length, PATH_MAX - length, "%u", target->number)
                             : snprintf(name + length, PATH_MAX - length, "%c", *at);
        length += n > 0 ? (size_t)n : 0;
    }
    if (length + strlen(behind) >= PATH_MAX) {
        name[PATH_MAX - 1] = 0;
        errno = ENAMETOOLONG;
        return false;
    }
    memcpy(name + length, behind, strlen(behind) + 1);
    return true;
}

bool _dmi_target_open(const dmi_target *target, dmi_newfile *to, const char *behind) {
    to->open = false;
    to->fault = NULL;
    return make_name(target, to->whole, behind) && _dmi_newfile_open(to);
}

void _dmi_target_complain(const char *what, const dmi_newfile *of) {
    static dmi_writer out;
    const char *why = of->fault ? of->fault : strerror(errno);
    _dmi_writer_begin_stderr(&out);
    _dmi_writer_put(&out, "dmi: %s: ", what);
    _dmi_writer_put_bytes(&out, of->whole, strlen(of->whole));
    _dmi_writer_put(&out, ": %s\n", why);
    _dmi_writer_flush(&out);
}
