/* heap.c - a heap of its own in C: fill it, free nine blocks in ten, and see what comes back and why.
 *
 *     cc heap.c $(python3 -m dmi env --flags) -o heap && ./heap
 */
#include <dmi/dmi.h>

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { BLOCKS = 200000 };

static void *blocks[BLOCKS];

static void say(const char *moment, void *heap) {
    dmi_stats stats;
    memset(&stats, 0, sizeof stats);
    stats.size = sizeof stats;
    if (dmi_heap_stats(heap, &stats, DMI_STATS_DETAIL) != 0) return;
    printf("%-14s committed %9" PRIu64 "  busy %9" PRIu64 "  pinned %9" PRIu64 "\n", moment,
           stats.committed, stats.busy, stats.pinned);
}

int main(void) {
    char error[160];
    dmi_policy policy;
    memset(&policy, 0, sizeof policy);
    policy.size = sizeof policy;
    if (dmi_policy_parse("lazy:delay=0.5", &policy, error, sizeof error) != 0) {
        fprintf(stderr, "%s\n", error);
        return 1;
    }
    dmi_heap_options options;
    memset(&options, 0, sizeof options);
    options.size = sizeof options;
    options.name = "records";
    options.policy = &policy;
    void *heap = dmi_heap_create(&options);
    if (heap == NULL) {
        perror("dmi_heap_create");
        return 1;
    }
    for (int n = 0; n < BLOCKS; n++) {
        blocks[n] = dmi_heap_malloc(heap, 100);
        if (blocks[n] == NULL) {
            perror("dmi_heap_malloc");
            return 1;
        }
    }
    say("at the peak", heap);
    for (int n = 0; n < BLOCKS; n++)
        if (n < BLOCKS / 2 || n % 5) dmi_heap_free(heap, blocks[n]);
    say("freed", heap);
    dmi_trim_report report;
    memset(&report, 0, sizeof report);
    report.size = sizeof report;
    if (dmi_heap_trim(heap, &report) != 0) perror("dmi_heap_trim");
    say("trimmed", heap);
    return dmi_heap_destroy(heap) == 0 ? 0 : 1;
}
