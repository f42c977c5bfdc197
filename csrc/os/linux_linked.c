/* linux_linked.c - what a call and the function that it calls begin with, read as machine code.
 *
 * The addresses may be wrong, or their code may be unmapped at this moment: they are read by a system call that says so.
 */
#include "linux_linked.h"
#include "copy.h"

#include <stddef.h>
#include <string.h>

#define FAR ((uintptr_t)1 << 20) /* no function is that long */

static uintptr_t relative(uintptr_t next, const uint8_t *at) {
    int32_t offset;
    memcpy(&offset, at, sizeof offset);
    return next + (uintptr_t)(intptr_t)offset;
}

/* The function that is called by the call before this return address; 0: not known. */
static uintptr_t called_by(uintptr_t caller) {
    uint8_t code[6];
    uintptr_t target = 0;
    if (!_dmi_os_copy(code, (const void *)(caller - sizeof code), sizeof code)) return 0;
    if (code[0] == 0xff && code[1] == 0x15) { /* call *offset(%rip) */
        if (!_dmi_os_copy(&target, (const void *)relative(caller, code + 2), sizeof target))
            return 0;
        return target;
    }
    return code[1] == 0xe8 ? relative(caller, code + 2) : 0; /* call offset */
}

static size_t landing_pad(const uint8_t *code) {
    static const uint8_t endbr64[] = {0xf3, 0x0f, 0x1e, 0xfa};
    return memcmp(code, endbr64, sizeof endbr64) == 0 ? sizeof endbr64 : 0;
}

bool _dmi_code_links(uintptr_t pc, uintptr_t caller) {
    static const uint8_t link[] = {0x55, 0x48, 0x89, 0xe5}, other[] = {0x55, 0x48, 0x8b, 0xec};
    uint8_t code[16];
    uintptr_t target = called_by(caller);
    if (!target || !_dmi_os_copy(code, (const void *)target, sizeof code)) return false;
    /* An entry of the linker's table: jmp *offset(%rip), which may begin with a byte that bounds it. */
    size_t at = landing_pad(code);
    if (code[at] == 0xf2) at++;
    if (code[at] == 0xff && code[at + 1] == 0x25) {
        if (!_dmi_os_copy(&target, (const void *)relative(target + at + 6, code + at + 2),
                          sizeof target))
            return false;
        if (!_dmi_os_copy(code, (const void *)target, sizeof code)) return false;
    }
    at = landing_pad(code);
    if (pc <= target || pc - target > FAR) return false;
    /* push %rbp; mov %rsp, %rbp */
    return memcmp(code + at, link, sizeof link) == 0 || memcmp(code + at, other, sizeof other) == 0;
}
