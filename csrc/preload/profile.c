/* profile.c - the sampler from the first allocation on, and its profile as a file. */
#include "preload.h"
#include "target.h"

#include "../os/os.h"

#include <dmi/dmi.h>

#include <errno.h>
#include <string.h>

static dmi_target target;

static int put(void *argument, const void *bytes, size_t size) {
    dmi_writer *out = argument;
    _dmi_writer_put_bytes(out, bytes, size);
    return out->error;
}

void _dmi_profile_begin(void) {
    const dmi_preload_wish *wish = &_dmi_preload_wish;
    if (!wish->profile.file) return;
    _dmi_target_start(&target, wish->profile.file);
    dmi_profile_options options = {
        .size = sizeof options, .one_in = wish->profile.one_in, .most_ppm = wish->profile.most_ppm};
    if (wish->profile.at_exit) _dmi_preload_expect_python();
    if (dmi_profile_start(&options) == 0) return;
    static const char none[] = "dmi: profile: no memory for the sampler's tables\n";
    _dmi_os_message(none, sizeof none - 1);
}

void _dmi_preload_write_profile(void) {
    static dmi_newfile file;
    if (!_dmi_preload_wish.profile.file ||
        !_dmi_target_mine(&target, _dmi_preload_wish.profile.only))
        return;
    target.number++;
    if (!_dmi_target_open(&target, &file, "")) {
        _dmi_target_complain("profile", &file);
        return;
    }
    bool whole = dmi_profile_write(put, &file.out) == 0;
    if (!whole && file.out.error == 0) file.out.error = errno;
    if (!_dmi_newfile_close(&file, whole) || !whole) {
        if (!whole) errno = file.out.error;
        _dmi_target_complain("profile", &file);
    }
}

void _dmi_preload_put_profile(dmi_writer *out) { (void)dmi_profile_write(put, out); }
