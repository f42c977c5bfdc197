/* store.h - numbered byte strings on one heap. */
#ifndef STORE_H
#define STORE_H

#include <stddef.h>

/* 0, or -1 with errno. The heap is made at the first call. */
int store_open(void);
void *store_heap(void);
/* The number of the new string, or -1 when there is no memory. */
long store_put(const char *bytes, size_t length);
/* NULL for a number that was never given or was dropped. */
const char *store_get(long number, size_t *length);
int store_drop(long number);

#endif
