/* secret.h - floor 3: what whoever forges a link, a tag or a canary would have to know.
 *
 * Random, made once with the first heap, one word for each purpose, so that no one of them tells another. They stay
 * the same in a fork child: blocks that the parent linked must stay linked. They are never printed or saved; a reader
 * from outside finds them by the layout (inspect/layout.h), for it can read all memory anyway.
 */
#ifndef DMI_SECRET_H
#define DMI_SECRET_H

#include <stdint.h>

typedef struct dmi_secrets {
    uint64_t link;   /* links between free blocks of a subsegment */
    uint64_t mark;   /* marks of free blocks of a subsegment */
    uint64_t list;   /* links between free blocks of the free list */
    uint64_t tag;    /* checksums of the free list's tags */
    uint64_t canary; /* words behind the blocks of hardened heaps */
} dmi_secrets;

extern dmi_secrets _dmi_secret;

/* Idempotent; the registry of heaps is locked. 0, or why the OS gave no random bytes for them (_dmi_os_random): then
 * nobody may rely on them. */
int _dmi_secret_setup(void);
#endif
