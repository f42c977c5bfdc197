/* sealed.c - run a program whose system calls for random bytes are refused, as sandboxes do.
 *
 * sealed EAGAIN|ENOSYS|EPERM [device] COMMAND...: getrandom fails so; device: /dev/urandom, too, which the core opens as no
 * one else opens a file that loaders and programs need (O_NOFOLLOW).
 */
#define _GNU_SOURCE
#include "check.h"

#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

int main(int argc, char **argv) {
    CHECK(argc > 2);
    unsigned error = strcmp(argv[1], "EAGAIN") == 0 ? EAGAIN : strcmp(argv[1], "EPERM") == 0 ? EPERM : ENOSYS;
    int device = strcmp(argv[2], "device") == 0;
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getrandom, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, device ? SYS_openat : -1u, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, O_NOFOLLOW, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
        perror("seccomp");
        return 77;
    }
    (void)execvp(argv[2 + device], argv + 2 + device);
    perror(argv[2 + device]);
    return 78;
}
