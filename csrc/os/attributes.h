/* attributes.h - what a reservation was given besides memory, for backends that must give it again.
 *
 * The Linux backend needs it: a range that is mapped anew has lost its name and its huge page
 * advice, and without them it never merges with its neighbours again. The Windows backend tells by it
 * which reservations are dmi's. All functions are safe to call from any thread.
 */
#ifndef DMI_ATTRIBUTES_H
#define DMI_ATTRIBUTES_H

#include <stdbool.h>
#include <stddef.h>

typedef struct dmi_attributes {
    const char *name; /* NULL: none; lives for ever */
    bool huge;
} dmi_attributes;

/* Remember a reservation. One with nothing to remember costs nothing. When there is no room it is
 * forgotten: a name and an advice are not worth failing for. */
void _dmi_attributes_set(const void *address, size_t size, dmi_attributes given);
/* What the reservation around address was given; {NULL, false} if nothing. */
dmi_attributes _dmi_attributes_get(const void *address);
/* The range is about to go: a whole reservation, or either end of one. Of a piece from the middle
 * nothing is noted; the entry goes on covering the hole, which does no harm. */
void _dmi_attributes_clear(const void *address, size_t size);

/* The reservation that begins at address is two from now on, the first of them first bytes long. False: no room to
 * remember both; then it is one still. */
bool _dmi_attributes_split(const void *address, size_t first);
/* Two that lie side by side are one from now on. False: they were given different things. */
bool _dmi_attributes_join(const void *left, const void *right);

void _dmi_attributes_lock(void);   /* around fork */
void _dmi_attributes_unlock(void); /* around fork */

#endif
