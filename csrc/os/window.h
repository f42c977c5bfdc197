/* window.h - one stretch of address space, at a random place, for the segments of a process: what it reserves in order,
 * lowest free place first. The place is drawn so that nobody can guess it, from an area that nothing else asks for.
 *
 * The area that the window lies in is clear of
 * - the low 4 GiB (non-PIE programs and their brk, LuaJIT without GC64, compressed references), and of all below 32 TiB:
 *   HotSpot's heaps with compressed references (attached up to 320 GiB), the views of ZGC for heaps up to 8 TiB, the
 *   arenas of Go's first 30 TiB (it wants 0xc0 << 32, and goes on 1 TiB further when that is full), and ASan's shadow
 *   (up to 0x10007fff7fff on x86-64, 0x201000000000 on AArch64);
 * - the allocators of ASan and LSan (4 TiB from 0x500000000000 on; formerly 0x600000000000 on x86-64);
 * - PIE programs and their brk (from two thirds of the address space on), stack, vdso and what mmap places below it.
 * LuaJIT with GC64 and V8 try random places below 2^47 and go round what is there.
 * (From compiler-rt's mapping and allocators of ASan and LSan, mallocinit of Go's runtime, the reserving of heaps in
 * OpenJDK and ZGC's globals for x86, LuaJIT's allocator, and Linux' ELF_ET_DYN_BASE and TASK_UNMAPPED_BASE.)
 *
 * MSan and TSan own all addresses and divide them otherwise: with them the backend refuses every place.
 *
 * A gap of one granule lies behind each range, so that what runs over the end of one meets nothing.
 */
#ifndef DMI_WINDOW_H
#define DMI_WINDOW_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where windows begin. Windows hands out addresses in steps of 64 KiB, so there the area must be wider. */
#if defined(_WIN32)
#define DMI_WINDOW_FROM ((uintptr_t)0x200000000000)
#define DMI_WINDOW_AREA ((uintptr_t)0x400000000000)
#elif defined(__aarch64__)
#define DMI_WINDOW_FROM ((uintptr_t)0x600000000000)
#define DMI_WINDOW_AREA ((uintptr_t)0x100000000000)
#else
#define DMI_WINDOW_FROM ((uintptr_t)0x400000000000)
#define DMI_WINDOW_AREA ((uintptr_t)0x100000000000)
#endif
/* How much of the address space one takes; the last one ends where the area ends. */
#define DMI_WINDOW_SIZE ((uintptr_t)1 << 40)
/* Up to 64 KiB a granule, what comes first lies within one aligned stretch of so many bytes if it is no larger than
 * DMI_WINDOW_WHOLE: then the page map needs one leaf for it. */
#define DMI_WINDOW_STRETCH ((uintptr_t)4 << 20)
#define DMI_WINDOW_WHOLE ((uintptr_t)5 << 19)

/* Where a window begins for that random number: a multiple of granule. */
uintptr_t _dmi_window_draw(uint64_t random, size_t granule);
/* Has a window been drawn? */
bool _dmi_window_is_open(void);
/* Draw it, if no other thread did so meanwhile. */
void _dmi_window_open(uint64_t random, size_t granule);
/* Take the lowest free place for size bytes, aligned, and a gap behind them. NULL: there is none, or there are too many
 * holes to remember one more. */
void *_dmi_window_claim(size_t size, size_t align);
/* Make a range, or a part of one, free again. Nothing happens to ranges outside the window. */
void _dmi_window_yield(const void *address, size_t size);
/* Tests only: forget all. */
void _dmi_window_reset(void);

void _dmi_window_lock(void);   /* around fork */
void _dmi_window_unlock(void); /* around fork */
#endif
