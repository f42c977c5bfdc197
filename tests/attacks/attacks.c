/* attacks.c - what an attacker gets who frees wrongly, or writes where a heap keeps its own words.
 *
 * attacks [ATTACK|all] [SIZE...]: every attack on every size, twice: with few blocks of that size, and with many. Each
 * runs in a child process of its own, on whatever malloc the program has (LD_PRELOAD). A line an attack:
 *
 *     NAME SIZE:ab ...
 *
 * where a is the outcome with few blocks and b with many:
 *     f  found: the process ended with a message (SIGABRT)
 *     w  wild: it ended by a fault of the processor, or hung
 *     h  harmless: the attacker got nothing
 *     X  exploitable: malloc gave out an address that the attacker chose, bytes that somebody else has, or an address of
 *        the heap as content; or it wrote into somebody's block
 *     -  does not apply to that size
 *
 * What an attacker may do: attacks called read_... look at freed memory first, all others write blindly.
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXPLOITED = 66, NOT_HERE = 67 };

static void *opaque(void *p) {
    __asm__ volatile("" : "+r"(p) : : "memory");
    return p;
}
static void release(void *p) { free(opaque(p)); }

/* ---- what is live ------------------------------------------------------------------------------------ */

typedef struct block {
    unsigned char *p;
    size_t size;
    unsigned char fill;
} block;

enum { MOST = 4096 };
static block live[MOST];
static size_t lives;
static size_t size;                              /* of the attacked blocks */
static size_t count;                             /* how many there are */
static _Alignas(64) unsigned char target[65536]; /* where the attacker wants to write */

static void exploited(const char *why) {
    if (getenv("ATTACKS_WHY")) fprintf(stderr, "%s\n", why);
    _exit(EXPLOITED);
}

/* Of a large block the first and last bytes stand for all. */
static size_t edge_of(size_t n) { return n > 4096 ? 256 : n; }
static void fill(const block *b) {
    size_t edge = edge_of(b->size);
    memset(b->p, b->fill, edge);
    memset(b->p + b->size - edge, b->fill, edge);
}
static bool intact(const block *b) {
    if (!b->fill) return true;
    size_t edge = edge_of(b->size);
    for (size_t i = 0; i < edge; i++)
        if (b->p[i] != b->fill || b->p[b->size - 1 - i] != b->fill) return false;
    return true;
}
static bool overlap(const unsigned char *a, size_t m, const unsigned char *b, size_t n) {
    return a < b + n && b < a + m;
}

/* Is this word the address of something in the heap? Nobody else has put one there. */
static bool heap_address(uintptr_t word) {
    for (size_t i = 0; i < lives; i += 1 + lives / 16) {
        uintptr_t p = (uintptr_t)live[i].p;
        if (word > p - ((uintptr_t)64 << 20) && word < p + ((uintptr_t)64 << 20)) return true;
    }
    return false;
}

static unsigned char *take_block(size_t n, bool look) {
    unsigned char *p = opaque(malloc(n));
    if (!p) return NULL;
    if (overlap(p, n, target, sizeof target)) exploited("an address the attacker chose");
    if ((uintptr_t)p % (n < 16 ? 8 : 16)) exploited("a misaligned block");
    for (size_t i = 0; i < lives; i++)
        if (overlap(p, n, live[i].p, live[i].size)) exploited("bytes that somebody has");
    for (size_t i = 0; look && i + sizeof(uintptr_t) <= edge_of(n); i += sizeof(uintptr_t)) {
        uintptr_t word;
        memcpy(&word, p + i, sizeof word);
        if (heap_address(word)) exploited("an address of the heap in a fresh block");
    }
    if (lives == MOST) _exit(3);
    live[lives] = (block){p, n, (unsigned char)(1 + lives % 250)};
    fill(&live[lives++]);
    return p;
}
static unsigned char *take(void) { return take_block(size, false); }

/* Forget a block: its owner freed it, or thinks so. */
static void forget(const void *p) {
    for (size_t i = 0; i < lives; i++)
        if (live[i].p == p) {
            live[i] = live[--lives];
            return;
        }
}
static void give(void *p) {
    forget(p);
    release(p);
}

/* The block that a wrong free hits is its owner's still, whatever is in it now. */
static void hit(void *p) {
    for (size_t i = 0; i < lives; i++)
        if (live[i].p == p) live[i].fill = 0;
}

