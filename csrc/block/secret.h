/* secret.h - floor 3: random words without which nobody can forge a link, a tag or a canary.
 *
 * They are made once, with the first heap. Each purpose has a word of its own, so that to learn one does not give away
 * another. A fork child keeps them, because the blocks that its parent linked must stay linked. They are never printed
 * or saved. A reader from outside finds them by the layout (inspect/layout.h); it can read all memory anyway.
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
    uint64_t freed;  /* what freed blocks of hardened heaps begin with */
} dmi_secrets;

extern dmi_secrets _dmi_secret;

/* Make the secrets unless they are made. The caller holds the lock of the registry of heaps. Returns 0, or the errno
 * of _dmi_os_random: then they can be guessed. */
int _dmi_secret_setup(void);
#endif
