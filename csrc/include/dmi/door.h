/* door.h - doors for a program that had another allocator before, such as a language's runtime.
 *
 * Four functions with a context first, as PyMemAllocatorEx has them. They serve the heap that the calling thread
 * has entered, else the one of the process. A block that no heap of dmi owns is the other allocator's, and goes
 * back to it: one look at the page map tells. So the doors may be put in place while the program runs.
 */
#ifndef DMI_DOOR_H
#define DMI_DOOR_H

#include <dmi/dmi.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The context: the other allocator. It lives as long as the doors are used. */
typedef struct dmi_door {
    size_t size;
    void *other; /* what its functions are called with */
    void *(*other_realloc)(void *other, void *block, size_t size);
    void (*other_free)(void *other, void *block);
} dmi_door;

/* As malloc and friends. NULL with errno; ENOMEM as well where neither the thread nor the process has a heap. */
DMI_API void *dmi_door_malloc(void *door, size_t size);
DMI_API void *dmi_door_calloc(void *door, size_t count, size_t size);
/* A block of a heap stays in that heap, whichever was entered; a block of the other allocator, whose size only
 * that one knows, is resized by it and then moved. Size 0 is taken for 1. On failure the block is as it was. */
DMI_API void *dmi_door_realloc(void *door, void *block, size_t size);
DMI_API void dmi_door_free(void *door, void *block);

/* The heap of every thread that has entered none; NULL: none. EINVAL for a stale handle. The heap must not be
 * destroyed while the doors may be used. */
DMI_API int dmi_door_set(void *heap);
/* The heap of this thread from now on; NULL: the process's. Returns the one before. A stale handle is found by
 * the next allocation, which then comes from the process's. */
DMI_API void *dmi_door_enter(void *heap);
/* The heap that this thread's allocations come from now; NULL: none. */
DMI_API void *dmi_door_heap(void);

#ifdef __cplusplus
}
#endif
#endif
