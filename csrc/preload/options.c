/* options.c - DMI_OPTIONS: "key=value" pairs, separated by commas, read before the first allocation.
 *
 * Nothing here allocates. What cannot be read is named in one line on standard error and left out: a
 * program must start whatever its environment holds.
 */
#define _GNU_SOURCE
#include "preload.h"

#include "../decommit/number.h"
#include "../decommit/pressure.h"
#include "../heap/create.h"
#include "../heap/scavenger.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#define VARIABLE "DMI_OPTIONS"
#define LONGEST 1024
#define WHENS "exit, SIGUSR1, SIGUSR2, SIGHUP, SIGQUIT, SIGURG, SIGWINCH"

dmi_preload_wish _dmi_preload_wish;

static dmi_heap_options chosen = {.size = sizeof chosen};
static dmi_policy policy;
static char text[LONGEST];

/* One line, whatever was in the text. */
__attribute__((format(printf, 1, 2))) static void say(const char *format, ...) {
    static const char head[] = "dmi: " VARIABLE ": ";
    char line[512];
    size_t length = sizeof head - 1, room = sizeof line - length - 1;
    memcpy(line, head, length);
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(line + length, room, format, arguments);
    va_end(arguments);
    if (n > 0) length += (size_t)n < room ? (size_t)n : room - 1;
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)line[i] < ' ' || line[i] == 0x7f) line[i] = '?';
    line[length++] = '\n';
    _dmi_os_message(line, length);
}

static void complain(const char *what, const char *word, const char *accepted) {
    say("%s '%.200s'; accepted: %s", what, word, accepted);
}

/* ---- keys --------------------------------------------------------------------------------------------- */

static bool set_decommit(const char *value) {
    char error[256];
    dmi_policy read = {.size = sizeof read};
    if (dmi_policy_parse(value, &read, error, sizeof error)) {
        say("decommit: %s", error);
    } else if (_dmi_policy_probe(&read)) {
        say("decommit: " DMI_NO_PRESSURE "; %s is used",
            chosen.policy ? "the one before it" : "lazy");
    } else {
        policy = read;
        chosen.policy = &policy;
        _dmi_preload_wish.policy = true;
    }
    return true; /* all is said */
}

static bool set_name(const char *value) {
    chosen.name = value;
    return true;
}

static const struct {
    const char *name;
    int number;
} signals[] = {{"SIGUSR1", SIGUSR1}, {"SIGUSR2", SIGUSR2}, {"SIGHUP", SIGHUP},
               {"SIGQUIT", SIGQUIT}, {"SIGURG", SIGURG},   {"SIGWINCH", SIGWINCH}};

/* 0 when it is the name of no signal that may be asked with. */
static int signal_of(const char *value) {
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++)
        if (!strcmp(value, signals[i].name)) return signals[i].number;
    return 0;
}

static bool set_summary(const char *value) {
    if (!strcmp(value, "exit")) {
        _dmi_preload_wish.at_exit = true;
        return true;
    }
    int number = signal_of(value);
    if (number) _dmi_preload_wish.signal = number;
    return number != 0;
}

/* The parts behind FILE, taken apart in place: the next word, of at most size - 1 bytes. False: too long. */
static bool next_word(char **rest, char *word, size_t size) {
    *(*rest)++ = 0;
    char *part = *rest;
    *rest = strchr(part, ':');
    size_t length = *rest ? (size_t)(*rest - part) : strlen(part);
    if (length >= size) return false;
    memcpy(word, part, length);
    word[length] = 0;
    return true;
}

static bool number_of(const char *digits, long most, long *value) {
    char *end;
    if (*digits < '1' || *digits > '9') return false;
    errno = 0;
    *value = strtol(digits, &end, 10);
    return !*end && !errno && *value <= most;
}

/* at=WHEN, only=PID: what snapshots and profiles have in common. */
static bool set_moment(const char *word, bool *at_exit, int *signal, long *only) {
    if (!strcmp(word, "at=exit")) *at_exit = true;
    else if (!strncmp(word, "at=", 3) && signal_of(word + 3)) *signal = signal_of(word + 3);
    else return !strncmp(word, "only=", 5) && number_of(word + 5, LONG_MAX, only);
    return true;
}

