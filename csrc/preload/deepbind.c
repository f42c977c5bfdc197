/* deepbind.c - dlopen without RTLD_DEEPBIND.
 *
 * A library that is loaded with that flag looks for symbols in itself and in what it needs before it looks where
 * everybody else does. So it finds the C library's malloc behind ours, and what it allocates comes to our free:
 * PHP, which loads its extensions so, died under every malloc that is preloaded. The flag is therefore taken off,
 * unless DMI_OPTIONS says deepbind=keep.
 *
 * dlopen asks who its caller is: that one's RUNPATH and namespace count. So this is no function that calls the real
 * one: it changes the flags and jumps on, and the real one returns to the caller. Hence assembly. Where it is not
 * written for a processor, dlopen stays what it was.
 */
#define _GNU_SOURCE
#include "preload.h"

#include <dlfcn.h>
#include <errno.h>

/* What is left of the flags. */
uint32_t _dmi_preload_dlopen_mask = ~(uint32_t)RTLD_DEEPBIND;

#if defined(__x86_64__) || defined(__aarch64__)

/* The next in line, NULL until somebody asks. Written more than once perhaps, always with the same. */
void *_dmi_next_dlopen, *_dmi_next_dlmopen;

/* Constructors of other libraries run before ours, and may call dlopen. */
void _dmi_find_dlopen(void);
__attribute__((used)) void _dmi_find_dlopen(void) {
    int saved = errno;
    _dmi_preload_read_options();
    _dmi_next_dlopen = dlsym(RTLD_NEXT, "dlopen");
    _dmi_next_dlmopen = dlsym(RTLD_NEXT, "dlmopen");
    errno = saved;
}

#if defined(__x86_64__)

/* FLAGS: the register that holds them. Three registers saved leave the stack aligned for the call. */
#define DOOR(NAME, FLAGS)                                                                          \
    __asm__(".text\n"                                                                              \
            ".p2align 4\n"                                                                         \
            ".globl " NAME "\n"                                                                    \
            ".type " NAME ", @function\n" NAME ":\n"                                               \
            ".cfi_startproc\n"                                                                     \
            "    movq _dmi_next_" NAME "(%rip), %rax\n"                                            \
            "    testq %rax, %rax\n"                                                               \
            "    jne 1f\n"                                                                         \
            "    pushq %rdi\n"                                                                     \
            "    .cfi_adjust_cfa_offset 8\n"                                                       \
            "    pushq %rsi\n"                                                                     \
            "    .cfi_adjust_cfa_offset 8\n"                                                       \
            "    pushq %rdx\n"                                                                     \
            "    .cfi_adjust_cfa_offset 8\n"                                                       \
            "    call _dmi_find_dlopen\n"                                                          \
            "    popq %rdx\n"                                                                      \
            "    .cfi_adjust_cfa_offset -8\n"                                                      \
            "    popq %rsi\n"                                                                      \
            "    .cfi_adjust_cfa_offset -8\n"                                                      \
            "    popq %rdi\n"                                                                      \
            "    .cfi_adjust_cfa_offset -8\n"                                                      \
            "    movq _dmi_next_" NAME "(%rip), %rax\n"                                            \
            "1:  andl _dmi_preload_dlopen_mask(%rip), " FLAGS "\n"                                 \
            "    jmpq *%rax\n"                                                                     \
            ".cfi_endproc\n"                                                                       \
            ".size " NAME ", . - " NAME "\n")

DOOR("dlopen", "%esi");
DOOR("dlmopen", "%edx");

#else

#define DOOR(NAME, FLAGS)                                                                          \
    __asm__(".text\n"                                                                              \
            ".p2align 4\n"                                                                         \
            ".globl " NAME "\n"                                                                    \
            ".type " NAME ", %function\n" NAME ":\n"                                               \
            ".cfi_startproc\n"                                                                     \
            "    hint 34\n" /* where branches are guarded, one may land here */                    \
            "    adrp x16, _dmi_next_" NAME "\n"                                                   \
            "    ldr x16, [x16, :lo12:_dmi_next_" NAME "]\n"                                       \
            "    cbnz x16, 1f\n"                                                                   \
            "    stp x29, x30, [sp, #-48]!\n"                                                      \
            "    .cfi_def_cfa_offset 48\n"                                                         \
            "    .cfi_offset 29, -48\n"                                                            \
            "    .cfi_offset 30, -40\n"                                                            \
            "    stp x0, x1, [sp, #16]\n"                                                          \
            "    str x2, [sp, #32]\n"                                                              \
            "    bl _dmi_find_dlopen\n"                                                            \
            "    ldr x2, [sp, #32]\n"                                                              \
            "    ldp x0, x1, [sp, #16]\n"                                                          \
            "    ldp x29, x30, [sp], #48\n"                                                        \
            "    .cfi_restore 30\n"                                                                \
            "    .cfi_restore 29\n"                                                                \
            "    .cfi_def_cfa_offset 0\n"                                                          \
            "    adrp x16, _dmi_next_" NAME "\n"                                                   \
            "    ldr x16, [x16, :lo12:_dmi_next_" NAME "]\n"                                       \
            "1:  adrp x17, _dmi_preload_dlopen_mask\n"                                             \
            "    ldr w17, [x17, :lo12:_dmi_preload_dlopen_mask]\n"                                 \
            "    and " FLAGS ", " FLAGS ", w17\n"                                                  \
            "    br x16\n"                                                                         \
            ".cfi_endproc\n"                                                                       \
            ".size " NAME ", . - " NAME "\n")

DOOR("dlopen", "w1");
DOOR("dlmopen", "w2");

#endif
#endif
