/* view.c - the view of the memory of another process. */
#include "view.h"

#include <errno.h>
#include <string.h>

void _dmi_view_open(dmi_view *view, dmi_look look, void *context, uint64_t most_looks) {
    memset(view, 0, sizeof *view);
    view->look = look;
    view->context = context;
    view->wanted = DMI_VIEW_LEAST;
    view->most_looks = most_looks;
}

void _dmi_view_forget(dmi_view *view) {
    view->piece.bytes = NULL;
    view->piece.size = 0;
}

const uint64_t *_dmi_view_move(dmi_view *view, uint64_t address) {
    dmi_piece *w = &view->piece;
    if (view->error) return NULL;
    if (view->looks++ >= view->most_looks) {
        view->error = EFBIG;
        return NULL;
    }
    /* A walk that goes on where the piece ended will read much, one that jumps will read little. */
    bool onward = w->bytes && address - w->address <= w->size + 4096;
    if (!onward) view->wanted = DMI_VIEW_LEAST;
    else if (view->wanted < DMI_VIEW_MOST) view->wanted *= 2;
    dmi_piece found = {.bytes = NULL};
    view->error = view->look(view->context, address, view->wanted, &found);
    if (!view->error && found.bytes &&
        (found.size < 16 || address < found.address || address - found.address > found.size - 16 ||
         (uintptr_t)found.bytes % 8))
        found.bytes = NULL;
    if (view->error || !found.bytes) {
        uint64_t on = view->error ? 0 : found.goes_on;
        _dmi_view_forget(view);
        w->goes_on = on > address ? on : address + 16;
        return NULL;
    }
    *w = found;
    return (const uint64_t *)(const void *)(w->bytes + (address - w->address));
}
