/* secret.c - the process's secrets. */
#include "secret.h"

#include "../os/os.h"

dmi_secrets _dmi_secret;

void _dmi_secret_setup(void) {
    while (!_dmi_secret.link) _dmi_os_random(&_dmi_secret.link, sizeof _dmi_secret.link);
    while (!_dmi_secret.mark) _dmi_os_random(&_dmi_secret.mark, sizeof _dmi_secret.mark);
    while (!_dmi_secret.list) _dmi_os_random(&_dmi_secret.list, sizeof _dmi_secret.list);
    while (!_dmi_secret.tag) _dmi_os_random(&_dmi_secret.tag, sizeof _dmi_secret.tag);
    while (!_dmi_secret.canary) _dmi_os_random(&_dmi_secret.canary, sizeof _dmi_secret.canary);
}
