/* secret.c - the process's secrets. */
#include "secret.h"

#include "../os/os.h"

#include <stdbool.h>

dmi_secrets _dmi_secret;

/* No word is 0, and no two come of one call. */
static int make(uint64_t *word) {
    int error;
    do error = _dmi_os_random(word, sizeof *word);
    while (!*word);
    return error;
}

int _dmi_secret_setup(void) {
    static bool made;
    static int weak;
    uint64_t *words[] = {&_dmi_secret.link, &_dmi_secret.mark, &_dmi_secret.list, &_dmi_secret.tag,
                         &_dmi_secret.canary};
    for (size_t i = 0; !made && i < sizeof words / sizeof *words; i++) {
        int error = make(words[i]);
        if (error) weak = error;
    }
    made = true;
    return weak;
}
