/* probe.c - name the file that serves malloc in this process: a preload that the loader could not
 * use is only a warning on stderr, and a comparison of glibc with itself would follow.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

int main(void) {
    void *block = malloc(100);
    free(block);
    Dl_info info;
    void *function = dlsym(RTLD_DEFAULT, "malloc");
    if (!function || !dladdr(function, &info) || !info.dli_fname) return 1;
    return puts(info.dli_fname) < 0;
}
