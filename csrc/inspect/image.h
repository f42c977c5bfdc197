/* image.h - floor 6: the structs of a heap, of this process or of another, through a reader.
 *
 * An image gives the walker segments, runs and their memory. Of this process it gives the structs
 * themselves, and whoever walks holds the heap's locks. Of anything else (a stopped process, a core file) it
 * gives copies, whose pointers lead to copies again, so that all arithmetic on them is the same. What comes
 * from outside may be torn or hostile: every struct is checked before it is used, no list is followed in
 * a circle, and memory is what the caller gave, no more.
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

/* This process, seen from inside: copies nothing. */
extern const dmi_reader _dmi_reader_own;

#define DMI_IMAGE_RUN ((size_t)1 << 20) /* bytes of the largest run that has blocks inside */
#define DMI_IMAGE_WORDS (DMI_SEGMENT_LARGEST / 4096 / 64)

/* Room for what is read from outside; about 1.2 MiB. */
typedef struct dmi_copies {
    dmi_heap heap;
    dmi_segment segment, virtual_segment;
    dmi_run run, virtual_run;
    dmi_bits committed[DMI_IMAGE_WORDS], offered[DMI_IMAGE_WORDS], refused[DMI_IMAGE_WORDS],
        deferred[DMI_IMAGE_WORDS];
    char memory[DMI_IMAGE_RUN];
    dmi_shape shape;
    char theirs[DMI_SHAPE_LARGEST]; /* a struct of another build */
} dmi_copies;

typedef struct dmi_image {
    const dmi_reader *reader;
    dmi_copies *copies;     /* NULL: this process */
    const dmi_shape *shape; /* how another build lays out its structs; NULL: as we do */
    const char *differs;    /* why it was refused: a field that is missing, "version" or "page" */
    uint64_t heaps;         /* address of the oldest heap's record */
    uint64_t table, key;
    dmi_link_code code;
    /* The heap in work; copies hold one at a time. */
    const dmi_heap *heap;
    uint64_t heap_at, space_at;
    uint64_t segment_at;        /* where the segment in work lies */
    const dmi_segment *segment; /* it */
    uint64_t slice, leaf;       /* the leaf looked up last; leaf 0: none */
} dmi_image;

/* Open what the reader reads, whose layout root lies at that address: this build's, or another's since layout
 * 2, whose structs are read by the table that it carries. 0; ENOTSUP: a newer layout, a table that makes no
 * sense or another page size (differs tells); or the errno of the reader. */
int _dmi_image_open(dmi_image *image, const dmi_reader *reader, dmi_copies *copies, uint64_t root);
/* This process. */
void _dmi_image_open_own(dmi_image *image);
/* Make the heap whose record lies there the one in work. NULL: it cannot be read or makes no sense. */
const dmi_heap *_dmi_image_heap(dmi_image *image, uint64_t address);
/* Visit the addresses of all heaps, oldest first; not more than there can be. Returns what visit returned
 * when it stopped. */
int _dmi_image_heaps(dmi_image *image, int (*visit)(void *argument, uint64_t address),
                     void *argument);

/* A segment or a virtual block. */
typedef struct dmi_place {
    uint64_t base, size;
    uint64_t at; /* the dmi_segment, or the dmi_run of the virtual block */
    bool is_virtual;
} dmi_place;
/* The places of the heap in work that end behind `from`, lowest first, at most capacity of them; *more:
 * there may be others behind the last. Places that overlap a lower one are left out. */
size_t _dmi_image_places(dmi_image *image, uint64_t from, dmi_place *out, size_t capacity,
                         bool *more);
/* Make that segment the one in work. NULL: it makes no sense. */
const dmi_segment *_dmi_image_segment(dmi_image *image, uint64_t address);
/* The run that the page map names for a page of the segment in work; NULL: none, or none that makes
 * sense. */
const dmi_run *_dmi_image_run(dmi_image *image, size_t page);
/* The run that covers a page. The inside of a free run that came to be since it was looked up last is not
 * in the page map: its last page is. NULL: nothing that makes sense up to *next, where it goes on. */
const dmi_run *_dmi_image_covering(dmi_image *image, size_t page, size_t *next);
/* A virtual block's run, with its segment. NULL: it makes no sense. */
const dmi_run *_dmi_image_virtual(dmi_image *image, uint64_t address);
/* The bytes of a run of blocks; only its usable pages are there. NULL: they cannot be read. */
const char *_dmi_image_memory(dmi_image *image, const dmi_run *run);

#endif