/* What the program does afterwards: everything that the attack may have prepared comes to light. */
static void go_on(void) {
    size_t was = lives, more = size > 300000 ? 8 : count + 40;
    for (size_t i = 0; i < more; i++) (void)take();
    for (size_t i = 0; i < 20; i++) {
        (void)take_block(size + size / 3 + 40, false);
        (void)take_block(size / 2 + 1, false);
    }
    for (size_t i = 0; i < lives; i++)
        if (!intact(&live[i])) exploited("a block was written to");
    for (size_t round = 0; round < 2; round++) {
        for (size_t i = lives; i-- > was / 2;) {
            unsigned char *p = live[i].p;
            if (i % 3 != round) continue;
            live[i] = live[--lives];
            release(p);
        }
        for (size_t i = 0; i < more; i++) (void)take();
    }
    for (size_t i = 0; i < lives; i++)
        if (!intact(&live[i])) exploited("a block was written to");
}

static unsigned char *a, *b, *c,
    *d; /* four blocks, a and b in a row where the allocator does that */

static void prepare(void) {
    for (size_t i = 0; i < count; i++) (void)take();
    a = live[count / 2].p;
    b = live[count / 2 + 1].p;
    c = live[count / 2 + 2].p;
    d = live[1].p;
}

/* The usable end, behind which somebody else's bytes begin. */
static size_t room(void *p) { return malloc_usable_size(p); }

static void *in_thread(void *(*what)(void *), void *argument) {
    pthread_t thread;
    void *result = NULL;
    if (pthread_create(&thread, NULL, what, argument)) _exit(3);
    pthread_join(thread, &result);
    return result;
}
static void *release_there(void *p) {
    release(p);
    return NULL;
}

/* ---- wrong frees --------------------------------------------------------------------------------------- */

