/* windows_probes.c - the system has no such probes. */
#include "probes.h"

volatile uint16_t _dmi_os_probe_alloc_semaphore, _dmi_os_probe_free_semaphore;

void _dmi_os_probe_alloc(const void *block, uint64_t size, uint64_t bytes) {
    (void)block, (void)size, (void)bytes;
}
void _dmi_os_probe_free(const void *block) { (void)block; }