static bool is_pattern(const char *file) {
    for (const char *at = file; (at = strchr(at, '%')); at += 2)
        if (at[1] != 'p' && at[1] != 'n' && at[1] != '%') return false;
    return *file != 0;
}

/* FILE[:blocks][:at=WHEN]...[:only=PID] */
static bool set_snapshot(const char *value) {
    dmi_preload_wish *wish = &_dmi_preload_wish;
    char *file = text + (value - text), *rest = strchr(file, ':'), word[32];
    memset(&wish->snapshot, 0, sizeof wish->snapshot);
    while (rest) {
        if (!next_word(&rest, word, sizeof word)) return false;
        if (!strcmp(word, "blocks")) wish->snapshot.blocks = true;
        else if (!set_moment(word, &wish->snapshot.at_exit, &wish->snapshot.signal,
                             &wish->snapshot.only))
            return false;
    }
    if (!is_pattern(file)) return false;
    if (!wish->snapshot.signal) wish->snapshot.at_exit = true;
    wish->snapshot.file = file;
    return true;
}

/* FILE[:sample=N][:cost=PPM][:at=WHEN]...[:only=PID] */
static bool set_profile(const char *value) {
    dmi_preload_wish *wish = &_dmi_preload_wish;
    char *file = text + (value - text), *rest = strchr(file, ':'), word[32];
    long sample = 0, cost = 0;
    memset(&wish->profile, 0, sizeof wish->profile);
    while (rest) {
        if (!next_word(&rest, word, sizeof word)) return false;
        if (!strncmp(word, "sample=", 7)) {
            if (!number_of(word + 7, 1L << 20, &sample)) return false;
        } else if (!strcmp(word, "cost=off")) {
            cost = UINT32_MAX;
        } else if (!strncmp(word, "cost=", 5)) {
            if (!number_of(word + 5, 1000000, &cost)) return false;
        } else if (!set_moment(word, &wish->profile.at_exit, &wish->profile.signal,
                               &wish->profile.only)) {
            return false;
        }
    }
    if (!is_pattern(file)) return false;
    if (!wish->profile.signal) wish->profile.at_exit = true;
    wish->profile.one_in = (uint32_t)sample;
    wish->profile.most_ppm = (uint32_t)cost;
    wish->profile.file = file;
    return true;
}

static bool read_switch(const char *value, bool *on) {
    *on = !strcmp(value, "on");
    return *on || !strcmp(value, "off");
}

static bool set_scavenger(const char *value) {
    bool on;
    if (!read_switch(value, &on)) return false;
    if (!on) _dmi_scavenger_forbid();
    return true;
}

static bool set_flag(const char *value, uint32_t flag) {
    bool on;
    if (!read_switch(value, &on)) return false;
    chosen.flags = on ? chosen.flags | flag : chosen.flags & ~flag;
    return true;
}
static bool set_hardened(const char *value) { return set_flag(value, DMI_HEAP_HARDENED); }
static bool set_zero(const char *value) { return set_flag(value, DMI_HEAP_ZERO); }
static bool set_huge(const char *value) { return set_flag(value, DMI_HEAP_HUGE_PAGES); }

/* Plugins find our malloc unless the program's own wish is kept (deepbind.c). */
static bool set_deepbind(const char *value) {
    bool keep = !strcmp(value, "keep");
    _dmi_preload_dlopen_mask = keep ? UINT32_MAX : ~(uint32_t)RTLD_DEEPBIND;
    return keep || !strcmp(value, "strip");
}

static bool set_huge_split(const char *value) {
    double share;
    if (!_dmi_number_read(value, strlen(value), &share) || !(share > 0 && share <= 1)) return false;
    chosen.huge_split = share;
    return true;
}

static bool set_guard(const char *value) {
    uint64_t every = 0;
    for (const char *at = value; *at; at++) {
        if (*at < '0' || *at > '9' || every > DMI_GUARD_MOST) return false;
        every = every * 10 + (uint64_t)(*at - '0');
    }
    if (every > DMI_GUARD_MOST) return false;
    chosen.guard = every;
    return true;
}

