/* layout.h - floor 6: what a reader from outside must know about this library.
 *
 * dmi_layout_root is an exported symbol. It begins with DMI_LAYOUT_MAGIC, so a reader finds it by name or, without
 * names, by a search. It leads to every heap. When a process has loaded two copies of the library, the list of heaps is
 * empty in the one that does not serve.
 */
#ifndef DMI_LAYOUT_H
#define DMI_LAYOUT_H

#include <dmi/dmi.h>

#define DMI_LAYOUT_VERSION 3u

/* A member of a struct that the walker reads. A name without a dot is a whole struct. */
typedef struct dmi_layout_field {
    char name[24];
    uint32_t offset, size;
} dmi_layout_field;

#define DMI_LAYOUT_FIELDS 52

typedef struct dmi_layout {
    char magic[16];
    uint32_t size, version;
    uint32_t address_bits, field_count;
    /* The addresses of variables. */
    const void *heaps;   /* a pointer to the oldest heap; NULL: there is none */
    const void *page;    /* bytes of a page; 0: no heap was made yet */
    const void *pagemap; /* the table of slices (pagemap.h) */
    const void *key;     /* the secret of the checksums of tags */
    const void *link;    /* the secret of the links of subsegments (lfh.h) */
    const void *end;     /* where the last link of a list of a subsegment leads */
    const void *own;     /* its own mappings (own.h); layouts before this one end with end */
    dmi_layout_field fields[DMI_LAYOUT_FIELDS];
} dmi_layout;

DMI_API extern const dmi_layout dmi_layout_root;

/* The name of the first thing in which a layout that was found differs from this library's own; NULL: in nothing. */
const char *_dmi_layout_differs(const dmi_layout *found);
#endif
