/* free_foreign.c - a pointer that no heap handed out ends the program with a message that names it. */
#include "check.h"

int main(void) {
    static char block[4096];
    free(opaque(block + 1024));
    return 0;
}