static void double_at_once(void) { give(a), release(a); }
static void double_with_one_between(void) { give(a), give(b), release(a); }
static void double_with_many_between(void) {
    give(a);
    for (int i = 0; i < 5 && lives > 2; i++) give(live[lives / 2].p);
    release(a);
}
static void double_with_other_sizes_between(void) {
    give(a);
    for (size_t i = 1; i < 40; i++) /* of none of these sizes could it be reused */
        if (i * 24 > 2 * size + 64) (void)take_block(i * 24, false);
    release(a);
}
static void double_thrice(void) { give(a), give(b), release(a), release(b), release(a); }
static void double_after_reuse(void) {
    give(a);
    unsigned char *now = take();
    for (int i = 0; i < 3 && now != a; i++) now = take();
    if (now != a) _exit(0);
    release(a); /* the old owner, once more */
}
static void double_after_half_of_it_was_reused(void) {
    give(a), give(b);
    (void)take();
    release(a), release(b);
}
static void double_by_two_threads(void) {
    give(a);
    (void)in_thread(release_there, a);
}
static void double_by_another_thread(void) {
    forget(a);
    (void)in_thread(release_there, a);
    (void)in_thread(release_there, a);
}
static void double_by_another_thread_first(void) {
    forget(a);
    (void)in_thread(release_there, a);
    release(a);
}
static void double_by_others_with_one_between(void) {
    forget(a), forget(b);
    (void)in_thread(release_there, a);
    (void)in_thread(release_there, b);
    (void)in_thread(release_there, a);
}
static void double_after_trim(void) {
    for (int i = 0; i < 3; i++) give(live[lives / 2].p);
    give(a);
    malloc_trim(0);
    release(a);
}
static void double_after_all_went(void) {
    give(a);
    while (lives) give(live[lives - 1].p);
    release(a);
}
static void interior_by_16(void) {
    if (size < 17) _exit(NOT_HERE);
    hit(a), release(a + 16);
}
static void interior_by_half(void) {
    if (size < 48) _exit(NOT_HERE);
    hit(a), release(a + size / 32 * 16);
}
static void interior_at_the_last_16(void) {
    if (size < 17) _exit(NOT_HERE);
    hit(a), release(a + (size - 1) / 16 * 16);
}
static void interior_by_a_page(void) {
    if (size < 8192) _exit(NOT_HERE);
    hit(a), release(a + 4096);
}
static void interior_by_another_thread(void) {
    if (size < 17) _exit(NOT_HERE);
    hit(a), (void)in_thread(release_there, a + 16);
}
static void interior_twice(void) {
    if (size < 64) _exit(NOT_HERE);
    hit(a), release(a + 16), release(a + 32);
}
static void misaligned_by_1(void) { hit(a), release(a + 1); }
static void misaligned_by_8(void) { hit(a), release(a + 8); }
static void misaligned_by_another_thread(void) { hit(a), (void)in_thread(release_there, a + 8); }
static void before_the_block(void) {
    if (size < 32) _exit(NOT_HERE); /* the block before it may begin there */
    for (size_t i = 0; i < lives; i++)
        if (overlap(a - 16, 16, live[i].p, live[i].size)) live[i].fill = 0;
    release(a - 16);
}
static void before_the_end(void) { hit(a), release(a + room(a) - 8); }
static void free_of_the_stack(void) {
    _Alignas(64) unsigned char here[512];
    memset(here, 0, sizeof here);
    release(here + 64);
}
static void free_of_a_global(void) { release(target + 4096); }
static void free_of_a_mapping(void) {
    unsigned char *p =
        mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    release(p + 64);
}
static void free_of_code(void) { release((void *)(uintptr_t)&free_of_code); }
static void free_of_a_low_address(void) { release((void *)(uintptr_t)0x1000); }
static void free_of_no_address(void) { release((void *)(uintptr_t)0xdeadbeefdeadbee0); }
static void free_of_kernel_space(void) { release((void *)(uintptr_t)0xffffffff81000000); }
/* A chunk as other allocators have them, in memory that the attacker may write. */
static void forge_chunk(unsigned char *at, size_t n) {
    uint64_t words[2] = {0, (n + 16) | 1};
    for (size_t i = 0; i < 3; i++) memcpy(at + i * (n + 16), words, sizeof words);
}
static void forged_chunk_in_a_global(void) {
    if (size > 16384) _exit(NOT_HERE);
    forge_chunk(target, size);
    release(target + 16);
}
static void forged_chunk_in_a_block(void) {
    if (size < 256) _exit(NOT_HERE);
    forge_chunk(a + 16, 64);
    memset(a + 160, 0x21, 32);
    hit(a), release(a + 32);
    fill(&live[count / 2]);
}
static void wrong_realloc(void *p, size_t n) {
    unsigned char *q = opaque(realloc(opaque(p), n));
    if (!q) return;
    if (overlap(q, n, target, sizeof target)) exploited("an address the attacker chose");
    for (size_t i = 0; i < lives; i++)
        if (overlap(q, n, live[i].p, live[i].size)) exploited("bytes that somebody has");
    live[lives] = (block){q, n, 251};
    fill(&live[lives++]);
}
static void realloc_of_a_freed_block(void) { give(a), wrong_realloc(a, size); }
static void realloc_of_a_freed_block_to_more(void) { give(a), wrong_realloc(a, size * 2); }
static void realloc_of_an_interior_address(void) {
    if (size < 17) _exit(NOT_HERE);
    wrong_realloc(a + 16, size * 2);
}
static void realloc_of_a_global(void) { wrong_realloc(target + 64, size); }

/* ---- blind writes into freed blocks --------------------------------------------------------------------- */

