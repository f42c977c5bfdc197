/* cache_scratch.c - passive false sharing: the main thread allocates neighbouring blocks, one for
 * each thread; a thread frees the one it got and must not be handed its part of that shared line
 * again.
 *
 * cache_scratch [threads 2] [blocks a thread 3000000] [size 8] [writes of a block 50]
 */
#include "scratch.h"

int main(int argc, char **argv) { return scratch_main(argc, argv, "cache_scratch", 1); }
