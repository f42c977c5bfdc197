/* mallopt.c - prints what each knob answers; with "heap" as a word, whether the default heap keeps everything
 * after the knobs that say so and the ones that take it back. */
#define _GNU_SOURCE
#include "check.h"

#include <dlfcn.h>
#include <dmi/dmi.h>
#include <limits.h>
#include <malloc.h>

static int keeps(void) {
    void *(*heap)(void);
    int (*ask)(void *, dmi_heap_info *);
    *(void **)&heap = dlsym(RTLD_DEFAULT, "dmi_heap_default");
    *(void **)&ask = dlsym(RTLD_DEFAULT, "dmi_heap_get_info");
    CHECK(heap && ask);
    dmi_heap_info info = {.size = sizeof info};
    CHECK(ask(heap(), &info) == 0);
    return info.policy.when == DMI_WHEN_NEVER;
}

int main(int count, char **words) {
    static const int knobs[] = {M_MXFAST,         M_NLBLKS,   M_GRAIN,        M_KEEP,       M_TRIM_THRESHOLD, M_TOP_PAD,
                                M_MMAP_THRESHOLD, M_MMAP_MAX, M_CHECK_ACTION, M_ARENA_TEST, M_ARENA_MAX,      -99, 99};
    static const int values[] = {0, 1, 64, 160, 161, 4096, 131072, 32 << 20, (32 << 20) + 1, INT_MAX, -1, INT_MIN};
    if (count > 1) {
        printf("%d", keeps());
        static const int thresholds[] = {4096, -1, -1, -2, 131072, -1, 0};
        for (size_t i = 0; i < sizeof thresholds / sizeof *thresholds; i++) {
            errno = 7;
            CHECK(mallopt(M_TRIM_THRESHOLD, thresholds[i]) == 1 && errno == 7);
            printf(" %d", keeps());
        }
        CHECK(mallopt(M_PERTURB, 0) == 1 && mallopt(M_PERTURB, 85) == 0);
        return 0;
    }
    (void)words;
    for (size_t i = 0; i < sizeof knobs / sizeof *knobs; i++) {
        printf("%d:", knobs[i]);
        for (size_t j = 0; j < sizeof values / sizeof *values; j++) printf(" %d", mallopt(knobs[i], values[j]));
        printf("\n");
        free(opaque(malloc(1000))); /* the heap goes on whatever was said */
    }
    return 0;
}
