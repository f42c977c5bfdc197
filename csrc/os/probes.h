/* probes.h - floor 1: places that a tracer of the system can attach to, as OpenTelemetry's profiler expects them.
 *
 * otel_memory:alloc(block, size, bytes) and otel_memory:free(block) are user-space probes of the kind that SystemTap
 * began (USDT): an instruction that does nothing, and a note in the file that says where it is, where its arguments are
 * and where its semaphore lies. The kernel or a debugger that attaches makes the semaphore greater than 0, and takes
 * that back when it leaves. Where the system has no such probes nobody is ever there.
 */
#ifndef DMI_PROBES_H
#define DMI_PROBES_H

#include <stdbool.h>
#include <stdint.h>

/* Written from outside, at any time. */
extern volatile uint16_t _dmi_os_probe_alloc_semaphore __attribute__((visibility("hidden")));
extern volatile uint16_t _dmi_os_probe_free_semaphore __attribute__((visibility("hidden")));

/* Is anybody attached? */
static inline bool _dmi_os_probes_wanted(void) {
    return (_dmi_os_probe_alloc_semaphore | _dmi_os_probe_free_semaphore) != 0;
}
/* A block of size bytes was handed out that stands for so many bytes. */
void _dmi_os_probe_alloc(const void *block, uint64_t size, uint64_t bytes);
/* A block that was told of is about to be freed. */
void _dmi_os_probe_free(const void *block);

#endif
