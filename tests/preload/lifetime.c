/* lifetime.c - allocating before main, after it, and while threads end: in constructors, atexit handlers,
 * TLS destructors and destructors of the program. */
#define _GNU_SOURCE
#include "check.h"

#include <pthread.h>

static char *from_constructor, *from_main;
static pthread_key_t keys[40]; /* more than the 32 that glibc keeps in the thread itself */

__attribute__((constructor(101))) static void first(void) {
    from_constructor = opaque(malloc(1000));
    CHECK(from_constructor);
    fill(from_constructor, 1000, 1);
}

static void at_exit_handler(void) {
    CHECK(filled(from_main, 5000, 2));
    free(from_main);
    from_main = opaque(malloc(300));
    fill(from_main, 300, 3);
}

__attribute__((destructor(101))) static void last(void) {
    CHECK(filled(from_constructor, 1000, 1));
    free(from_constructor);
    CHECK(filled(from_main, 300, 3));
    from_main = opaque(realloc(from_main, 70000));
    CHECK(filled(from_main, 300, 3));
    free(from_main);
}

/* Destructors run in several rounds; each round here allocates, frees and asks for another. */
static void value_ends(void *value) {
    char *block = value;
    unsigned char round = (unsigned char)block[0];
    CHECK(filled(block, 200, round));
    free(block);
    if (round == 4) return;
    size_t which = (size_t)round % (sizeof keys / sizeof *keys);
    block = opaque(malloc(200));
    fill(block, 200, (unsigned char)(round + 1));
    CHECK(pthread_setspecific(keys[which], block) == 0);
}

static void *body(void *argument) {
    (void)argument;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        char *block = opaque(malloc(200));
        fill(block, 200, 1);
        CHECK(pthread_setspecific(keys[i], block) == 0);
    }
    char *returned = opaque(malloc(64));
    fill(returned, 64, 9);
    return returned;
}

int main(void) {
    from_main = opaque(malloc(5000));
    fill(from_main, 5000, 2);
    CHECK(atexit(at_exit_handler) == 0);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        CHECK(pthread_key_create(&keys[i], value_ends) == 0);
    for (int births = 0; births < 300; births++) {
        pthread_t threads[3];
        for (int t = 0; t < 3; t++) CHECK(pthread_create(&threads[t], NULL, body, NULL) == 0);
        for (int t = 0; t < 3; t++) {
            void *returned;
            CHECK(pthread_join(threads[t], &returned) == 0);
            CHECK(filled(returned, 64, 9));
            free(returned);
        }
    }
    return 0;
}