static void words(unsigned char *at, size_t from, size_t n, const void *address) {
    for (size_t i = from; i < from + n; i++)
        if ((i + 1) * 8 <= size) memcpy(at + i * 8, &address, 8);
}
static void freed_first_word_to_a_global(void) { give(a), words(a, 0, 1, target + 64); }
static void freed_second_word_to_a_global(void) { give(a), words(a, 1, 1, target + 64); }
static void freed_two_words_to_a_global(void) { give(a), words(a, 0, 2, target + 64); }
static void freed_all_words_to_a_global(void) { give(a), words(a, 0, 32, target + 64); }
static void freed_first_word_to_a_live_block(void) { give(a), words(a, 0, 1, d); }
static void freed_two_words_to_a_live_block(void) { give(a), words(a, 0, 2, d); }
static void freed_first_word_into_a_live_block(void) { give(a), words(a, 0, 1, d + 16); }
static void freed_first_word_to_itself(void) { give(a), words(a, 0, 1, a); }
static void freed_first_word_to_a_freed_block(void) {
    give(a), give(b), give(c), words(b, 0, 1, b);
}
static void freed_first_word_to_zero(void) { give(a), give(b), words(b, 0, 1, NULL); }
static void freed_two_words_to_zero(void) { give(a), give(b), words(b, 0, 2, NULL); }
static void freed_block_to_zeroes(void) { give(a), give(b), memset(b, 0, edge_of(size)); }
static void freed_block_to_ones(void) { give(a), memset(a, 0xff, edge_of(size)); }
static void freed_block_to_letters(void) { give(a), memset(a, 'A', edge_of(size)); }
static void flip(unsigned char *at, size_t byte, unsigned char bits) {
    at[byte] = (unsigned char)(at[byte] ^ bits);
}
static void freed_low_byte_zeroed(void) { give(a), give(b), b[0] = 0; }
static void freed_low_byte_flipped(void) { give(a), give(b), flip(b, 0, 0x40); }
static void freed_second_byte_flipped(void) { give(a), give(b), flip(b, 1, 0x10); }
static void freed_high_byte_flipped(void) { give(a), give(b), flip(b, 7, 1); }
static void freed_two_low_bytes(void) { give(a), give(b), b[0] = 0x40, b[1] = 0x13; }
static void add_to(unsigned char *at, uint64_t n) {
    uint64_t word;
    memcpy(&word, at, 8);
    word += n;
    memcpy(at, &word, 8);
}
static void freed_word_counted_up(void) { give(a), give(b), add_to(b, 1); }
static void freed_word_moved_by_a_block(void) { give(a), give(b), add_to(b, size); }
static void freed_word_moved_back_by_a_block(void) {
    give(a), give(b), add_to(b, (uint64_t)0 - size);
}
static void freed_word_moved_by_16(void) { give(a), give(b), add_to(b, 16); }
static void freed_by_another_thread_then_written(void) {
    forget(a), forget(b);
    (void)in_thread(release_there, a);
    (void)in_thread(release_there, b);
    words(b, 0, 2, target + 64);
}
static void freed_by_another_thread_then_zeroed(void) {
    forget(a), forget(b);
    (void)in_thread(release_there, a);
    (void)in_thread(release_there, b);
    words(b, 0, 2, NULL);
}
static void freed_by_another_thread_then_flipped(void) {
    forget(a), forget(b);
    (void)in_thread(release_there, a);
    (void)in_thread(release_there, b);
    flip(b, 0, 0x40);
}
static void freed_last_words_written(void) {
    give(a), give(b);
    for (size_t at = size < 32 ? 0 : size - 32; at + 8 <= size; at += 8) {
        const void *to = target + 64;
        memcpy(b + at, &to, 8);
    }
}
static void freed_neighbours_both_written(void) {
    give(a), give(b), give(c);
    words(a, 0, 4, target + 64);
    words(c, 0, 4, target + 64);
}

/* ---- overflows --------------------------------------------------------------------------------------------- */

