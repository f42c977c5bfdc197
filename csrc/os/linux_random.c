/* linux_random.c - random bytes: by getrandom, else from /dev/urandom, else derived from AT_RANDOM.
 *
 * AT_RANDOM are 16 bytes that the kernel gave the process when it started. The C library guards stack and pointers with
 * them, so they must not leak. They are only used as the key of a keyed hash (SipHash-2-4, Aumasson and Bernstein 2012):
 * its output tells neither the key nor any other output.
 */
#define _GNU_SOURCE
#include "linux_random.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { NONBLOCK = 1 };

/* Returns how many bytes were read. By direct system calls: those of the C library are cancellation points, and callers
 * hold locks. */
static size_t read_device(unsigned char *out, size_t size) {
    long file = syscall(SYS_openat, AT_FDCWD, "/dev/urandom", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    size_t done = 0;
    if (file < 0) return 0;
    while (done < size) {
        long got = syscall(SYS_read, (int)file, out + done, size - done);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) break;
        done += (size_t)got;
    }
    (void)syscall(SYS_close, (int)file);
    return done;
}

static uint64_t turned(uint64_t word, int by) { return word << by | word >> (64 - by); }

static void rounds(uint64_t v[4], int count) {
    while (count--) {
        v[0] += v[1];
        v[2] += v[3];
        v[1] = turned(v[1], 13) ^ v[0];
        v[3] = turned(v[3], 16) ^ v[2];
        v[0] = turned(v[0], 32);
        v[2] += v[1];
        v[0] += v[3];
        v[1] = turned(v[1], 17) ^ v[2];
        v[3] = turned(v[3], 21) ^ v[0];
        v[2] = turned(v[2], 32);
    }
}

/* SipHash-2-4 of three words. */
static uint64_t hash(const uint64_t key[2], const uint64_t words[3]) {
    uint64_t v[4] = {key[0] ^ UINT64_C(0x736f6d6570736575), key[1] ^ UINT64_C(0x646f72616e646f6d),
                     key[0] ^ UINT64_C(0x6c7967656e657261), key[1] ^ UINT64_C(0x7465646279746573)};
    for (int i = 0; i <= 3; i++) {
        uint64_t word = i < 3 ? words[i] : (uint64_t)24 << 56;
        v[3] ^= word;
        rounds(v, 2);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    rounds(v, 4);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* Fill with bytes derived from AT_RANDOM, different for each process and each call. */
static void derive(unsigned char *out, size_t size) {
    static _Atomic uint64_t calls;
    uint64_t key[2] = {(uint64_t)(uintptr_t)&calls, (uint64_t)(uintptr_t)&size};
    const void *given = (const void *)(uintptr_t)getauxval(AT_RANDOM);
    if (given) memcpy(key, given, sizeof key);
    struct timespec now = {0, 0};
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    while (size) {
        uint64_t words[3] = {atomic_fetch_add(&calls, 1), (uint64_t)getpid(),
                             (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec};
        uint64_t made = hash(key, words);
        size_t part = size < sizeof made ? size : sizeof made;
        memcpy(out, &made, part);
        out += part;
        size -= part;
    }
}

int _dmi_linux_random(void *buffer, size_t size) {
    int saved = errno, error = 0;
    unsigned char *out = buffer;
    while (size && !error) {
        long got = syscall(SYS_getrandom, out, size, NONBLOCK);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) {
            error = got < 0 && errno == EAGAIN ? EAGAIN : ENOSYS;
            break;
        }
        out += got;
        size -= (size_t)got;
    }
    /* Not after EAGAIN: before the kernel has random bytes, the device gives bytes that are not, without an error. */
    if (error == ENOSYS) {
        size_t got = read_device(out, size);
        out += got;
        size -= got;
        if (size == 0) error = 0;
    }
    if (error) derive(out, size);
    errno = saved;
    return error;
}
