/* policy.h - floor 4: a policy as text and as a struct: checking, reading, writing. What each policy does stands in
 * policies.h.
 *
 * A dmi_policy comes from outside until it was checked; then its numbers are in range, for those fields that its `when`
 * uses. Nothing here has a state or takes a lock, but for probe, which may wait for another thread that reads
 * the pressure files.
 */
#ifndef DMI_POLICY_H
#define DMI_POLICY_H

#include <dmi/dmi.h>
#include <stdbool.h>
#include <stddef.h>

/* Fill in a policy with defaults in every field, those of other policies included. */
void _dmi_policy_set_default(dmi_policy *policy, dmi_when when);
/* Whether a struct given by a caller is a policy: its size, the enums, and the fields that its `when`
 * uses (the others may hold anything). 0 or EINVAL; then error (may be NULL) says what is accepted. */
int _dmi_policy_check(const dmi_policy *policy, char *error, size_t error_size);
/* 0, or ENOTSUP: on this machine the policy could never act. */
int _dmi_policy_probe(const dmi_policy *policy);
/* How this policy gives pages back on this system: never DMI_HOW_DEFAULT. */
dmi_how _dmi_policy_how(const dmi_policy *policy);

#endif
