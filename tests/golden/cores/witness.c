/* witness.c - allocates, frees, and prints what it still has: address and size, a line each. Then it waits. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SLOTS = 900 };

int main(void) {
    static char *at[SLOTS];
    static size_t size[SLOTS];
    unsigned s = 1;
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < SLOTS; i++) {
            s = s * 1103515245 + 12345;
            if (at[i] && (s >> 16) % 3) {
                free(at[i]);
                at[i] = NULL;
            }
            if (at[i] || (s >> 20) % 2) continue;
            size[i] = i % 300 == 7      ? (size_t)3 << 20
                      : (s >> 12) % 100 ? 16 + (s >> 8) % 300
                                        : 20000;
            at[i] = malloc(size[i]);
            if (!at[i]) return 1;
            memset(at[i], 1, 16);
        }
    sleep(3); /* what the policy gives back goes meanwhile */
    static char room[1 << 16];
    setvbuf(stdout, room, _IOFBF, sizeof room);
    for (int i = 0; i < SLOTS; i++)
        if (at[i]) printf("%p %zu\n", (void *)at[i], size[i]);
    fflush(stdout);
    pause();
}
