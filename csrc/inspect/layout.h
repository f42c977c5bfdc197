/* layout.h - floor 6: what a reader from outside must know of this library, told by the library itself.
 *
 * dmi_layout_root is an exported symbol, and its first bytes are DMI_LAYOUT_MAGIC, so that it can be found by
 * name or, where names are gone, by search. From it every heap can be reached. A process may have loaded
 * two copies of the library; the one in use is the one whose list of heaps is not empty.
 */
#ifndef DMI_LAYOUT_H
#define DMI_LAYOUT_H

#include <dmi/dmi.h>

#define DMI_LAYOUT_VERSION 3u

/* One member of one struct that the walker reads; a name without a dot is the struct itself. */
typedef struct dmi_layout_field {
    char name[24];
    uint32_t offset, size;
} dmi_layout_field;

#define DMI_LAYOUT_FIELDS 51

typedef struct dmi_layout {
    char magic[16];
    uint32_t size, version;
    uint32_t address_bits, field_count;
    /* Where these variables lie. */
    const void *heaps;   /* the oldest heap's record, NULL: none */
    const void *page;    /* bytes of a page, 0: nothing was set up */
    const void *pagemap; /* the table of slices (pagemap.h) */
    const void *key;     /* what tags are sealed with */
    const void *link;    /* what links of subsegments are encoded with (lfh.h) */
    const void *end;     /* this is the address that their last link holds */
    dmi_layout_field fields[DMI_LAYOUT_FIELDS];
} dmi_layout;

DMI_API extern const dmi_layout dmi_layout_root;

/* NULL when whoever told of itself has the structs that this library was compiled with; else the name
 * of the first one that differs, which lies in found or in this library's own layout. */
const char *_dmi_layout_differs(const dmi_layout *found);
#endif
