/* end_of_main.c - the profile of a program before its exit handlers and the destructors of its globals run.
 *
 * A destructor of this library runs after both, and what C++ keeps in globals is free by then: a profile that is
 * written there shows none of it. So main is called through a function of ours where a profile is to be written at exit,
 * and exit is looked at. Whoever gets past both (the last thread ends by pthread_exit) has the destructor.
 */
#define _GNU_SOURCE
#include "preload.h"

#include "../os/os.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static _Atomic bool written;
bool _dmi_preload_main_ended(void) { return atomic_load_explicit(&written, memory_order_relaxed); }

static bool is_wanted(void) {
    return _dmi_preload_wish.profile.file && _dmi_preload_wish.profile.at_exit &&
           !_dmi_preload_python_ended();
}

static void write_once(void) {
    int saved = errno;
    if (is_wanted() && !atomic_exchange_explicit(&written, true, memory_order_relaxed))
        _dmi_preload_write(DMI_ASKED_PROFILE, "at exit");
    errno = saved;
}

static void find_next(const char *name, void *to, size_t size) {
    void *next = dlsym(RTLD_NEXT, name);
    memcpy(to, &next, size);
    if (next) return;
    static const char none[] = "dmi: libdmi_malloc.so finds no C library behind itself\n";
    _dmi_os_message(none, sizeof none - 1);
    _exit(127);
}

DMI_DOOR void exit(int status) {
    void (*next)(int) __attribute__((noreturn));
    write_once();
    find_next("exit", &next, sizeof next);
    next(status);
}

typedef int main_function(int, char **, char **);
static main_function *program;

static int main_of_program(int count, char **words, char **environment) {
    int status = program(count, words, environment);
    write_once();
    return status;
}

int __libc_start_main(main_function *, int, char **, void (*)(void), void (*)(void), void (*)(void),
                      void *);
DMI_DOOR int __libc_start_main(main_function *begin, int count, char **words, void (*init)(void),
                               void (*fini)(void), void (*loader)(void), void *stack) {
    int (*next)(main_function *, int, char **, void (*)(void), void (*)(void), void (*)(void),
                void *);
    find_next("__libc_start_main", &next, sizeof next);
    program = begin;
    return next(is_wanted() ? main_of_program : begin, count, words, init, fini, loader, stack);
}
