/* A plugin as PHP loads its extensions: with RTLD_DEEPBIND, so that it would find the C library's malloc. */
#include <stdlib.h>
#include <string.h>

char *make(void) { return strcpy(malloc(50), "made"); }
char *copy(const char *text) { return strdup(text); }
void give_back(void *block) { free(block); }
char *grow(char *block) { return realloc(block, 5000); }