static const struct {
    const char *name, *accepted;
    bool (*set)(const char *value);
} keys[] = {
    {"decommit", "a policy, such as lazy:delay=0.5", set_decommit},
    {"name", "any text without a comma", set_name},
    {"summary", WHENS, set_summary},
    {"snapshot",
     "FILE (%p process, %n number, %% percent), then :blocks, :at=WHEN, :only=PID; WHEN is one "
     "of " WHENS,
     set_snapshot},
    {"profile",
     "FILE (%p process, %n number, %% percent), then :sample=N (1 to 1048576), :cost=PPM (of the "
     "time, 1 to 1000000, or off), :at=WHEN, :only=PID; WHEN is one of " WHENS,
     set_profile},
    {"deepbind", "strip, keep", set_deepbind},
    {"scavenger", "on, off", set_scavenger},
    {"hardened", "on, off", set_hardened},
    {"zero", "on, off", set_zero},
    {"guard", "a number up to 1000000000: one block in so many; 0: none", set_guard},
    {"huge", "on, off", set_huge},
    {"huge_split", "a fraction above 0, up to 1", set_huge_split},
};
#define KEY_NAMES                                                                                  \
    "decommit, name, summary, scavenger, hardened, zero, guard, huge, huge_split, snapshot, "      \
    "profile, "                                                                                    \
    "deepbind"

/* Takes the pair apart in place. */
static void apply(char *pair) {
    char *value = strchr(pair, '=');
    if (value) *value++ = 0;
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        if (strcmp(pair, keys[i].name)) continue;
        if (!value || !*value) complain("no value for", pair, keys[i].accepted);
        else if (!keys[i].set(value)) complain("unknown value", value, keys[i].accepted);
        return;
    }
    complain("unknown option", pair, KEY_NAMES);
}

/* ---- where the text comes from ------------------------------------------------------------------------- */

/* The dynamic loader allocates before the C library knows its environment; the kernel does. */
static void read_from_kernel(void) {
    int file = open("/proc/self/environ", O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    static const char wanted[] = VARIABLE "=";
    char piece[512];
    size_t matched = 0, length = 0; /* of the name; of the value */
    bool skip = false, inside = false;
    for (;;) {
        ssize_t n = read(file, piece, sizeof piece);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) break;
        for (ssize_t i = 0; i < n; i++) {
            char c = piece[i];
            if (inside) {
                if (length < LONGEST) text[length++] = c;
                if (c == 0) goto found;
            } else if (c == 0) {
                matched = 0;
                skip = false;
            } else if (!skip && c == wanted[matched]) {
                inside = ++matched == sizeof wanted - 1;
            } else {
                skip = true;
            }
        }
    }
found:
    if (length == LONGEST) text[LONGEST - 1] = 0;
    (void)close(file);
}

extern char **environ;

static void read_text(void) {
    /* A program with more rights than its caller (setuid) must not write where the caller says. */
    if (getauxval(AT_SECURE)) return;
    if (!environ) {
        read_from_kernel();
        return;
    }
    const char *value = getenv(VARIABLE);
    if (!value) return;
    size_t length = strlen(value);
    if (length >= LONGEST) {
        complain("too long, the rest is not read:", value, "1023 bytes");
        length = LONGEST - 1;
    }
    memcpy(text, value, length);
}

void _dmi_preload_read_options(void) {
    static dmi_lock lock;
    static _Atomic bool
        done; /* read without the lock: in a fork child nobody may be left to open it */
    if (atomic_load_explicit(&done, memory_order_acquire)) return;
    _dmi_lock(&lock);
    if (!atomic_load_explicit(&done, memory_order_relaxed)) {
        int saved = errno;
        read_text();
        char *rest = text;
        while (*rest) {
            char *pair = rest;
            rest += strcspn(rest, ",");
            if (*rest) *rest++ = 0;
            if (*pair) apply(pair);
        }
        _dmi_set_default_options(&chosen);
        atomic_store_explicit(&done, true, memory_order_release);
        errno = saved;
    }
    _dmi_unlock(&lock);
}
