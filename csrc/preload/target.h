/* target.h - names of what is written: a pattern from the options, and whose process writes there. */
#ifndef DMI_TARGET_H
#define DMI_TARGET_H

#include "newfile.h"

#include <sys/types.h>

typedef struct dmi_target {
    char pattern[PATH_MAX];
    pid_t home;      /* the process that read the options */
    unsigned number; /* of the file that is written */
} dmi_target;

/* Remember the pattern and where the program started: relative names mean that. file: NULL, there is none. */
void _dmi_target_start(dmi_target *target, const char *file);
/* Is it this process that writes there? only: its number, 0 for whoever reads the options. */
bool _dmi_target_mine(const dmi_target *target, long only);
/* Open a new file by the pattern: %p the process, %n the number; and what is to stand behind it. False with errno and
 * perhaps a fault. */
bool _dmi_target_open(const dmi_target *target, dmi_newfile *to, const char *behind);
/* Say on standard error why it came to nothing; what: "snapshot" or the like. */
void _dmi_target_complain(const char *what, const dmi_newfile *of);

#endif
