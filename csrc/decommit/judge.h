/* judge.h - floor 4: what becomes of a free page. One function decides it, for the back end and for subsegments.
 *
 * A page that is judged is committed, not offered, and holds no byte of a busy block. Every such page is judged once a
 * pass and counted then: in found when it stays, also in refused when nothing but a trim would move it, in given
 * when it goes. The lock that protects the page's run is held.
 */
#ifndef DMI_JUDGE_H
#define DMI_JUDGE_H

#include "engine.h"

typedef enum dmi_verdict {
    DMI_LEAVE, /* it stays: the pass wants it later, or not at all */
    DMI_WAIT, /* it stays, whatever the pass wants: the OS refused it, or its huge page stays whole */
    DMI_DEFER, /* it is due, but its huge page is whole: it goes when all of that may, or is split */
    DMI_GIVE,  /* it goes now */
    DMI_SKIP   /* it is none of those that this pass is for */
} dmi_verdict;

/* Judge the page `from`, and as many of [from, *stop) behind it as are alike; *stop becomes their end. rested: they are
 * known to have been free since the last pass, whatever the aged bits say. */
dmi_verdict _dmi_judge(dmi_sweep *sweep, const dmi_segment *segment, size_t from, size_t *stop,
                       bool rested);
/* Let so many free pages stay, and count them, if the pass allows it; else false. */
bool _dmi_let_stay(dmi_sweep *sweep, size_t pages);
/* Give back or offer one range, whose blocks were unlinked before. */
bool _dmi_give(dmi_sweep *sweep, dmi_segment *segment, size_t first, size_t pages);
/* Mark what is due, but whose unit is whole. */
void _dmi_defer(dmi_sweep *sweep, dmi_segment *segment, size_t first, size_t pages);
/* What was offered goes at once when the policy, or a trim, does not offer: it was free long enough then. */
void _dmi_give_offered(dmi_sweep *sweep, dmi_segment *segment, size_t first, size_t end);

#endif
