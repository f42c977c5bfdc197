/* linux_probes.c - the probes, each with its note in the section that tracers read.
 *
 * A note holds three addresses as the linker sees them (the probe's, that of a section which tells how far the file was
 * moved since, the semaphore's) and three texts: provider, name, and where each argument is, as SIZE@OPERAND. A probe
 * stands in a function of its own, so that there is one note of each.
 */
#include "probes.h"

/* Sections whose name is no usual one are kept in the file: the kernel finds a semaphore by its place there. */
#define SEMAPHORE __attribute__((section(".probes"), used))
volatile uint16_t _dmi_os_probe_alloc_semaphore SEMAPHORE;
volatile uint16_t _dmi_os_probe_free_semaphore SEMAPHORE;

#if defined(__x86_64__) || defined(__aarch64__)
__asm__(".pushsection .stapsdt.base,\"aG\",\"progbits\",.stapsdt.base,comdat\n"
        ".weak _.stapsdt.base\n"
        ".hidden _.stapsdt.base\n"
        "_.stapsdt.base: .space 1\n"
        ".size _.stapsdt.base, 1\n"
        ".popsection");

#define PROBE(name, semaphore, arguments)                                                          \
    "990: nop\n"                                                                                   \
    ".pushsection .note.stapsdt,\"\",\"note\"\n"                                                   \
    ".balign 4\n"                                                                                  \
    ".4byte 992f - 991f, 994f - 993f, 3\n"                                                         \
    "991: .asciz \"stapsdt\"\n"                                                                    \
    "992: .balign 4\n"                                                                             \
    "993: .8byte 990b, _.stapsdt.base, " semaphore "\n"                                            \
    ".asciz \"otel_memory\"\n"                                                                     \
    ".asciz \"" name "\"\n"                                                                        \
    ".asciz \"" arguments "\"\n"                                                                   \
    "994: .balign 4\n"                                                                             \
    ".popsection"

__attribute__((noinline)) void _dmi_os_probe_alloc(const void *block, uint64_t size,
                                                   uint64_t bytes) {
    __asm__ volatile(PROBE("alloc", "_dmi_os_probe_alloc_semaphore", "8@%0 8@%1 8@%2")
                     :
                     : "r"(block), "r"(size), "r"(bytes));
}

__attribute__((noinline)) void _dmi_os_probe_free(const void *block) {
    __asm__ volatile(PROBE("free", "_dmi_os_probe_free_semaphore", "8@%0") : : "r"(block));
}
#else
void _dmi_os_probe_alloc(const void *block, uint64_t size, uint64_t bytes) {
    (void)block, (void)size, (void)bytes;
}
void _dmi_os_probe_free(const void *block) { (void)block; }
#endif
