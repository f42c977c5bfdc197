/* policy.h - floor 4: what a policy is, as text and as a struct. The engine carries it out. */
#ifndef DMI_POLICY_H
#define DMI_POLICY_H

#include <dmi/dmi.h>
#include <stdbool.h>
#include <stddef.h>

/* The policy with defaults in every field, those of other policies included. */
void _dmi_policy_default(dmi_policy *policy, dmi_when when);
/* Whether a struct given by a caller is a policy: its size, the enums, and the fields that its `when`
 * uses (the others may hold anything). 0 or EINVAL; then error (may be NULL) says what is accepted. */
int _dmi_policy_check(const dmi_policy *policy, char *error, size_t error_size);
/* How this policy gives pages back on this system: never DMI_HOW_DEFAULT. */
dmi_how _dmi_policy_how(const dmi_policy *policy);
/* Does it act with the free that makes memory free, and not at passes? */
static inline bool _dmi_policy_at_once(const dmi_policy *policy) {
    return policy->when == DMI_WHEN_EAGER || policy->when == DMI_WHEN_THRESHOLD;
}

#endif