static void overflow(unsigned char *p, size_t n, int with) {
    unsigned char *end = p + room(p);
    for (size_t i = 0; i < lives; i++) /* whose bytes they were is known */
        if (live[i].p != p && overlap(end, n, live[i].p, live[i].size)) {
            size_t at = live[i].p > end ? 0 : (size_t)(end - live[i].p);
            (void)at;
            memset(end, with, n);
            fill(&live[i]);
            return;
        }
    memset(end, with, n);
}
static bool has_room_behind(void) { return size <= 32768; }
static void overflow_by_one_zero(void) {
    if (!has_room_behind()) _exit(NOT_HERE);
    overflow(a, 1, 0);
    give(a), give(b);
}
static void overflow_by_8_into_a_live_block(void) {
    if (!has_room_behind()) _exit(NOT_HERE);
    overflow(a, 8, 'A');
    give(b), give(a);
}
static void overflow_by_16_into_a_live_block(void) {
    if (!has_room_behind()) _exit(NOT_HERE);
    overflow(a, 16, 'A');
    give(b), give(a);
}
static void overflow_by_8_into_a_freed_block(void) {
    if (!has_room_behind()) _exit(NOT_HERE);
    give(b);
    overflow(a, 8, 'A');
}
static void overflow_by_24_into_a_freed_block(void) {
    if (!has_room_behind()) _exit(NOT_HERE);
    give(b);
    overflow(a, 24, 'A');
}
static void overflow_by_24_zeroes_into_a_freed_block(void) {
    if (!has_room_behind()) _exit(NOT_HERE);
    give(b);
    overflow(a, 24, 0);
}
static void overflow_forges_a_larger_neighbour(void) {
    if (!has_room_behind()) _exit(NOT_HERE);
    unsigned char *end = a + room(a);
    uint64_t forged = (uint64_t)(size * 4 + 16) / 16 * 16 | 1;
    memcpy(end, &forged, 8);
    for (size_t i = 0; i < lives; i++)
        if (overlap(end, 8, live[i].p, live[i].size)) fill(&live[i]);
    give(b);
}
static void underflow_by_8(void) {
    if (!has_room_behind()) _exit(NOT_HERE);
    memset(b - 8, 'A', 8);
    for (size_t i = 0; i < lives; i++)
        if (overlap(b - 8, 8, live[i].p, live[i].size)) fill(&live[i]);
    give(b);
}
static void underflow_forges_a_size(void) {
    if (!has_room_behind()) _exit(NOT_HERE);
    uint64_t forged = 0x421;
    memcpy(b - 8, &forged, 8);
    for (size_t i = 0; i < lives; i++)
        if (overlap(b - 8, 8, live[i].p, live[i].size)) fill(&live[i]);
    give(b);
}
static void underflow_of_a_freed_block(void) {
    if (!has_room_behind()) _exit(NOT_HERE);
    give(b);
    memset(b - 8, 0x21, 8);
    for (size_t i = 0; i < lives; i++)
        if (overlap(b - 8, 8, live[i].p, live[i].size)) fill(&live[i]);
}
static void
forged_links_and_neighbours(void) { /* unsafe unlink: two words that point at each other */
    if (!has_room_behind()) _exit(NOT_HERE);
    uintptr_t there = (uintptr_t)target + 64;
    memcpy(target + 64, &a, 8);
    memcpy(target + 72, &a, 8);
    memcpy(target + 80, &a, 8);
    give(a);
    words(a, 0, 2, (void *)there);
    give(b), give(c);
}

/* ---- what is left behind ------------------------------------------------------------------------------------- */

static void scrub_and_give(size_t n) { /* its owner left nothing in it */
    for (size_t i = 0; i < n && lives > 2; i++) {
        unsigned char *p = live[lives / 2].p;
        memset(p, 0, edge_of(live[lives / 2].size));
        give(p);
    }
}
static void leak_into_the_same_size(void) {
    scrub_and_give(count / 2);
    for (size_t i = 0; i < count / 2; i++) (void)take_block(size, true);
}
static void leak_into_a_larger_block(void) {
    scrub_and_give(count - 2);
    for (size_t i = 0; i < 20; i++) (void)take_block(size * 3 > 4096 ? 4096 : size * 3, true);
}
static void leak_into_a_large_block(void) {
    scrub_and_give(count - 2);
    for (size_t i = 0; i < 8; i++) (void)take_block(50000, true);
}
static void leak_of_another_thread(void) {
    for (size_t i = 0; i < 4 && lives > 3; i++) {
        unsigned char *p = live[lives / 2].p;
        memset(p, 0, edge_of(size));
        forget(p);
        (void)in_thread(release_there, p);
    }
    for (size_t i = 0; i < count; i++) (void)take_block(size, true);
}

/* ---- attackers who read ----------------------------------------------------------------------------------------- */

static void read_a_link_and_copy_it(void) {
    give(a), give(b), give(c);
    memcpy(c, a, 8);
}
static void read_two_words_and_copy_them(void) {
    give(a), give(b), give(c);
    memcpy(c, a, 16 < size ? 16 : size);
}
/* Blocks in the order in which they were freed: what each link leads to is known. Two links and their places make a
 * guess at a key; the guess makes a link. */
