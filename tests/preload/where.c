/* Where do blocks lie? Prints two addresses and its own map; a fork child must see the same window, and place its
 * next segment in it. With an argument, address space is limited first. */
#include "check.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static uintptr_t of(size_t size) { return (uintptr_t)opaque(malloc(size)); }

int main(int count, char **words) {
    if (count > 1) {
        struct rlimit limit = {0, 0};
        limit.rlim_cur = limit.rlim_max = strtoul(words[1], NULL, 10) << 20;
        CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
    }
    uintptr_t first = of(100), second = of(3 << 20);
    CHECK(first && second);
    printf("%#lx %#lx %#lx\n", (unsigned long)first, (unsigned long)second,
           (unsigned long)of(1 << 20));
    fflush(stdout);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        uintptr_t more = of(6 << 20);
        CHECK(more > first && more - first < (uintptr_t)1 << 40);
        memset((void *)first, 1, 100);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && status == 0);
    return 0;
}
