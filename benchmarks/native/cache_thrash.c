/* cache_thrash.c - active false sharing: threads that allocate at the same time must not be handed
 * parts of one cache line.
 *
 * cache_thrash [threads 2] [blocks a thread 3000000] [size 8] [writes of a block 50]
 */
#include "scratch.h"

int main(int argc, char **argv) { return scratch_main(argc, argv, "cache_thrash", 0); }