static void read_a_link_and_forge_one(void) {
    uint64_t word;
    give(a), give(b);
    memcpy(&word, b, 8);
    uint64_t key = word ^ (uintptr_t)a;
    word = key ^ ((uintptr_t)target + 64);
    memcpy(b, &word, 8);
    memcpy(target + 64, b, 16);
}
static void read_both_words_and_forge_them(void) {
    if (size < 16) _exit(NOT_HERE);
    uint64_t first, second, place = (uintptr_t)target + 64;
    give(a), give(b);
    memcpy(&first, b, 8);
    memcpy(&second, b + 8, 8);
    uint64_t link = first ^ (uintptr_t)a ^ place, mark = second - (uintptr_t)b + place;
    memcpy(b, &link, 8);
    memcpy(target + 64, &first, 8);
    memcpy(target + 72, &mark, 8);
}
static void read_the_last_link_for_the_key(void) {
    uint64_t word;
    give(a);
    memcpy(&word, a, 8);
    word ^= (uintptr_t)target + 64;
    memcpy(a, &word, 8);
}
static void
read_a_mark_and_put_it_back(void) { /* a block that is busy looks free, then free looks busy */
    unsigned char was[16];
    if (size < 16) _exit(NOT_HERE);
    give(a);
    memcpy(was, a, 16);
    unsigned char *again = take();
    if (again != a) _exit(0);
    memcpy(a, was, 16);
    forget(a);
    release(a);
    memset(a, 0, 16);
    release(a);
}

#include "others.h"

