/* pressure.h - floor 4: is the machine short of memory?
 *
 * Two witnesses. The kernel's pressure file says which share of the last ten seconds some task stood
 * still for lack of memory; the cgroups around this process say how near they are to their limits. What
 * they say is read at most once a second by the OS's clock, and kept for the whole process.
 */
#ifndef DMI_PRESSURE_H
#define DMI_PRESSURE_H

#include <dmi/dmi.h>
#include <stdbool.h>

/* 0: there is a pressure file, or a memory limit on some cgroup around this process. ENOTSUP: neither, so
 * that the policy could never act. Any thread; may wait for another one that reads. */
int _dmi_pressure_probe(void);
/* Is there more pressure than the policy's psi (percent), or more used than 1 - headroom of some limit?
 * Any thread; never waits: while another thread reads, the last answer counts. */
bool _dmi_pressure_high(const dmi_policy *policy);
void _dmi_pressure_lock(void);   /* around fork */
void _dmi_pressure_unlock(void); /* around fork */
/* Tests: put this in front of every path, and forget what was read. The text must live on. */
void _dmi_pressure_set_root(const char *prefix);

#endif
