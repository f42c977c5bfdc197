/* probes.c - a program that is its own tracer: it turns the instructions of two probes into traps, and sums up what they
 * say. Arguments: how far the probes alloc and free lie behind the beginning of the library. For each line of its input
 * it works once, in the same way, and prints one line: what was allocated, and what of it is left; then the same as the
 * probes have it; how often each of them was hit; frees of blocks that it was not told of. Whoever runs it sets the
 * semaphore. Without arguments it only works. */
#define _GNU_SOURCE
#include "check.h"

#include <dlfcn.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

enum { BLOCKS = 100000, STEPS = 400000, TOLD = 1 << 16, LARGE = 40, LARGE_SIZE = 3000000 };

static uintptr_t alloc_at, free_at;
static volatile uint64_t allocs, frees, bytes, unknown;
static struct { uint64_t block, bytes; } told[TOLD]; /* by address; 1: taken out */

static void add(uint64_t block, uint64_t size, uint64_t stands_for) {
    allocs++;
    bytes += stands_for;
    if (size > stands_for) abort();
    for (size_t i = block / 16 % TOLD;; i = (i + 1) % TOLD) {
        if (told[i].block > 1 && told[i].block != block) continue;
        told[i].block = block;
        told[i].bytes = stands_for;
        return;
    }
}

static void take_out(uint64_t block) {
    frees++;
    for (size_t i = block / 16 % TOLD; told[i].block; i = (i + 1) % TOLD) {
        if (told[i].block != block) continue;
        told[i].block = 1;
        told[i].bytes = 0;
        return;
    }
    unknown++;
}

static void on_trap(int number, siginfo_t *info, void *context) {
    const greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    uint64_t rdi = (uint64_t)registers[REG_RDI], at = (uint64_t)registers[REG_RIP] - 1;
    (void)number, (void)info;
    if (at == alloc_at) add(rdi, (uint64_t)registers[REG_RSI], (uint64_t)registers[REG_RDX]);
    else if (at == free_at) take_out(rdi);
    else abort();
}

static void trap(uintptr_t at) {
    void *page = (void *)(at & ~(uintptr_t)4095);
    CHECK(*(unsigned char *)at == 0x90); /* nop */
    CHECK(mprotect(page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
    *(unsigned char *)at = 0xcc; /* int3 */
    CHECK(mprotect(page, 4096, PROT_READ | PROT_EXEC) == 0);
}

static void *block[BLOCKS], *large[LARGE];
static uint32_t size_of[BLOCKS];

/* Every round frees all that the one before left, so that pages are used again that were carved then. */
static void work(void) {
    static uint32_t chance = 1;
    uint64_t all = 0, left = 0, was_allocs = allocs, was_frees = frees, was_bytes = bytes;
    for (size_t i = 0; i < BLOCKS; i++) free(block[i]), block[i] = NULL;
    for (size_t i = 0; i < LARGE; i++) free(large[i]), large[i] = NULL;
    for (size_t step = 0; step < STEPS; step++) {
        chance = chance * 1103515245 + 12345;
        size_t i = (chance >> 8) % BLOCKS;
        free(block[i]);
        size_of[i] = 16 + (chance >> 11) % 2000;
        block[i] = opaque(malloc(size_of[i]));
        CHECK(block[i]);
        all += size_of[i];
    }
    for (size_t i = 0; i < LARGE; i++) {
        large[i] = opaque(malloc(LARGE_SIZE));
        CHECK(large[i]);
        all += LARGE_SIZE;
        left += LARGE_SIZE;
    }
    for (size_t i = 0; i < BLOCKS; i++) left += block[i] ? size_of[i] : 0;
    uint64_t told_left = 0;
    for (size_t i = 0; i < TOLD; i++) told_left += told[i].bytes;
    printf("%lu %lu %lu %lu %lu %lu %lu\n", all, left, bytes - was_bytes, told_left,
           allocs - was_allocs, frees - was_frees, unknown);
    (void)fflush(stdout);
}

int main(int count, char **argument) {
    Dl_info info;
    char line[16];
    CHECK(dladdr(dlsym(RTLD_DEFAULT, "malloc"), &info));
    if (count == 3) { /* else another tracer is there */
        alloc_at = (uintptr_t)info.dli_fbase + strtoul(argument[1], NULL, 0);
        free_at = (uintptr_t)info.dli_fbase + strtoul(argument[2], NULL, 0);
        struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
        CHECK(sigaction(SIGTRAP, &action, NULL) == 0);
        trap(alloc_at);
        trap(free_at);
    }
    printf("%p\n", info.dli_fbase);
    (void)fflush(stdout);
    while (fgets(line, sizeof line, stdin)) work();
    return 0;
}
