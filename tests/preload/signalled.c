/* signalled.c - asks for a summary by a signal and goes on allocating; ends after two lines on stdin. */
#include "check.h"

#include <signal.h>
#include <unistd.h>

int main(void) {
    char line[16];
    CHECK(fgets(line, sizeof line, stdin));
    CHECK(raise(SIGUSR2) == 0);
    for (int i = 0; i < 100; i++) {
        void *p = opaque(malloc((size_t)(i + 1) * 3000));
        fill(p, 3000, 1);
        free(p);
    }
    puts("alive");
    (void)fclose(stderr); /* as coreutils do at exit */
    return 0;
}
