/* view.h - floor 7: the memory of another process, seen piece by piece.
 *
 * A walker asks for 16 bytes at an address that is a multiple of 16. The view has them in its piece, or asks its source
 * for another piece. So a walk costs a call for each piece, not for each word, and needs no memory but that of the
 * source. All that is read is untrusted.
 */
#ifndef DMI_FOREIGN_VIEW_H
#define DMI_FOREIGN_VIEW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct dmi_piece {
    const unsigned char *bytes; /* the memory at address; NULL: there is none */
    uint64_t address;
    size_t size;      /* bytes of it */
    uint64_t goes_on; /* if bytes is NULL: the next address at which there may be memory */
} dmi_piece;

/* Fill in the piece that begins at or before address and holds the 16 bytes there. wanted is about how many bytes will
 * be used. Returns 0, even if there is no memory, or an errno to stop the walk. */
typedef int (*dmi_look)(void *context, uint64_t address, size_t wanted, dmi_piece *piece);

typedef struct dmi_view {
    dmi_look look;
    void *context;
    dmi_piece piece;
    size_t wanted;
    uint64_t looks, most_looks; /* pieces asked for, and how many may be */
    int error;                  /* what look returned; EFBIG after most_looks */
} dmi_view;

#define DMI_VIEW_LEAST ((size_t)16 << 10)
#define DMI_VIEW_MOST ((size_t)1 << 20)

void _dmi_view_open(dmi_view *view, dmi_look look, void *context, uint64_t most_looks);
/* Forget the piece, so that the next words are read again. */
void _dmi_view_forget(dmi_view *view);
const uint64_t *_dmi_view_move(dmi_view *view, uint64_t address);

/* The two words at that address, a multiple of 16. NULL: there is no memory, and view->piece.goes_on is where to go on;
 * or view->error is set. */
static inline const uint64_t *_dmi_view_pair(dmi_view *view, uint64_t address) {
    uint64_t offset = address - view->piece.address;
    if (view->piece.bytes && offset <= view->piece.size - 16)
        return (const uint64_t *)(const void *)(view->piece.bytes + offset);
    return _dmi_view_move(view, address);
}

#endif
