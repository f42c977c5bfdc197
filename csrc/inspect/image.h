/* image.h - floor 6: the structs of a heap, of this process or of another, through a reader.
 *
 * An image gives the walker segments, runs and their memory. For this process it gives the structs themselves, and the
 * caller holds the heap's locks. For anything else (another process, a core file) it gives copies, whose pointers lead
 * to copies too, so that the same arithmetic works on them.
 *
 * What comes from outside may be torn or hostile. Every struct is checked before it is used, a list that leads back into
 * itself ends, and no memory is used but what the caller gave.
 */
#ifndef DMI_IMAGE_H
#define DMI_IMAGE_H

#include "../heap/heap.h"
#include "shape.h"

typedef struct dmi_reader {
    /* Copy size bytes at that address to `to`. 0, or an errno: then `to` may hold anything. */
    int (*read)(void *context, uint64_t address, void *to, size_t size);
    void *context;
} dmi_reader;

#define DMI_IMAGE_RUN ((size_t)1 << 20) /* bytes of the largest run that has blocks inside */
#define DMI_IMAGE_WORDS (DMI_SEGMENT_LARGEST / 4096 / 64)

/* Room for what is read from outside; about 1.2 MiB. */
typedef struct dmi_copies {
    dmi_heap heap;
    dmi_segment segment, virtual_segment;
    dmi_run run, virtual_run;
    dmi_blockmap waiting; /* of run: which blocks wait in a quarantine */
    dmi_bits committed[DMI_IMAGE_WORDS], offered[DMI_IMAGE_WORDS], refused[DMI_IMAGE_WORDS],
        deferred[DMI_IMAGE_WORDS];
    char memory[DMI_IMAGE_RUN];
    dmi_shape shape;
    char theirs[DMI_SHAPE_LARGEST]; /* a struct of another build */
} dmi_copies;

typedef struct dmi_image {
    const dmi_reader *reader; /* NULL: this process */
    dmi_copies *copies;       /* NULL: this process */
    const dmi_shape *shape;   /* how another build lays out its structs; NULL: as we do */
    const char *differs;      /* why it was refused: a field that is missing, "version" or "page" */
    uint64_t heaps;           /* the address of the oldest heap */
    uint64_t table, key;
    dmi_link_code code;
    /* The current heap, and the current segment of it: copies hold one of each. */
    const dmi_heap *heap;
    uint64_t heap_at, space_at;
    uint64_t segment_at; /* the address of its dmi_segment */
    const dmi_segment *segment;
    uint64_t slice, leaf; /* the leaf of the page map that was looked up last; leaf 0: none */
} dmi_image;

/* Open an image of what the reader reads; root is the address of its dmi_layout_root. It is of this build, or of another
 * one since layout 2, whose structs are read by the table that it carries. Returns 0, an errno of the reader, or ENOTSUP
 * (a newer layout, a table that makes no sense, or another page size; image->differs says which). */
int _dmi_image_open(dmi_image *image, const dmi_reader *reader, dmi_copies *copies, uint64_t root);
/* Open an image of this process. */
void _dmi_image_open_own(dmi_image *image);
/* Make the heap at that address the current one. NULL: it cannot be read, or makes no sense. */
const dmi_heap *_dmi_image_heap(dmi_image *image, uint64_t address);
/* Visit the address of each heap, oldest first, until visit returns another value than 0. Returns that value, or 0. */
int _dmi_image_heaps(dmi_image *image, int (*visit)(void *argument, uint64_t address),
                     void *argument);

/* A segment or a virtual block. */
typedef struct dmi_place {
    uint64_t base, size;
    uint64_t at; /* the address of the dmi_segment, or of the dmi_run of the virtual block */
    bool is_virtual;
} dmi_place;
/* The lowest places of the current heap that end behind `from`, by address, at most capacity of them. *more: there may
 * be others behind the last. A place that overlaps a lower one is left out. */
size_t _dmi_image_places(dmi_image *image, uint64_t from, dmi_place *out, size_t capacity,
                         bool *more);
/* Make that segment the current one. NULL: it makes no sense. */
const dmi_segment *_dmi_image_segment(dmi_image *image, uint64_t address);
/* The run that the page map names for a page of the current segment. NULL: it names none, or one that makes no sense. */
const dmi_run *_dmi_image_run(dmi_image *image, size_t page);
/* Of the run that was given last, from outside: which blocks wait in a quarantine, a bit for each up to carved. The run's
 * own count leaves them out, as the inside does, which lets them out before it looks. NULL: this process. */
static inline const dmi_blockmap *_dmi_image_waiting(const dmi_image *image) {
    return image->copies ? &image->copies->waiting : NULL;
}
/* The run that covers a page. The inside of a free run need not be in the page map; its last page is, so this looks up
 * later pages until one leads to a run. NULL: no run that makes sense covers the pages up to *next. */
const dmi_run *_dmi_image_covering(dmi_image *image, size_t page, size_t *next);
/* The run of a virtual block, with its segment. NULL: it makes no sense. */
const dmi_run *_dmi_image_virtual(dmi_image *image, uint64_t address);
/* The bytes of a run of blocks. Only its usable pages are read. NULL: they cannot be read. */
const char *_dmi_image_memory(dmi_image *image, const dmi_run *run);

#endif
