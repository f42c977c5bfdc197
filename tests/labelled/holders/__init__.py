"""Programs of other runtimes and allocators, and whose memory theirs is."""
