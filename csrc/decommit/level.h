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
/* A kept block served a request of that many bytes: keeping paid. */
void _dmi_level_note_served(dmi_engine *engine, size_t bytes);
/* So many bytes were mapped, and nobody touched them yet: give back as much of what is kept, where the bound asks
 * for it. */
void _dmi_level_make_way(dmi_engine *engine, size_t bytes);
/* A virtual block is about to be freed: note how much is in use with it. */
void _dmi_level_note(dmi_engine *engine);
/* One more block is kept: give back what exceeds the bound. */
void _dmi_level_enforce(dmi_engine *engine);
#endif
