/* ages.h - floor 6: for how long free pages have been known to be free. */
#ifndef DMI_AGES_H
#define DMI_AGES_H

#include "account.h"

/* Add the ages of a run's reclaimable bytes to the stats, and note in the segment which pages were found free now. The
 * account was made with detail, under the same locks. */
void _dmi_ages_add_run(const dmi_run *run, const dmi_account *account, dmi_stats *stats);
/* The same for a kept virtual block. The heap is locked. */
void _dmi_ages_add_virtual(const dmi_run *run, const dmi_account *account, dmi_stats *stats);

#endif
