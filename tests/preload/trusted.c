/* trusted.c - says whether the kernel told it to mistrust its caller (setuid); linked against the library. */
#include "check.h"

#include <sys/auxv.h>

int main(void) {
    void *block = opaque(malloc(100));
    CHECK(block);
    free(block);
    printf("%lu\n", getauxval(AT_SECURE));
    return 0;
}
