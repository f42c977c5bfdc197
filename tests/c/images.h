/* images.h - a copy of what a walk reads of this process, page by page: to be walked without the process,
 * and to be damaged. */
#ifndef DMI_IMAGES_H
#define DMI_IMAGES_H

#include "inspect/account.h"
#include "inspect/layout.h"
#include "inspect/walk.h"
#include "test.h"

#define IMAGES_PAGE 4096u
#define IMAGES_SLOTS 65536u /* a power of two: an open hash table */
#define IMAGES_HARM 64

typedef struct images_page {
    uint64_t address; /* 0: nobody's */
    unsigned char *bytes;
} images_page;

typedef struct images_image {
    dmi_reader reader;
    dmi_copies *copies;
    bool closed; /* what is not here yet is not there */
    uint64_t root, reads;
    size_t count;
    images_page pages[IMAGES_SLOTS];
    images_page *order[IMAGES_SLOTS];
    struct {
        unsigned char *at, was[8];
    } harm[IMAGES_HARM];
    size_t harmed;
} images_image;

static inline images_page *images_slot(images_image *image, uint64_t address) {
    uint64_t h = (address / IMAGES_PAGE) * UINT64_C(0x9e3779b97f4a7c15) >> 40;
    while (image->pages[h % IMAGES_SLOTS].address &&
           image->pages[h % IMAGES_SLOTS].address != address)
        h++;
    return &image->pages[h % IMAGES_SLOTS];
}

/* Whole pages, with whatever the address sanitizer keeps between variables. */
__attribute__((no_sanitize("address", "thread"), noinline)) static void
images_copy(unsigned char *to, uint64_t page) {
    const volatile uint64_t *from = (const volatile uint64_t *)(uintptr_t)page;
    for (size_t i = 0; i < IMAGES_PAGE / 8; i++) ((volatile uint64_t *)(void *)to)[i] = from[i];
}

static inline int images_read(void *context, uint64_t address, void *to, size_t size) {
    images_image *image = context;
    image->reads++;
    for (size_t done = 0; done < size;) {
        uint64_t at = address + done, page = at & ~(uint64_t)(IMAGES_PAGE - 1);
        images_page *slot = images_slot(image, page);
        if (!slot->address) {
            if (image->closed) return 14; /* EFAULT */
            if (image->count == IMAGES_SLOTS / 2) abort();
            slot->address = page;
            slot->bytes = malloc(IMAGES_PAGE);
            if (!slot->bytes) abort();
            images_copy(slot->bytes, page);
            image->order[image->count++] = slot;
        }
        size_t part = (size_t)(page + IMAGES_PAGE - at);
        if (part > size - done) part = size - done;
        memcpy((char *)to + done, slot->bytes + (at - page), part);
        done += part;
    }
    return 0;
}

static inline images_image *images_new(void) {
    images_image *image = calloc(1, sizeof *image);
    if (!image || !(image->copies = calloc(1, sizeof *image->copies))) abort();
    image->reader = (dmi_reader){.read = images_read, .context = image};
    image->root = (uintptr_t)&dmi_layout_root;
    return image;
}

static inline void images_delete(images_image *image) {
    for (size_t i = 0; i < image->count; i++) free(image->order[i]->bytes);
    free(image->copies);
    free(image);
}

typedef struct images_search {
    uint64_t wanted, seen;
} images_search;

static inline int images_is(void *argument, uint64_t address) {
    images_search *s = argument;
    s->seen++;
    return address == s->wanted;
}

/* Open the image, look the heap up in its list, walk it. 0, or where it ended. */
static inline int images_walk(images_image *image, const dmi_heap *heap, dmi_visit visit,
                              void *argument) {
    dmi_image opened;
    images_search search = {.wanted = (uintptr_t)heap};
    if (_dmi_image_open(&opened, &image->reader, image->copies, image->root)) return 1;
    if (!_dmi_image_heaps(&opened, images_is, &search)) return 2;
    if (!_dmi_image_heap(&opened, search.wanted)) return 3;
    return _dmi_walk_image(&opened, visit, argument);
}

/* Write something over some words of the image: noise, small numbers, or words from elsewhere, among them
 * pointers into the wrong place. */
static inline void images_damage(images_image *image, uint64_t *seed) {
    size_t n = 1 + test_random(seed) % IMAGES_HARM;
    if (test_random(seed) % 2) n = 1 + n % 4;
    for (image->harmed = 0; image->harmed < n; image->harmed++) {
        uint64_t r = test_random(seed), word = 0;
        /* Metadata is a small part of the pages, and is read first. */
        size_t most = r % 4 ? image->count / 16 + 1 : image->count;
        const images_page *page = image->order[(r >> 16) % most];
        size_t offset = (r >> 40) % (IMAGES_PAGE / 8) * 8;
        if (r % 8 < 5) /* where something stands */
            for (size_t i = 0; i < IMAGES_PAGE; i += 8, offset = (offset + 8) % IMAGES_PAGE) {
                memcpy(&word, page->bytes + offset, 8);
                if (word) break;
            }
        const images_page *other = image->order[test_random(seed) % image->count];
        size_t from = test_random(seed) % (IMAGES_PAGE / 8) * 8;
        memcpy(image->harm[image->harmed].was, page->bytes + offset, 8);
        image->harm[image->harmed].at = page->bytes + offset;
        memcpy(&word, page->bytes + offset, 8);
        switch (test_random(seed) % 7) {
        case 0: word = test_random(seed); break;
        case 1: word ^= UINT64_C(1) << test_random(seed) % 64; break;
        case 2: word += test_random(seed) % 1024; break;
        case 3: word = UINT64_MAX >> test_random(seed) % 64; break;
        case 4: memcpy(&word, other->bytes + from, 8); break;
        case 5: word = other->address + from; break;
        default: word = test_random(seed) % 300; break;
        }
        memcpy(page->bytes + offset, &word, 8);
    }
}

static inline void images_repair(images_image *image) {
    while (image->harmed--)
        memcpy(image->harm[image->harmed].at, image->harm[image->harmed].was, 8);
    image->harmed = 0;
}

#endif
