/* secret.c - the secrets of the process. */
#include "secret.h"

#include "../os/os.h"

#include <stdbool.h>

dmi_secrets _dmi_secret;

/* A random word that is not 0. Each word takes a call of its own. */
static int make(uint64_t *word) {
    int error;
    do error = _dmi_os_random(word, sizeof *word);
    while (!*word);
    return error;
}

int _dmi_secret_setup(void) {
    static bool made;
    static int weak;
    uint64_t *words[] = {&_dmi_secret.link, &_dmi_secret.mark,   &_dmi_secret.list,
                         &_dmi_secret.tag,  &_dmi_secret.canary, &_dmi_secret.freed};
    for (size_t i = 0; !made && i < sizeof words / sizeof *words; i++) {
        int error = make(words[i]);
        if (error) weak = error;
    }
    made = true;
    return weak;
}
