/* agent.c - blocks are told of by their bytes. */
#include "agent.h"

#include "../block/watch.h"
#include "../os/probes.h"

#define BYTES (512.0 * 1024)

double _dmi_agent_chance(double x) {
    if (x > 20) return 1;
    if (x < 1e-3)
        return x * (1 - x / 2 * (1 - x / 3)); /* what is left of 1 - (1 - x) would be rounded */
    double y = x / 1024, e = 1 - y * (1 - y / 2 * (1 - y / 3));
    for (int i = 0; i < 10; i++) e *= e;
    return 1 - e;
}

uint32_t _dmi_agent_tell(const void *block, size_t size, double chance, double drawn) {
    if (!_dmi_os_probes_wanted()) return 0;
    if (size == 0) size = 1; /* it has room; and agents divide by it */
    double wanted = _dmi_agent_chance((double)size / BYTES);
    if (wanted > chance) wanted = chance;
    if (drawn * chance >= wanted) return 0;
    _dmi_os_probe_alloc(block, size, (uint64_t)((double)size / wanted + 0.5));
    return DMI_HOLDER_TOLD;
}
