/* level.h - floor 4: what is kept never makes a heap larger than it was within the last delay.
 *
 * The level is what is in use: committed pages less free ones, less what of a fresh block nobody touched yet. The
 * most it was within the last delay is remembered. Kept virtual blocks and long free runs go, the oldest and the
 * longest first, when with them more would be committed than that; and a fresh mapping, which may lift the level,
 * takes the place of as much of them as it is long. Requests that kept blocks served show that keeping pays, and
 * raise the bound by as much as they were, by five sixteenths at most. The heap's lock is held.
 */
#ifndef DMI_LEVEL_H
#define DMI_LEVEL_H

#include "policies.h"

/* Does the policy want that? */
static inline bool _dmi_level_counts(const dmi_engine *engine) {
    return _dmi_policy_row(&engine->policy)->bounded;
}
/* A kept block served a request of that many bytes. */
void _dmi_level_served(dmi_engine *engine, size_t bytes);
/* So many bytes were mapped, and nobody touched them yet. */
void _dmi_level_mapped(dmi_engine *engine, size_t bytes);
/* A virtual block is about to be freed; then it was kept. */
void _dmi_level_freeing(dmi_engine *engine);
void _dmi_level_kept(dmi_engine *engine);
#endif