typedef struct attack {
    const char *name;
    void (*run)(void);
} attack;
#define ATTACK(name)                                                                               \
    { #name, name }
static const attack attacks[] = {
    ATTACK(double_at_once),
    ATTACK(double_with_one_between),
    ATTACK(double_with_many_between),
    ATTACK(double_with_other_sizes_between),
    ATTACK(double_thrice),
    ATTACK(double_after_reuse),
    ATTACK(double_after_half_of_it_was_reused),
    ATTACK(double_by_two_threads),
    ATTACK(double_by_another_thread),
    ATTACK(double_by_another_thread_first),
    ATTACK(double_by_others_with_one_between),
    ATTACK(double_after_trim),
    ATTACK(double_after_all_went),
    ATTACK(interior_by_16),
    ATTACK(interior_by_half),
    ATTACK(interior_at_the_last_16),
    ATTACK(interior_by_a_page),
    ATTACK(interior_by_another_thread),
    ATTACK(interior_twice),
    ATTACK(misaligned_by_1),
    ATTACK(misaligned_by_8),
    ATTACK(misaligned_by_another_thread),
    ATTACK(before_the_block),
    ATTACK(before_the_end),
    ATTACK(free_of_the_stack),
    ATTACK(free_of_a_global),
    ATTACK(free_of_a_mapping),
    ATTACK(free_of_code),
    ATTACK(free_of_a_low_address),
    ATTACK(free_of_no_address),
    ATTACK(free_of_kernel_space),
    ATTACK(forged_chunk_in_a_global),
    ATTACK(forged_chunk_in_a_block),
    ATTACK(realloc_of_a_freed_block),
    ATTACK(realloc_of_a_freed_block_to_more),
    ATTACK(realloc_of_an_interior_address),
    ATTACK(realloc_of_a_global),
    ATTACK(freed_first_word_to_a_global),
    ATTACK(freed_second_word_to_a_global),
    ATTACK(freed_two_words_to_a_global),
    ATTACK(freed_all_words_to_a_global),
    ATTACK(freed_first_word_to_a_live_block),
    ATTACK(freed_two_words_to_a_live_block),
    ATTACK(freed_first_word_into_a_live_block),
    ATTACK(freed_first_word_to_itself),
    ATTACK(freed_first_word_to_a_freed_block),
    ATTACK(freed_first_word_to_zero),
    ATTACK(freed_two_words_to_zero),
    ATTACK(freed_block_to_zeroes),
    ATTACK(freed_block_to_ones),
    ATTACK(freed_block_to_letters),
    ATTACK(freed_low_byte_zeroed),
    ATTACK(freed_low_byte_flipped),
    ATTACK(freed_second_byte_flipped),
    ATTACK(freed_high_byte_flipped),
    ATTACK(freed_two_low_bytes),
    ATTACK(freed_word_counted_up),
    ATTACK(freed_word_moved_by_a_block),
    ATTACK(freed_word_moved_back_by_a_block),
    ATTACK(freed_word_moved_by_16),
    ATTACK(freed_by_another_thread_then_written),
    ATTACK(freed_by_another_thread_then_zeroed),
    ATTACK(freed_by_another_thread_then_flipped),
    ATTACK(freed_last_words_written),
    ATTACK(freed_neighbours_both_written),
    ATTACK(overflow_by_one_zero),
    ATTACK(overflow_by_8_into_a_live_block),
    ATTACK(overflow_by_16_into_a_live_block),
    ATTACK(overflow_by_8_into_a_freed_block),
    ATTACK(overflow_by_24_into_a_freed_block),
    ATTACK(overflow_by_24_zeroes_into_a_freed_block),
    ATTACK(overflow_forges_a_larger_neighbour),
    ATTACK(underflow_by_8),
    ATTACK(underflow_forges_a_size),
    ATTACK(underflow_of_a_freed_block),
    ATTACK(forged_links_and_neighbours),
    ATTACK(leak_into_the_same_size),
    ATTACK(leak_into_a_larger_block),
    ATTACK(leak_into_a_large_block),
    ATTACK(leak_of_another_thread),
    ATTACK(read_a_link_and_copy_it),
    ATTACK(read_two_words_and_copy_them),
    ATTACK(read_a_link_and_forge_one),
    ATTACK(read_both_words_and_forge_them),
    ATTACK(read_the_last_link_for_the_key),
    ATTACK(read_a_mark_and_put_it_back),
    ATTACK(aligned_double),
    ATTACK(aligned_interior),
    ATTACK(double_after_many_frees),
    ATTACK(double_in_a_fork_child),
    ATTACK(reuse_of_what_a_fork_child_freed),
    ATTACK(free_of_what_realloc_moved),
    ATTACK(realloc_of_what_another_thread_freed),
    ATTACK(realloc_of_a_large_interior),
    ATTACK(free_of_what_realloc_cut_off),
    ATTACK(realloc_that_wraps),
    ATTACK(calloc_that_wraps),
    ATTACK(malloc_of_nearly_everything),
    ATTACK(calloc_of_what_was_written_when_free),
    ATTACK(size_of_an_interior_address),
    ATTACK(size_of_a_misaligned_address),
    ATTACK(size_of_a_large_interior),
    ATTACK(size_of_a_global),
    ATTACK(size_of_a_freed_block),
    ATTACK(freed_end_written),
    ATTACK(forged_handle),
    ATTACK(stale_handle),
    ATTACK(free_of_a_heap_that_went),
    ATTACK(free_into_another_heap),
};

static char outcome_of(const attack *it, size_t bytes, size_t blocks) {
    fflush(stdout);
    pid_t child = fork();
    if (child < 0) return '?';
    if (child == 0) {
        struct rlimit none = {0, 0};
        (void)setrlimit(RLIMIT_CORE, &none);
        if (!getenv("ATTACKS_WHY")) (void)!freopen("/dev/null", "w", stderr);
        alarm(10);
        size = bytes;
        count = blocks;
        prepare();
        it->run();
        go_on();
        _exit(0);
    }
    int status;
    if (waitpid(child, &status, 0) != child) return '?';
    if (WIFSIGNALED(status)) { /* a trap that was put there is an end with intent, as abort is */
        int number = WTERMSIG(status);
        return number == SIGABRT || number == SIGILL || number == SIGTRAP ? 'f' : 'w';
    }
    switch (WEXITSTATUS(status)) {
    case 0: return 'h';
    case EXPLOITED: return 'X';
    case NOT_HERE: return '-';
    default: return WEXITSTATUS(status) > 100 ? 'f' : '?';
    }
}

int main(int argc, char **argv) {
    static const size_t common[] = {16, 48, 64, 320, 1024, 5000, 32768, 200000, 4 << 20};
    size_t sizes[256], n = 0;
    for (int i = 2; i < argc && n < 256; i++) sizes[n++] = (size_t)strtoul(argv[i], NULL, 10);
    for (size_t i = 0; argc < 3 && i < sizeof common / sizeof *common; i++) sizes[n++] = common[i];
    for (size_t i = 0; i < sizeof attacks / sizeof *attacks; i++) {
        if (argc > 1 && strcmp(argv[1], "all") != 0 && strcmp(argv[1], attacks[i].name) != 0)
            continue;
        printf("%s", attacks[i].name);
        for (size_t s = 0; s < n; s++)
            printf(" %zu:%c%c", sizes[s], outcome_of(&attacks[i], sizes[s], 8),
                   outcome_of(&attacks[i], sizes[s], sizes[s] > 300000 ? 24 : 300));
        printf("\n");
    }
    return 0;
}
