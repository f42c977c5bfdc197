/* newfile.h - a new file that takes its name when it is whole. */
#ifndef DMI_NEWFILE_H
#define DMI_NEWFILE_H

#include "writer.h"

#include <limits.h>
#include <stdbool.h>

typedef struct dmi_newfile {
    char whole[PATH_MAX], part[PATH_MAX]; /* the name it will have, and the one it has */
    dmi_writer out;
    bool open;
    const char *fault; /* why not, where errno alone would not tell; else NULL */
} dmi_newfile;

/* Make a file for what is to be called to->whole; to->out then writes to it. False with errno and perhaps
 * a fault: no such folder, or something else than a regular file has that name. Allocates nothing, follows
 * no link, waits for nobody. */
bool _dmi_newfile_open(dmi_newfile *to);
/* Give it its name, or take it away. False with errno, and nothing stays. */
bool _dmi_newfile_close(dmi_newfile *to, bool keep);

#endif
