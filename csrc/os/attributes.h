/* attributes.h - floor 1: the name and the huge page advice of each reservation.
 *
 * On Linux a range that is mapped anew loses both. Without them the kernel never merges it with its neighbours again,
 * so they are given again. On Windows the table tells which reservations are dmi's. All functions may be called from
 * any thread.
 */
#ifndef DMI_ATTRIBUTES_H
#define DMI_ATTRIBUTES_H

#include <stdbool.h>
#include <stddef.h>

typedef struct dmi_attributes {
    const char *name; /* never freed; NULL: none */
    bool huge;
} dmi_attributes;

/* Remember a reservation, unless there is nothing to remember. Without memory for it the reservation is not
 * remembered: names and advice are no reason to fail. */
void _dmi_attributes_set(const void *address, size_t size, dmi_attributes given);
/* The attributes of the reservation around address; {NULL, false}: it has none. */
dmi_attributes _dmi_attributes_get(const void *address);
/* Forget a range that is about to be released: a whole reservation, or one end of it. A hole in the middle is not
 * noted; that its entry covers the hole too does no harm. */
void _dmi_attributes_clear(const void *address, size_t size);

/* Make two entries of the one that begins at address; the first of them covers first bytes. False: there is no memory
 * for another entry; nothing changed. */
bool _dmi_attributes_split(const void *address, size_t first);
/* Make one entry of two that lie side by side. False: their attributes differ; nothing changed. */
bool _dmi_attributes_join(const void *left, const void *right);

/* Lock and unlock the table around a fork. */
void _dmi_attributes_lock(void);
void _dmi_attributes_unlock(void);

#endif
